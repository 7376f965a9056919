"""gevent's loop: listeners, connections, the greenlet pool and timeouts. Knows bytes, and of protocols TLS alone."""

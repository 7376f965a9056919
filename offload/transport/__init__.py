"""gevent's loop: listeners, connections, the greenlet pool and timeouts. Knows bytes, not protocols."""

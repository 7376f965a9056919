"""Patched for gevent before anything else, with a driver of a database that is made to yield in each worker."""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
from threading import Lock  # noqa: E402

_lock = Lock()
workers = 1
worker_class = "gevent"
worker_connections = 256
statsd_host = os.getenv("STATSD_HOST")
keepalive = 32
concurrent_requests = 0


def post_fork(server, worker):
    from gevent import socket

    worker.log.info("the driver waits by %s", socket.wait_read.__name__)


def pre_request(worker, req):
    global concurrent_requests
    with _lock:
        concurrent_requests += 1


def post_request(worker, req, environ):
    global concurrent_requests
    with _lock:
        concurrent_requests -= 1

"""The application imported before the fork, connections closed around it, and requests that are timed."""

import gc
import os
import random
import time

preload_app = True
workers = 2
max_requests = 1000
max_requests_jitter = 50
started = {}


def pre_fork(server, worker):
    gc.freeze()


def post_fork(server, worker):
    random.seed(os.urandom(16))
    worker.log.info("worker %d closes what it inherited", worker.pid)


def pre_request(worker, req):
    started[req] = time.monotonic()


def post_request(worker, req, environ, resp):
    seconds = time.monotonic() - started.pop(req, time.monotonic())
    worker.log.info("%s %s took %.3f s", req.method, environ["PATH_INFO"], seconds)

"""Every hook, each with a line in the log, and what such lines tell of server, worker and request."""

import time

workers = 1
timeout = 120
reload = False


def on_starting(server):
    server.log.info("on_starting: %d workers at %s", workers, server.cfg.bind)


def when_ready(server):
    server.log.info("when_ready: listening at %s", server.address)


def on_reload(server):
    server.log.info("on_reload")


def pre_fork(server, worker):
    server.log.info("pre_fork: worker %s", worker.age)


def post_fork(server, worker):
    worker.started = time.time()
    server.log.info("post_fork: worker spawned (pid: %s)", worker.pid)


def post_worker_init(worker):
    worker.log.info("post_worker_init: %s has %s", worker.pid, worker.wsgi)


def pre_request(worker, req):
    worker.log.debug("%s %s", req.method, req.path)


def post_request(worker, req, environ, resp):
    worker.log.info("post_request: %s %s", req.path, resp.status)


def worker_int(worker):
    worker.log.info("worker_int: alive for %d s", time.time() - worker.started)


def worker_abort(worker):
    worker.log.warning("worker_abort: %s", worker.pid)


def worker_exit(server, worker):
    server.log.info("worker_exit: %s (requests: %d)", worker.pid, getattr(worker, "nr", 0))


def child_exit(server, worker):
    server.log.info("child_exit: %s", worker.pid)


def nworkers_changed(server, new_value, old_value):
    server.log.info("nworkers_changed: %s to %s", old_value, new_value)


def pre_exec(server):
    server.log.info("pre_exec")


def on_exit(server):
    server.log.info("on_exit")

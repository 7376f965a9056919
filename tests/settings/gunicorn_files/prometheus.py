"""Prometheus in several processes: files of each, begun anew at the start, and taken away when one ends."""

import os
import shutil
import tempfile

DIRECTORY = os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="prometheus-"))

from prometheus_client import multiprocess  # noqa: E402

workers = 2
worker_class = "gevent"
raw_env = [f"PROMETHEUS_MULTIPROC_DIR={DIRECTORY}"]


def on_starting(server):
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    os.makedirs(DIRECTORY)


def child_exit(_server, worker):
    multiprocess.mark_process_dead(worker.pid)


def on_exit(server):
    shutil.rmtree(DIRECTORY, ignore_errors=True)

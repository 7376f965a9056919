"""The file of a base image: numbers by core and variable, and what came of them printed."""

import json
import multiprocessing
import os

workers_per_core_str = os.getenv("WORKERS_PER_CORE", "1")
max_workers_str = os.getenv("MAX_WORKERS", "2")
use_max_workers = int(max_workers_str) if max_workers_str else None
host = os.getenv("HOST", "0.0.0.0")
port = os.getenv("PORT", "80")
use_bind = os.getenv("BIND") or f"{host}:{port}"
cores = multiprocessing.cpu_count()
web_concurrency = max(int(float(workers_per_core_str) * cores), 2)
if use_max_workers:
    web_concurrency = min(web_concurrency, use_max_workers)

loglevel = os.getenv("LOG_LEVEL", "info")
workers = web_concurrency
bind = use_bind
errorlog = os.getenv("ERROR_LOG", "-") or None
accesslog = os.getenv("ACCESS_LOG", "-") or None
worker_tmp_dir = "/dev/shm"
graceful_timeout = int(os.getenv("GRACEFUL_TIMEOUT", "120"))
timeout = int(os.getenv("TIMEOUT", "120"))
keepalive = int(os.getenv("KEEP_ALIVE", "5"))

log_data = {"loglevel": loglevel, "workers": workers, "bind": bind, "host": host, "port": port}
print(json.dumps(log_data))  # noqa: T201

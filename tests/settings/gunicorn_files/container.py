"""For a container: computed from its variables, threads, and a file system that is read-only."""

import multiprocessing
import os

bind = f"0.0.0.0:{os.getenv('PORT', '8080')}"
workers = int(os.getenv("SHOP_WORKERS", min(multiprocessing.cpu_count(), 2)))
threads = int(os.getenv("SHOP_THREADS", "4"))
worker_class = "gthread"
worker_tmp_dir = "/dev/shm"
timeout = 30
graceful_timeout = 25
keepalive = 5
max_requests = 2000
max_requests_jitter = 200
accesslog = None
errorlog = "-"
loglevel = os.getenv("LOG_LEVEL", "info").lower()
control_socket_disable = True

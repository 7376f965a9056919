"""Files in the shapes that public projects give their gunicorn.conf.py start offload as they are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.serving import ROOT, Server

FILES = sorted((Path(__file__).parent / "gunicorn_files").glob("*.py"))
IGNORED = "gunicorn.conf.py: not settings, and ignored: "
REMARKS = {
    "container": [
        "threads = 4 in gunicorn.conf.py has no effect: "
        "requests run in greenlets, up to --pool-size of them in each process",
        "worker_class = 'gthread' in gunicorn.conf.py has no effect: "
        "requests run in greenlets, as under gunicorn's gevent workers",
    ],
    "gevent_first": [f"{IGNORED}concurrent_requests"],
    "image": [
        f"{IGNORED}workers_per_core_str, max_workers_str, use_max_workers, host, port, use_bind, cores, "
        "web_concurrency, log_data"
    ],
    "preloaded": [f"{IGNORED}started"],
    "project_settings": [f"{IGNORED}GUNICORN, WORKERS (did you mean workers?), ssl_session_tickets"],
    "prometheus": [f"{IGNORED}DIRECTORY"],
}
"""At the start, of those that have anything without effect."""
APP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2"), ("Connection", "close")])
    return [b"up"]
"""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file_of_gunicorns_starts_offload(file: Path, tmp_path: Path) -> None:
    shutil.copy(file, tmp_path / "gunicorn.conf.py")
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "shop_settings.py").write_text("GUNICORN = {'workers': 1}\n")
    # Their configurations send the log elsewhere than to stderr, where this would wait for its lines.
    elsewhere = ["--error-logfile", "unused.log"] if file.stem in ("logger_class", "logging_dict") else []
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PORT": "8000"}
    server = Server("shop", "--log-level", "info", *elsewhere, cwd=tmp_path, env=env)
    try:
        assert server.ask(b"GET /shelf HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nup")
    finally:
        assert server.stop() == 0, server.log
    if not elsewhere:
        assert re.findall(r"\[WARNING\] (.*)", server.log) == REMARKS.get(file.stem, [])
    assert "Traceback" not in server.log

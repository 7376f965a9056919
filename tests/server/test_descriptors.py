"""The limit of open files: raised at the start, and said where it is too low; a full table is summed up in the log."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from pathlib import Path

from tests.server.children import start
from tests.serving import DEADLINE

APP = """
import resource

def application(environ, start_response):
    body = repr(resource.getrlimit(resource.RLIMIT_NOFILE)).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def test_the_soft_limit_is_raised_to_the_hard_one_and_said_where_that_is_too_low(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    server = start(tmp_path)
    try:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        assert server.ask(b"GET / HTTP/1.0\r\n\r\n").endswith(repr((hard, hard)).encode())
        # Nobody has asked for as many as the default.
        assert "may open" not in server.log
    finally:
        assert server.stop() == 0
    run = subprocess.run(
        ["sh", "-c", 'ulimit -n 500; exec "$0" -m offload missing --worker-connections 1000 -b :0', sys.executable],
        cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert (
        "a process may open 500 files, so it holds fewer connections than --worker-connections 1000; raise the hard "
        "limit (ulimit -Hn, LimitNOFILE= of systemd), or lower the option\n"
    ) in run.stderr


def test_a_full_table_of_descriptors_is_told_of_once_and_connections_wait(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        f"{APP}\nresource.setrlimit(resource.RLIMIT_NOFILE, (60, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
    )
    server = start(tmp_path, "--header-timeout", "3")
    try:
        with contextlib.ExitStack() as idle:
            for _ in range(80):
                idle.enter_context(server.connect())
            server.wait_for(r"accepting pauses for 0\.5 s: .*Too many open files")
            # It goes on when those without a request have been sent away.
            assert b"200 OK" in server.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert server.log.count("accepting pauses") == 1
    finally:
        assert server.stop() == 0

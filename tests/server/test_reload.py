"""A reload that meets processes on their way to serve: whoever was forked before it gives way to the code of now."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.server.children import HANGING_IMPORT, start, wait_gone
from tests.serving import DEADLINE, Server

APP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "3")])
    return [b"new"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    os.mkfifo(tmp_path / "importing")
    return tmp_path


def hang_next(project: Path) -> None:
    (project / "shop.py").write_text(HANGING_IMPORT)


def hanging(project: Path) -> int:
    """The process that imports what never ends; from now on there is good code."""
    pid = int((project / "importing").read_text())
    (project / "shop.py").write_text(APP)
    return pid


def test_reload_starts_over_when_a_replacement_hangs_in_its_import(project: Path) -> None:
    server = start(project)
    try:
        hang_next(project)
        server.signal(signal.SIGHUP)
        stuck = hanging(project)
        server.signal(signal.SIGHUP)
        server.wait_for(f"server process {stuck} was not ready yet; starting another in its place")
        server.wait_for(f"server process {server.pids[0]} was replaced and ended with status 0")
        wait_gone(stuck)
        assert server.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").endswith(b"new")
        assert len(server.pids) == 2
    finally:
        assert server.stop() == 0, server.log


def test_reload_takes_a_process_that_was_started_again_and_boots(project: Path) -> None:
    server = start(project)
    try:
        hang_next(project)
        os.kill(server.pids[0], signal.SIGKILL)
        stuck = hanging(project)
        server.signal(signal.SIGHUP)
        server.wait_for(f"server process {stuck} was replaced and was killed by SIGTERM")
        server.wait_for(r"server process \d+ is ready", times=2)
        assert server.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").endswith(b"new")
    finally:
        assert server.stop() == 0, server.log


def test_reload_takes_the_first_process_while_it_boots(project: Path) -> None:
    hang_next(project)
    started: list[Server] = []
    starter = threading.Thread(target=lambda: started.append(start(project, "--pid", "offload.pid")))
    starter.start()
    stuck = hanging(project)
    os.kill(int((project / "offload.pid").read_text()), signal.SIGHUP)
    starter.join(DEADLINE)
    (server,) = started
    try:
        wait_gone(stuck)
        assert stuck not in server.pids
        assert server.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").endswith(b"new")
    finally:
        assert server.stop() == 0, server.log

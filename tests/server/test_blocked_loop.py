"""A task that holds the loop: the log tells of it with its stack, and --timeout ends the process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.server.children import start, wait_gone
from tests.serving import DEADLINE, Server

APP = """
import multiprocessing, os, time
from gevent.monkey import get_original

def hold_the_loop(seconds):
    get_original("time", "sleep")(seconds)

def use_a_pool():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.map(str, range(3))

def application(environ, start_response):
    path, seconds = environ["PATH_INFO"], float(environ["QUERY_STRING"] or 0)
    if path == "/hold":
        hold_the_loop(seconds)
    elif path == "/pool":
        use_a_pool()
    elif path == "/wait":
        time.sleep(seconds)
    elif path == "/spin":
        while True:
            pass
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def get(server: Server, path: str) -> bytes:
    with urllib.request.urlopen(server.url(path), timeout=DEADLINE) as answer:
        return bytes(answer.read())


@pytest.mark.chaos("R10: a blocked loop is told of")
def test_a_held_loop_is_told_of_with_its_stack_and_again_with_doubling_pauses(project: Path) -> None:
    server = start(project, "--blocked-after", "0.5")
    try:
        (pid,) = server.pids
        get(server, "/wait?0.8")
        assert "held" not in server.log
        get(server, "/hold?2.5")
        told = re.findall(rf"\[WARNING\] server process {pid}: a task has held its loop for (\d\.\d) s:\n", server.log)
        assert 2 <= len(told) <= 4
        assert [float(seconds) for seconds in told] == sorted({float(seconds) for seconds in told})
        assert re.search(r'  File ".*shop\.py", line \d+, in hold_the_loop\n', server.log)
        # The next task is told of anew.
        get(server, "/hold?1.2")
        server.wait_for(r"has held its loop for 0\.\d s:\n", times=2)
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("path", ["/spin", "/pool"])
@pytest.mark.chaos("R10: a stuck process is replaced")
def test_a_process_whose_loop_is_stuck_is_killed_when_its_stack_is_in_the_log(project: Path, path: str) -> None:
    server = start(project, "--timeout", "1", "--blocked-after", "0.2")
    try:
        (pid,) = server.pids
        with server.connect() as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            server.wait_for(r"has held its loop")
            # Processes of a pool outlast their parent.
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
            server.wait_for(
                rf"\[CRITICAL\] server process {pid}: a task has held its loop for 1 s \(--timeout\); it is killed"
            )
            wait_gone(pid)
        told = r"a task has held its loop for \d\.\d s:\n(  .*\n)*  .*(shop|multiprocessing)"
        assert re.search(told, server.log)
        server.wait_for(rf"server process {pid} was killed by SIGKILL; starting another")
        server.wait_for(r"server process \d+ is ready", times=2)
        assert get(server, "/") == b"ok"
    finally:
        assert server.stop() == 0


@pytest.mark.chaos("R10: a busy process is left alone")
def test_a_process_that_is_busy_with_long_requests_is_left_alone(project: Path) -> None:
    server = start(project, "--timeout", "1")
    try:
        assert get(server, "/wait?2.5") == b"ok"
        assert len(server.pids) == 1
        # Nor is one that was stopped together with its supervisor.
        for pid in (server.process.pid, *server.pids):
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(2)
        for pid in (*server.pids, server.process.pid):
            os.kill(pid, signal.SIGCONT)
        assert get(server, "/") == b"ok"
        assert "it is killed" not in server.log
    finally:
        assert server.stop() == 0

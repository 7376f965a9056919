"""What cannot be started, or not again: pauses, limits of the machine, and hubs that cannot be."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from offload.server.restarts import Restarts
from tests.server.children import wait_gone
from tests.serving import DEADLINE, ROOT, Server

APP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"up"]
"""
BROKEN = "raise RuntimeError('broken since the last deployment')"
# What the kernel says where the user, or the cgroup, has as many processes as it may have.
NO_FORK = """
import errno
import os

def fork():
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

os.fork = fork
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def start(project: Path, *arguments: str) -> Server:
    env = {"PYTHONPATH": f"{project}:{ROOT}", "OFFLOAD_RUNTIME_DIR": str(project / "run")}
    return Server("shop", *(arguments or ("--layer", "memory://")), cwd=project, env=env)


def is_served(server: Server) -> bool:
    return server.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").endswith(b"up")


def forbid_descriptors(server: Server) -> tuple[int, int]:
    """The supervisor may open nothing more; what it might before."""
    _, hard = before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    # The three that every process has; what is open already stays.
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, hard))
    return before


def test_reload_that_cannot_start_processes_leaves_the_old_ones_serving(project: Path) -> None:
    server = start(project)
    try:
        before = forbid_descriptors(server)
        server.signal(signal.SIGHUP)
        server.wait_for("not reloaded, the old server processes go on: no other can be started: Too many open files")
        assert is_served(server)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
        server.signal(signal.SIGHUP)
        server.wait_for("was replaced and ended with status 0")
        assert is_served(server)
    finally:
        assert server.stop() == 0, server.log


def test_process_that_cannot_be_started_again_is_tried_with_pauses(project: Path) -> None:
    server = start(project)
    try:
        before = forbid_descriptors(server)
        os.kill(server.pids[0], signal.SIGKILL)
        server.wait_for(r"no server process can be started: Too many open files; trying again in 0\.5 s")
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
        server.wait_for(r"server process \d+ is ready", times=2)
        assert is_served(server)
    finally:
        assert server.stop() == 0, server.log


def test_server_that_may_not_fork_at_all_says_so(project: Path) -> None:
    (project / "sitecustomize.py").write_text(NO_FORK)
    found = subprocess.run(
        [sys.executable, "-m", "offload", "shop", "--layer", "memory://", "-b", "127.0.0.1:0"],
        cwd=project, env={**os.environ, "PYTHONPATH": f"{project}:{ROOT}"}, capture_output=True, text=True,
        timeout=DEADLINE,
    )  # fmt: skip
    assert found.returncode == 3
    assert found.stderr.splitlines()[-1] == (f"offload: error: the server process cannot be started: {os.strerror(11)}")
    assert "Traceback" not in found.stderr


def test_pauses_grow_by_the_age_at_the_end_whether_it_was_ready_or_not() -> None:
    restarts = Restarts()
    ready = [restarts.pause_after(0, 0.1, was_ready=True) for _ in range(9)]
    assert ready == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert [restarts.pause_after(1, 0.1, was_ready=False) for _ in range(3)] == [0.5, 1.0, 2.0]
    assert restarts.pause_after(0, 6.0, was_ready=True) == 0.0
    assert [restarts.pause_after(0, 0.1, was_ready=True) for _ in range(2)] == [0.0, 0.5]
    restarts.hurry()
    assert restarts.pause_after(1, 0.1, was_ready=False) == 0.5


def test_reload_does_not_wait_for_the_pauses_of_the_code_before(project: Path) -> None:
    server = start(project)
    try:
        (project / "shop.py").write_text(BROKEN)
        os.kill(server.pids[0], signal.SIGKILL)
        server.wait_for(f"{BROKEN[20:-2]}.*; starting another", times=4)
        failed = time.monotonic()
        (project / "shop.py").write_text(APP)
        server.signal(signal.SIGHUP)
        server.wait_for(r"server process \d+ is ready", times=2)
        # The fourth pause is four seconds.
        assert time.monotonic() - failed < 3.9
    finally:
        assert server.stop() == 0, server.log


def test_hub_that_cannot_be_ends_the_start_with_its_own_sentence(project: Path) -> None:
    with pytest.raises(AssertionError) as failed:
        Server("shop", "--layer", "ipc:", cwd=project, env={"OFFLOAD_RUNTIME_DIR": "/proc/nothing"})
    log = str(failed.value)
    assert re.search(
        r"\noffload: error: there is no hub: directory '/proc/nothing' of the hub's socket cannot be m", log
    )
    assert "starting another" not in log


def test_hub_that_cannot_be_any_more_is_started_by_the_next_reload(project: Path) -> None:
    server = start(project, "--layer", "ipc:")
    try:
        hub = int(server.wait_for(r"\[(\d+)\] \[INFO\] hub: serving")[1])
        (project / "run").chmod(0o755)
        os.kill(hub, signal.SIGKILL)
        wait_gone(hub)
        server.wait_for(r"there is no hub: directory '\S+/run' of the hub's socket has mode 0755, .* \(SIGHUP\)")
        assert is_served(server)
        (project / "run").chmod(0o700)
        server.signal(signal.SIGHUP)
        server.wait_for("hub: serving", times=2)
        server.wait_for("was replaced and ended with status 0")
        assert server.log.count("there is no hub") == 1
    finally:
        assert server.stop() == 0, server.log

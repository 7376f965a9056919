"""The supervisor when things go wrong on either side of a fork: orphans, and processes that hear nothing."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.server.children import HANGING_IMPORT, begin_waiting, start, wait_gone
from tests.serving import DEADLINE, ROOT, Server, serving

APP = """
import os
import socket
import sys
from offload import route

def application(environ, start_response):
    if environ["PATH_INFO"] == "/wait":
        environ["wsgi.input"].read(1)
    elif environ["PATH_INFO"] == "/stuck":
        # In the whole process, loop and all.
        print("stuck", file=sys.stderr, flush=True)
        open("never").close()
    elif environ["PATH_INFO"] == "/deaf":
        close_control()
    start_response("200 OK", [("Content-Length", "0")])
    return []

def close_control():
    # The only Unix socket that a server process has is its end of the pair with the supervisor.
    null = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            found = socket.socket(fileno=number)
        except OSError:
            continue
        family = found.family
        found.detach()
        if family == socket.AF_UNIX:
            # In its place, so that the loop does not take another descriptor for it.
            os.dup2(null, number)

def connect(message):
    message.reply_channel.send({"text": str(os.getpid())})

channel_routing = [route("websocket.connect", connect)]
"""

WAITING_IMPORT = """
import os

with open("importing", "w") as fifo:
    fifo.write(str(os.getpid()))
with open("go") as fifo:
    fifo.read()

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def ask(server: Server, path: str) -> None:
    assert server.ask(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()).startswith(
        b"HTTP/1.1 200"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end by a signal")
def test_an_orphan_does_not_finish_its_import(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(HANGING_IMPORT)
    os.mkfifo(tmp_path / "importing")
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "offload", "slow", "--layer", "memory://", "-b", "127.0.0.1:0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stderr=subprocess.DEVNULL,
    )
    try:
        # Opens, and ends, with the child that is in the midst of its import.
        child = int((tmp_path / "importing").read_text())
    finally:
        supervisor.kill()
        supervisor.wait(DEADLINE)
    wait_gone(child)


def test_a_process_that_serves_is_told_of_its_supervisors_end_and_finishes(project: Path) -> None:
    server = start(project)
    try:
        with server.connect() as sock:
            begin_waiting(sock)
            server.signal(signal.SIGKILL)
            server.wait_for("the supervisor is gone; stopping")
            sock.sendall(b"x")
            assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")
        wait_gone(server.pids[0])
    finally:
        server.stop()


def test_a_retired_process_that_cannot_be_told_is_ended_by_a_signal(project: Path) -> None:
    server = start(project)
    try:
        (old,) = server.pids
        with connect(server.url("/", "ws")) as websocket:
            assert websocket.recv(DEADLINE) == str(old)
            ask(server, "/deaf")
            server.signal(signal.SIGHUP)
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv(DEADLINE)
        # It was not told that another takes its place, so it knows no better than that it stops.
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        server.wait_for(f"server process {old} was replaced and ended with status 0")
        ask(server, "/")
    finally:
        assert server.stop() == 0, server.log
    assert "Traceback" not in server.log


def test_a_process_that_dies_as_its_replacement_becomes_ready_does_no_harm(project: Path) -> None:
    server = start(project)
    try:
        (old,) = server.pids
        for name in ("importing", "go"):
            os.mkfifo(project / name)
        (project / "shop.py").write_text(WAITING_IMPORT)
        server.signal(signal.SIGHUP)
        new = int((project / "importing").read_text())
        # Both things happen before the supervisor looks again.
        server.signal(signal.SIGSTOP)
        os.kill(old, signal.SIGKILL)
        wait_gone(old)
        (project / "go").write_text("")
        ask(server, "/")
        server.signal(signal.SIGCONT)
        server.wait_for(f"server process {new} is ready")
        server.wait_for(f"server process {old} (was killed by SIGKILL|was replaced)")
        ask(server, "/")
    finally:
        server.signal(signal.SIGCONT)
        assert server.stop() == 0, server.log
    assert "Traceback" not in server.log


def test_a_stopping_process_does_not_poll_for_its_end(project: Path) -> None:
    with (
        serving(
            "shop",
            "--layer",
            "memory://",
            "--ws-ping-interval",
            "0",
            cwd=project,
            env={"PYTHONPATH": f"{project}:{ROOT}"},
        ) as server,
        server.connect() as sock,
    ):
        begin_waiting(sock)
        server.signal(signal.SIGTERM)
        server.wait_for("stopping: SIGTERM")
        status = Path(f"/proc/{server.pids[0]}/status")
        before = _switches(status)
        # Nothing comes, and meanwhile the process sleeps.
        sock.settimeout(1.0)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        assert _switches(status) - before < 15
        sock.settimeout(DEADLINE)
        sock.sendall(b"x")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")
        asked = time.monotonic()
        assert server.wait() == 0
        assert time.monotonic() - asked < 5


def _switches(status: Path) -> int:
    """How often the process went to sleep."""
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt_switches")]
    return int(line.split()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_does_not_end_is_killed_after_the_kill_timeout(project: Path, number: int) -> None:
    os.mkfifo(project / "never")
    server = start(project, "--graceful-timeout", "0", "--kill-timeout", "2")
    try:
        (stuck,) = server.pids
        with server.connect() as sock:
            sock.sendall(b"GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n")
            server.wait_for("stuck\n")
            began = time.monotonic()
            server.signal(number)
            server.wait_for(
                rf"\[WARNING\] server process {stuck} still runs 2 s past its time \(--kill-timeout\); it is killed"
            )
            assert time.monotonic() - began >= 2
            wait_gone(stuck)
        if number == signal.SIGTERM:
            assert server.wait() == 0
        else:
            server.wait_for(f"server process {stuck} was replaced and was killed by SIGKILL")
            ask(server, "/")
    finally:
        assert server.stop() == 0, server.log
    assert server.log.count("it is killed") == 1


def test_a_killed_supervisor_leaves_its_port_at_once_while_its_processes_finish(project: Path) -> None:
    server = start(project)
    try:
        with server.connect() as sock:
            begin_waiting(sock)
            server.signal(signal.SIGKILL)
            server.process.wait(DEADLINE)
            deadline = time.monotonic() + DEADLINE
            while True:
                try:
                    socket.create_server(("127.0.0.1", server.port)).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, "the port is still taken"
                    select.select([], [], [], 0.02)
            # The request that ran is finished all the same.
            sock.sendall(b"x")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK")
        wait_gone(server.pids[0])
    finally:
        server.stop()

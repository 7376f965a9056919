"""Readiness: a server tells whoever started it, whatever it writes into its log."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from offload.server.service import ServiceManager
from tests.serving import DEADLINE, ROOT, Server, read_all

ECHO = "examples.echo.app"


@pytest.mark.parametrize("level", ["warning", "error", "CRITICAL"])
def test_a_server_that_logs_nothing_is_known_to_be_ready(level: str) -> None:
    server = Server(ECHO, "--log-level", level, workers=2)
    try:
        with server.connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert read_all(sock).startswith(b"HTTP/1.1 200 OK")
    finally:
        assert server.stop() == 0
    assert server.log == ""


def test_the_log_level_may_be_written_in_upper_case() -> None:
    server = Server(ECHO, "--log-level", "INFO")
    assert server.stop() == 0
    assert f"server process {server.pids[0]} is ready" in server.log


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told_when_all_are_ready_and_when_they_stop(tmp_path: Path, abstract: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(DEADLINE)
        manager.bind("" if abstract else str(tmp_path / "notify"))
        name = f"@{manager.getsockname()[1:].decode()}" if abstract else str(tmp_path / "notify")
        process = start(name, "-b", f"unix:{tmp_path}/http", "-w", "2")
        try:
            assert manager.recv(1000).decode() == f"READY=1\nSTATUS=running {ECHO} at unix:{tmp_path}/http, -w 2"
        finally:
            process.terminate()
            _, log = process.communicate(timeout=DEADLINE)
        assert manager.recv(1000) == b"STOPPING=1"
    assert process.returncode == 0
    assert log.count("is ready") == 2


def start(manager: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "offload", ECHO, "--layer", "memory://", *options]
    environ = {**os.environ, "NOTIFY_SOCKET": manager}
    return subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)


def test_processes_stop_while_the_service_manager_does_not_read(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    unix = (socket.AF_UNIX, socket.SOCK_DGRAM)
    with socket.socket(*unix) as manager, socket.socket(*unix) as others:
        manager.settimeout(DEADLINE)
        manager.bind(path)
        process = start(path, "-b", f"unix:{tmp_path}/http")
        try:
            assert manager.recv(1000).startswith(b"READY=1\n")
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            others.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    others.sendto(b"from others", path)
            end = os.pidfd_open(int(child))
            try:
                process.terminate()
                assert select.select([end], [], [], DEADLINE)[0], "the server process has ended"
            finally:
                os.close(end)
            while manager.recv(1000) != b"STOPPING=1":
                pass
            _, log = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    # It was told in time, after the process had ended.
    assert "was not told" not in log


def test_words_that_are_no_utf_8_reach_the_service_manager(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(DEADLINE)
        manager.bind(str(tmp_path / "notify"))
        ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")}).tell(STATUS=os.fsdecode(b"at unix:/caf\xe9"))
        assert manager.recv(1000) == b"STATUS=at unix:/caf\xe9"


def test_a_service_manager_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    process = start(str(tmp_path / "nobody"), "-b", "127.0.0.1:0")
    assert process.stderr is not None
    said = next(line for line in process.stderr if "service manager" in line)
    process.terminate()
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert said.endswith(
        f"the service manager at NOTIFY_SOCKET={tmp_path}/nobody was not told READY: No such file or directory\n"
    )

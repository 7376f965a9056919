"""Readiness: a server tells whoever started it, whatever it writes into its log."""

from __future__ import annotations

import fcntl
import itertools
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from offload.server.service import ServiceManager
from tests.server.children import wait_gone
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
    # The example lets everybody in, of which it is warned.
    assert "[INFO]" not in server.log


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


def fill(path: str) -> int:
    """Leave no room in a manager's queue. Returns how many messages it has now."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others:
        others.setblocking(False)
        for number in itertools.count():
            try:
                others.sendto(b"from others", path)
            except BlockingIOError:
                return number
    raise AssertionError("unreachable")


def said(process: subprocess.Popen[str], words: str) -> str:
    """The next line of its log that has these words; without one it is killed when the time is over."""
    assert process.stderr is not None
    timer = threading.Timer(DEADLINE, process.kill)
    timer.start()
    try:
        line = next((line for line in process.stderr if words in line), None)
    finally:
        timer.cancel()
    assert line is not None, f"it did not say {words!r}"
    return line


def test_a_service_manager_that_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(DEADLINE)
        manager.bind(path)
        fill(path)
        process = start(path, "-b", f"unix:{tmp_path}/http")
        try:
            assert said(process, "NOTIFY_SOCKET").endswith(
                f"the service manager at NOTIFY_SOCKET={path} does not read; it is told READY as soon as it does\n"
            )
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(child), signal.SIGKILL)
            said(process, f"server process {child} was killed by SIGKILL; starting another")
            said(process, "is ready")
            while (news := manager.recv(1000)) == b"from others":
                pass
            assert news.startswith(b"READY=1\n")
        finally:
            process.terminate()
            _, log = process.communicate(timeout=DEADLINE)
        assert manager.recv(1000) == b"STOPPING=1"
    assert process.returncode == 0
    assert "NOTIFY_SOCKET" not in log


def test_a_server_ends_while_the_service_manager_does_not_read(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(DEADLINE)
        manager.bind(path)
        process = start(path, "-b", f"unix:{tmp_path}/http")
        try:
            assert manager.recv(1000).startswith(b"READY=1\n")
            fill(path)
        finally:
            process.terminate()
            _, log = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert f"the service manager at NOTIFY_SOCKET={path} was not told STOPPING: it does not read\n" in log


def test_news_wait_in_their_order_and_nobody_looks_after_them_until_there_is_room(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, selectors.DefaultSelector() as selector:
        manager.settimeout(DEADLINE)
        manager.bind(path)
        number = fill(path)
        service = ServiceManager({"NOTIFY_SOCKET": path}, selector)
        service.tell(READY="1")
        service.tell(STOPPING="1")
        assert selector.select(0) == []
        assert [manager.recv(1000) for _ in range(number)] == [b"from others"] * number
        ((key, _),) = selector.select(DEADLINE)
        key.data()
        assert [manager.recv(1000) for _ in range(2)] == [b"READY=1", b"STOPPING=1"]
        assert not selector.get_map()


def test_news_for_a_service_manager_that_goes_away_are_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "notify")
    with selectors.DefaultSelector() as selector:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            fill(path)
            service = ServiceManager({"NOTIFY_SOCKET": path}, selector)
            service.tell(READY="1")
            service.tell(STOPPING="1")
        ((key, _),) = selector.select(DEADLINE)
        key.data()
        assert not selector.get_map()
    assert caplog.messages[-1] == (
        f"the service manager at NOTIFY_SOCKET={path} was not told READY and STOPPING: Connection refused"
    )


def test_words_that_are_no_utf_8_reach_the_service_manager(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(DEADLINE)
        manager.bind(str(tmp_path / "notify"))
        with selectors.DefaultSelector() as selector:
            service = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")}, selector)
            service.tell(STATUS=os.fsdecode(b"at unix:/caf\xe9"))
        assert manager.recv(1000) == b"STATUS=at unix:/caf\xe9"


def test_a_service_manager_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    process = start(str(tmp_path / "nobody"), "-b", "127.0.0.1:0")
    try:
        line = said(process, "service manager")
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert line.endswith(
        f"the service manager at NOTIFY_SOCKET={tmp_path}/nobody was not told READY: No such file or directory\n"
    )


def test_sockets_that_systemd_passes_are_served_without_any_bind(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        'def application(environ, start_response):\n    start_response("200 OK", [])\n    return [b"up"]\n'
    )
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:

        def pass_on() -> None:
            # Above the numbers that they are to have.
            high = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 10) for sock in (first, second)]
            for number, descriptor in enumerate(high, 3):
                os.dup2(descriptor, number)

        process = subprocess.Popen(
            ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=2 exec "$0" -m offload shop --layer memory://', sys.executable],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}, preexec_fn=pass_on, close_fds=False,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            for sock in (first, second):
                with socket.create_connection(sock.getsockname(), DEADLINE) as client:
                    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    client.settimeout(DEADLINE)
                    assert b"".join(iter(lambda: client.recv(1000), b"")).endswith(b"up")
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
        places = ", ".join(f"http://127.0.0.1:{sock.getsockname()[1]}" for sock in (first, second))
        assert f"runs shop at {places}, supervisor" in errors


def test_a_reload_and_signs_of_life_are_told_to_the_service_manager(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def application(environ, start_response): ...\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE)
        process = subprocess.Popen(
            [sys.executable, "-m", "offload", "shop", "--layer", "memory://", "-b", "127.0.0.1:0"],
            cwd=tmp_path, stderr=subprocess.DEVNULL,
            env={
                **os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "NOTIFY_SOCKET": str(tmp_path / "notify"),
                "WATCHDOG_USEC": "400000",
            },
        )  # fmt: skip
        try:

            def told(wanted: str) -> str:
                while True:
                    news = manager.recv(4096).decode()
                    if news.startswith(wanted):
                        return news

            told("READY=1\nSTATUS=running shop at http://127.0.0.1:")
            told("WATCHDOG=1")
            process.send_signal(signal.SIGHUP)
            assert int(told("RELOADING=1\nMONOTONIC_USEC=").rpartition("=")[2]) > 0
            told("READY=1\n")
            told("WATCHDOG=1")
            process.send_signal(signal.SIGTERM)
            told("STOPPING=1")
        finally:
            process.terminate()
            assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_new_supervisor_is_named_to_the_service_manager_as_the_main_process(tmp_path: Path, fails: bool) -> None:
    (tmp_path / "shop.py").write_text("def application(environ, start_response): ...\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE)
        process = subprocess.Popen(
            [sys.executable, "-m", "offload", "shop", "--layer", "memory://", "-b", "127.0.0.1:0"],
            cwd=tmp_path, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )  # fmt: skip
        new = 0
        try:
            assert manager.recv(4096).startswith(b"READY=1\n")
            if fails:
                (tmp_path / "shop.py").write_text("raise RuntimeError('no')\n")
            process.send_signal(signal.SIGUSR2)
            name, _, number = manager.recv(4096).decode().partition("=")
            assert name == "MAINPID"
            new = int(number)
            assert new != process.pid
            if fails:
                assert manager.recv(4096) == b"STOPPING=1", "of the new one"
                assert manager.recv(4096) == f"MAINPID={process.pid}".encode()
            else:
                assert manager.recv(4096).startswith(b"READY=1\n")
                # The old one leaves, and the service does not stop by that.
                assert process.wait(DEADLINE) == 0
                os.kill(new, signal.SIGTERM)
                assert manager.recv(4096) == b"STOPPING=1"
                wait_gone(new)
        finally:
            process.terminate()
            assert process.wait(DEADLINE) == 0

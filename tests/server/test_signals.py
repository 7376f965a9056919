"""Signals to the supervisor that change how many processes there are, and that start another supervisor."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.children import start, wait_gone
from tests.serving import DEADLINE, Server

APP = """
import os

def application(environ, start_response):
    body = f"{os.getppid()} {os.getpid()}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


@pytest.fixture
def server(project: Path) -> Iterator[Server]:
    running = start(project, workers=2)
    try:
        yield running
    finally:
        assert running.stop() == 0, running.log
        assert "Traceback" not in running.log


def wait_for_text(path: Path, text: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not path.exists() or path.read_text() != text:
        assert time.monotonic() < deadline, path
        select.select([], [], [], 0.01)


def supervisor_of(server: Server) -> int:
    with urllib.request.urlopen(server.url("/"), timeout=DEADLINE) as answer:
        return int(answer.read().split()[0])


def test_ttin_and_ttou_change_the_number_of_processes_and_hup_takes_that_of_the_settings(server: Server) -> None:
    server.signal(signal.SIGTTIN)
    server.wait_for("3 server processes: SIGTTIN")
    server.wait_for(r"server process \d+ is ready", times=3)
    server.signal(signal.SIGTTOU)
    server.wait_for("2 server processes: SIGTTOU")
    server.wait_for(f"server process {server.pids[2]} was replaced and ended with status 0")
    server.signal(signal.SIGTTOU)
    server.wait_for(f"server process {server.pids[1]} was replaced and ended with status 0")
    server.signal(signal.SIGTTOU)
    server.wait_for("1 server process: SIGTTOU", times=2)
    server.signal(signal.SIGHUP)
    server.wait_for(r"server process \d+ is ready", times=5)


def test_winch_ends_all_processes_and_hup_starts_them_again(server: Server) -> None:
    old = server.pids
    server.signal(signal.SIGWINCH)
    server.wait_for("0 server processes: SIGWINCH")
    for pid in old:
        server.wait_for(f"server process {pid} was replaced and ended with status 0")
    assert server.process.poll() is None
    server.signal(signal.SIGHUP)
    server.wait_for(r"server process \d+ is ready", times=4)
    assert supervisor_of(server) == server.process.pid


def test_usr2_starts_a_new_supervisor_and_the_old_one_retires_without_a_refused_connection(project: Path) -> None:
    server = start(project, "--pid", "pid", workers=2)
    failures: list[BaseException] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                supervisor_of(server)
            except OSError as error:
                failures.append(error)

    try:
        old = server.process.pid
        asking = threading.Thread(target=ask)
        asking.start()
        server.signal(signal.SIGUSR2)
        new = int(server.wait_for(r"SIGUSR2: the new supervisor is (\d+); this one stops when that is ready")[1])
        server.wait_for(r"server process \d+ is ready", times=4)
        assert server.process.wait(DEADLINE) == 0
        assert supervisor_of(server) == new != old
        over.set()
        asking.join()
        assert not failures
        # The old one takes its file away, and then the new one writes it.
        wait_for_text(project / "pid", f"{new}\n")
    finally:
        over.set()
        os.kill(new, signal.SIGTERM)
        wait_gone(new)
        server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 1)
    assert "Traceback" not in server.log


def test_usr2_whose_new_supervisor_fails_leaves_the_old_one_serving(project: Path) -> None:
    server = start(project)
    try:
        (project / "shop.py").write_text("raise RuntimeError('no')")
        server.signal(signal.SIGUSR2)
        server.wait_for(r"the new supervisor \d+ ended; this one goes on")
        assert supervisor_of(server) == server.process.pid
    finally:
        assert server.stop() == 0

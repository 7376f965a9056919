"""Long-lived connections spread evenly over the processes, also over one that took another's place."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.children import start
from tests.serving import DEADLINE, Server

APP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
COUNT = 2000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "shop.py").write_text(APP)
    running = start(tmp_path, "--header-timeout", "0", "--graceful-timeout", "1", workers=4)
    try:
        yield running
    finally:
        assert running.stop() == 0


def fill(server: Server, clients: list[socket.socket]) -> None:
    """Connect as many clients as are missing."""
    while len(clients) < COUNT:
        clients.append(server.connect())


def held(pids: list[int]) -> list[int]:
    """How many connections each process holds, as soon as all are accepted."""
    deadline = time.monotonic() + DEADLINE
    while True:
        counts = [
            sum(os.readlink(place).startswith("socket:") for place in Path(f"/proc/{pid}/fd").iterdir()) for pid in pids
        ]
        if sum(counts) >= COUNT:
            return counts
        assert time.monotonic() < deadline, counts
        select.select([], [], [], 0.05)


def test_2000_connections_spread_evenly_over_four_processes_also_after_one_was_killed(server: Server) -> None:
    clients: list[socket.socket] = []
    try:
        fill(server, clients)
        counts = held(server.pids)
        assert max(counts) <= 1.2 * COUNT / 4, counts
        victim, *others = server.pids
        os.kill(victim, signal.SIGKILL)
        server.wait_for(rf"server process {victim} was killed by SIGKILL")
        server.wait_for(r"server process \d+ is ready", times=5)
        # Its clients come back.
        ended = select.poll()
        for client in clients:
            ended.register(client, select.POLLIN)
        gone = {descriptor for descriptor, _ in ended.poll(0)}
        for client in [client for client in clients if client.fileno() in gone]:
            clients.remove(client)
            client.close()
        assert 0.8 * COUNT / 4 <= len(gone) <= 1.2 * COUNT / 4
        fill(server, clients)
        new = int(re.findall(r"server process (\d+) is ready", server.log)[-1])
        counts = held([*others, new])
        assert max(counts) <= 1.2 * COUNT / 4, counts
    finally:
        for client in clients:
            client.close()

"""Slow clients of each kind beside normal load: each ends by its own time, and nobody else notices.

``OFFLOAD_SLOW_CLIENTS=1000`` is the full number, with which the figures are printed.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import statistics
import sys
import time
from collections.abc import Iterator

import pytest

from tests.http.client import Client
from tests.http.conftest import APPLICATION
from tests.serving import DEADLINE, Server, serving

COUNT = int(os.environ.get("OFFLOAD_SLOW_CLIENTS", "100"))
TIMEOUT = 2.0
BATCHES, ROUNDS, CONNECTIONS = 4, 25, 16
"""Normal load: this often a request on each of these connections, all of one round at the same time."""
FACTOR = 2.0
SLACK_SECONDS = 0.02
"""Ratios of times this short are the machine's noise."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    times = [
        argument
        for name in ("header", "body", "send", "linger")
        for argument in (f"--{name}-timeout", str(TIMEOUT))
    ]  # fmt: skip
    with serving(APPLICATION, *times, "--keep-alive", "60", "--pool-size", str(2 * COUNT + 10)) as server:
        yield server


def _p99(server: Server) -> float:
    """Of normal requests, in seconds: the best of some batches, since the machine has other work, too."""
    best = float("inf")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(CONNECTIONS)]
        for _ in range(BATCHES):
            taken = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                for client in clients:
                    client.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
                for client in clients:
                    assert client.read().status == 200
                    taken.append(time.perf_counter() - began)
            best = min(best, statistics.quantiles(taken, n=100)[98])
    return best


_KINDS = {
    "header": b"GET /hello HTTP/1.1\r\nHost: a",
    "body": b"POST /sums HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc",
    "reader": b"GET /bare/zeros?size=8000000 HTTP/1.1\r\nHost: a\r\n\r\n",
    "silent": b"",
}


@pytest.mark.parametrize("kind", list(_KINDS))
def test_slow_clients_end_by_their_time_and_nobody_notices(
    server: Server, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _p99(server)
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(COUNT):
            client = stack.enter_context(Client(server))
            if kind == "reader":
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.send(_KINDS[kind])
            clients.append(client)
        during = _p99(server)
        ends = _ends(clients, reading=kind != "reader")
    if COUNT >= 1000:
        with capsys.disabled():
            figures = f"p99 {before * 1000:.1f} ms before, {during * 1000:.1f} ms beside them"
            sys.stdout.write(f"\n{COUNT} slow clients ({kind}): {figures}, ratio {during / before:.2f}\n")
    assert during <= before * FACTOR + SLACK_SECONDS
    assert len(ends) == len(clients)
    answers = set(ends.values())
    if kind in ("header", "body"):
        assert answers == {b"HTTP/1.1 408 Request Timeout"}
    else:
        assert answers == {b""}
    # Whoever was served beside them is served after them.
    assert _p99(server) <= before * FACTOR + SLACK_SECONDS


def _ends(clients: list[Client], reading: bool) -> dict[int, bytes]:
    """The first line that each client was told, as soon as all of them have been told something, or were reset."""
    poll = select.poll()
    waiting = {client.sock.fileno(): client for client in clients}
    for descriptor in waiting:
        poll.register(descriptor, (select.POLLIN if reading else 0) | select.POLLHUP | select.POLLERR)
    ends: dict[int, bytes] = {}
    deadline = time.monotonic() + DEADLINE + TIMEOUT
    while waiting:
        left = deadline - time.monotonic()
        assert left > 0, f"{len(waiting)} clients were not ended"
        for descriptor, _ in poll.poll(left * 1000):
            client = waiting.pop(descriptor)
            poll.unregister(descriptor)
            ends[descriptor] = client.rest().partition(b"\r\n")[0] if reading else b""
    return ends

"""Slow clients of each kind beside normal load: each ends by its own time or rate, and nobody else notices.

``OFFLOAD_SLOW_CLIENTS=2000`` is the full number, at default settings, with which the figures are printed.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from websockets.sync.client import ClientConnection

from tests.http.client import Client
from tests.serving import DEADLINE, Server, serving
from tests.websocket.sockets import open_socket

COUNT = int(os.environ.get("OFFLOAD_SLOW_CLIENTS", "100"))
IS_FULL = COUNT >= 1000
TIMEOUT = 2.0
LONGEST = 75.0 if IS_FULL else TIMEOUT
"""What the slowest kind may take to be ended, at default settings: nothing taken for ``--send-timeout``."""
BATCHES, ROUNDS, CONNECTIONS = 3, 20, 12
"""Normal load: this often a request and a message on each of these connections, all of one round at the same time."""
FACTOR = 2.0
SLACK_SECONDS = 0.25
"""What the other work of a busy machine may cost. A place in the pool that is held costs seconds."""
TRICKLE_SECONDS = 0.25


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    # With far fewer places than slow clients, none of which may hold one.
    times = ["--pool-size", str(COUNT // 10)]
    for name in ("header", "body", "send", "linger"):
        times += [f"--{name}-timeout", str(TIMEOUT)]
    with serving("tests.http.apps.bystanders", "--layer", "memory://", *(() if IS_FULL else times)) as server:
        yield server
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Bystanders:
    """Normal clients; those over HTTP come anew for each batch, as the time for idle ones is short."""

    def __init__(self, server: Server, sockets: list[ClientConnection]) -> None:
        self._server = server
        self._sockets = sockets

    def p99(self) -> float:
        """Of requests and messages, in seconds: the best of some batches, since the machine has other work, too."""
        return min(self._batch() for _ in range(BATCHES))

    def _batch(self) -> float:
        taken = []
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(self._server)) for _ in range(CONNECTIONS)]
            for _ in range(ROUNDS):
                began = time.perf_counter()
                for client, websocket in zip(clients, self._sockets, strict=True):
                    client.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
                    websocket.send("hello")
                for client, websocket in zip(clients, self._sockets, strict=True):
                    assert client.read().status == 200
                    taken.append(time.perf_counter() - began)
                    assert websocket.recv(DEADLINE) == "hello"
                    taken.append(time.perf_counter() - began)
        return statistics.quantiles(taken, n=100)[98]


@pytest.fixture
def bystanders(server: Server) -> Iterator[Bystanders]:
    with contextlib.ExitStack() as stack:
        yield Bystanders(server, [stack.enter_context(open_socket(server, "/echo")) for _ in range(CONNECTIONS)])


_HEAD = b"GET /hello HTTP/1.1\r\nHost: a"
_SMALL = b"POST /sums HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc"
_LARGE = b"POST /sums HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\nabc"
_CHUNKED = b"POST /sums HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\nabc"
_ANSWER = b"GET /bare/zeros?size=1000000 HTTP/1.1\r\nHost: a\r\n\r\n"
_STREAM = b"GET /drip?slow HTTP/1.1\r\nHost: a\r\n\r\n"
_KINDS: dict[str, tuple[bytes, bool]] = {
    "no head": (b"", False),
    "half a head": (_HEAD, False),
    "a trickled head": (_HEAD, True),
    "a small body": (_SMALL, False),
    "a trickled small body": (_SMALL, True),
    "a large body": (_LARGE, False),
    "a trickled large body": (_LARGE, True),
    "a trickled chunked body": (_CHUNKED, True),
    "an answer": (_ANSWER, False),
    "a trickled answer": (_ANSWER, True),
    "a stream": (_STREAM, False),
}
_READERS = ("an answer", "a trickled answer", "a stream")


@pytest.mark.parametrize("kind", list(_KINDS))
@pytest.mark.chaos("R7: slow clients end by themselves, and nobody else notices")
def test_slow_clients_end_by_their_time_or_rate_and_nobody_notices(
    server: Server, bystanders: Bystanders, kind: str, saw: Callable[[str], None]
) -> None:
    before = bystanders.p99()
    first, trickles = _KINDS[kind]
    reads = kind not in _READERS
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(COUNT):
            client = stack.enter_context(Client(server))
            if not reads:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.send(first)
            clients.append(client)
        if trickles:
            stack.enter_context(_trickling(clients, sends=reads))
        during = bystanders.p99()
        ends = _ends(clients, reads)
    saw(f"{COUNT} clients; others' p99 {before * 1000:.1f} ms before, {during * 1000:.1f} ms beside them")
    assert during <= before * FACTOR + SLACK_SECONDS
    assert len(ends) == len(clients)
    answers = set(ends.values())
    assert answers == ({b"HTTP/1.1 408 Request Timeout"} if reads and first else {b""})
    # Whoever was served beside them is served after them.
    assert bystanders.p99() <= before * FACTOR + SLACK_SECONDS


@contextlib.contextmanager
def _trickling(clients: list[Client], sends: bool) -> Iterator[None]:
    """Each client sends, or takes, a byte now and then."""
    over = threading.Event()

    def trickle() -> None:
        while not over.wait(TRICKLE_SECONDS):
            for client in clients:
                # Its end has come, or is about to be read.
                with contextlib.suppress(OSError):
                    if sends:
                        client.sock.send(b"x", socket.MSG_DONTWAIT)
                    else:
                        client.sock.recv(1, socket.MSG_DONTWAIT)

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _ends(clients: list[Client], reading: bool) -> dict[int, bytes]:
    """The first line that each client was told, as soon as all of them have been told something, or were reset."""
    poll = select.poll()
    waiting = {client.sock.fileno(): client for client in clients}
    for descriptor in waiting:
        poll.register(descriptor, (select.POLLIN if reading else 0) | select.POLLHUP | select.POLLERR)
    ends: dict[int, bytes] = {}
    deadline = time.monotonic() + DEADLINE + LONGEST
    while waiting:
        left = deadline - time.monotonic()
        assert left > 0, f"{len(waiting)} clients were not ended"
        for descriptor, _ in poll.poll(left * 1000):
            client = waiting.pop(descriptor)
            poll.unregister(descriptor)
            ends[descriptor] = client.until(b"\r\n") if reading and client.peek() else b""
    return ends

"""Handshakes that are being decided when the server stops or reloads.

Each connect consumer that ran, and did not refuse, is followed by one disconnect consumer.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest

from tests.protocol.frames import close
from tests.serving import DEADLINE, Server, read_all, serving
from tests.websocket.raw import ROUTED, RawClient, refusal
from tests.websocket.sockets import receive_until, upgrade

MEMORY = ("--layer", "memory://")
# Everybody is closed in the same turn of the loop.
AT_ONCE = ("--drain-timeout", "0")


class Asking:
    """Handshakes whose connect consumers ask this test what to do."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._listener.settimeout(DEADLINE)
        self.path = f"/connect/ask-{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []

    def begin(self, server: Server) -> tuple[socket.socket, socket.socket]:
        """A client whose connect consumer runs, and that consumer."""
        client = server.connect()
        client.sendall(upgrade(self.path))
        consumer, _ = self._listener.accept()
        self._sockets += (client, consumer)
        return client, consumer

    def disconnects(self, server: Server) -> list[str]:
        """What the disconnect consumers have said: code and order."""
        start = f"disconnected {self.path} "
        return [line[len(start) :] for line in server.log.splitlines() if line.startswith(start)]

    def end(self) -> None:
        for sock in (self._listener, *self._sockets):
            sock.close()


@pytest.fixture
def asking() -> Iterator[Asking]:
    made = Asking()
    yield made
    made.end()


def leave(server: Server, number: int, open_client: RawClient | None = None) -> None:
    """Tell the server to go, and wait until it closes its WebSockets."""
    open_client = open_client or RawClient(server)
    server.signal(number)
    assert open_client.rest_after_close() == []


def test_late_handshake_is_refused(asking: Asking) -> None:
    with serving(ROUTED, *MEMORY, *AT_ONCE) as server:
        late = server.connect()
        late.sendall(upgrade("/echo")[:-2])
        _, consumer = asking.begin(server)
        leave(server, signal.SIGTERM)
        late.sendall(b"\r\n")
        assert read_all(late).startswith(b"HTTP/1.1 503 ")
        late.close()
        consumer.sendall(b"deny")
        assert server.wait() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1001), (signal.SIGHUP, 1012)])
@pytest.mark.parametrize("word", [b"nothing", b"text"])
def test_handshake_is_decided_and_then_closed_as_others_are(
    asking: Asking, number: int, code: int, word: bytes
) -> None:
    with serving(ROUTED, *MEMORY, *AT_ONCE) as server:
        begun = [asking.begin(server) for _ in range(3)]
        (pid,) = server.pids
        leave(server, number)
        for client, consumer in begun:
            consumer.sendall(word)
            head, _, frames = receive_until(client, code.to_bytes(2, "big")).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            sent = b"\x81\x05first" if word == b"text" else b""
            assert frames == sent + b"\x88\x02" + code.to_bytes(2, "big")
            client.sendall(close(code))
            assert read_all(client) == b""
        if number == signal.SIGHUP:
            server.wait_for(f"server process {pid} was replaced and ended with status 0")
        else:
            assert server.wait() == 0
        assert asking.disconnects(server) == [f"{code} 1"] * 3


@pytest.mark.parametrize(("word", "status"), [(b"deny", b"403"), (b"fail", b"500")])
def test_refusal_stands(asking: Asking, word: bytes, status: bytes) -> None:
    with serving(ROUTED, *MEMORY, *AT_ONCE) as server:
        client, consumer = asking.begin(server)
        leave(server, signal.SIGTERM)
        consumer.sendall(word)
        assert read_all(client).startswith(b"HTTP/1.1 " + status)
        assert server.wait() == 0
        assert asking.disconnects(server) == []


@pytest.mark.parametrize("seconds", ["0", "2"])
@pytest.mark.parametrize(("word", "disconnects"), [(b"nothing", ["1006 1"]), (b"deny", []), (b"fail", [])])
def test_client_that_need_not_wait_any_longer_is_told_and_followed_by_its_disconnect(
    asking: Asking, seconds: str, word: bytes, disconnects: list[str]
) -> None:
    with serving(ROUTED, *MEMORY, "--graceful-timeout", seconds) as server:
        client, consumer = asking.begin(server)
        server.signal(signal.SIGTERM)
        answer = receive_until(client, b"the server cannot open WebSockets now\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        consumer.sendall(word)
        assert read_all(client) == b""
        assert server.wait() == 0
        assert asking.disconnects(server) == disconnects


def test_handshake_that_waits_for_a_greenlet_is_decided_too(asking: Asking) -> None:
    with serving(ROUTED, *MEMORY, *AT_ONCE, "--pool-size", "1") as server:
        open_client = RawClient(server)
        _, first = asking.begin(server)
        waiting = server.connect()
        waiting.sendall(upgrade("/echo/waiting"))
        # Who comes later, and needs no greenlet, has been answered, so that one has been taken in.
        assert refusal(server, upgrade("/echo", version="8"))[0] == 426
        leave(server, signal.SIGTERM, open_client)
        first.sendall(b"deny")
        answer = receive_until(waiting, (1001).to_bytes(2, "big"))
        assert answer.startswith(b"HTTP/1.1 101 ")
        waiting.sendall(close(1001))
        server.wait_for("disconnected /echo/waiting 1001 1")
        waiting.close()

"""Sending frames over real sockets whose every send is seen: what is joined, what passes what, what is made once."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent
import pytest
from gevent import socket as gevent_socket

from offload.observe.observer import Observer
from offload.origins import Origins
from offload.protocol.websocket.deflate import negotiate
from offload.protocol.websocket.frames import close_frame, ping_frame, pong_frame
from offload.settings import WebSocketOptions
from offload.transport.connection import Connection
from offload.transport.pool import Pool
from offload.websocket.connection import WebSocketConnection
from offload.websocket.encode import Reply, prepare
from offload.websocket.keepalive import Ping
from offload.websocket.server import WebSocketServer
from tests.protocol import frames
from tests.serving import DEADLINE


class Nobody:
    """A receiver of nothing."""

    latency = None
    is_busy = False

    def take(self, message: str | bytes) -> None:
        raise AssertionError(message)

    last_message_taken = closing = ended = connection_lost = lambda self: None


class Pair:
    """A WebSocket, and the client's end: of a kind of socket that keeps the bounds of each send."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.client = gevent_socket.socket(theirs.family, theirs.type, 0, theirs.detach())
        self.client.settimeout(DEADLINE)
        self.connection = Connection(gevent.get_hub().loop, ours, "client", lambda _: None)
        options = WebSocketOptions(ping_interval=None)
        server = WebSocketServer(Pool(1), Origins(()), options, None, Observer())
        self.websocket = WebSocketConnection(server, self.connection, Nobody())
        self.websocket.protocol.open(None)
        self.connection.start(self.websocket)

    def send(self, frame: bytes, more: bool = False) -> None:
        self.websocket.send(frame, more)

    def one_send(self) -> bytes:
        """What came by the next system call."""
        return bytes(self.client.recv(1 << 20))

    def fill(self) -> int:
        """Send until a queue holds the rest; how many frames that took."""
        count = 0
        while not self.connection.blocked:
            self.send(b"%06d" % count + bytes(8000))
            count += 1
            assert count < 10_000
        return count


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.connection.abort()
    made.client.close()


def test_messages_of_one_turn_leave_by_one_send(pair: Pair) -> None:
    for number in range(10):
        pair.send(b"frame-%d;" % number, more=number < 9)
    assert pair.one_send() == b"".join(b"frame-%d;" % number for number in range(10))


def test_message_alone_leaves_at_once(pair: Pair) -> None:
    pair.send(b"one")
    pair.client.setblocking(False)
    # Without a turn of the loop in between.
    assert pair.one_send() == b"one"


def test_messages_that_waited_for_a_slow_client_are_joined(pair: Pair) -> None:
    filled = pair.fill()
    for number in range(20):
        pair.send(b"late-%02d" % number)
    sends = []
    while not sends or not sends[-1].endswith(b"late-19"):
        sends.append(pair.one_send())
    assert b"".join(sends)[-7 * 20 :] == b"".join(b"late-%02d" % number for number in range(20))
    assert len(sends) <= filled + 2


def test_control_frames_pass_the_messages_that_wait(pair: Pair) -> None:
    pair.fill()
    waiting = [b"data-%04d" % number + bytes(20_000) for number in range(20)]
    for frame in waiting:
        pair.send(frame)
    for number in range(50):
        pair.websocket.data_received(frames.frame(frames.PING, b"%d" % number))
    pair.websocket.ping(Ping(b"ours", ping_frame(b"ours"), 0.0))
    pair.websocket.close(4000, "enough")
    received = b""
    while not received.endswith(close_frame(4000, "enough")):
        received += pair.one_send()
    # One pong answers all pings before it, and both are ahead of what waited; the close frame is behind it.
    order = [received.index(pong_frame(b"49")), received.index(ping_frame(b"ours"))]
    assert max(order) < received.index(waiting[0]) < received.index(waiting[-1]) < len(received) - 10
    assert pong_frame(b"48") not in received


def test_group_message_is_compressed_once_for_all_that_agreed_to_the_same() -> None:
    reply = prepare({"text": "to all of you " * 100})
    assert isinstance(reply, Reply)
    fifteen, nine = negotiate([b"permessage-deflate"]), negotiate([b"permessage-deflate; server_max_window_bits=9"])
    compressed = reply.frames(fifteen)
    assert len(compressed) < 200
    assert reply.frames(negotiate([b"permessage-deflate; client_max_window_bits"])) is compressed
    assert reply.frames(nine) is reply.frames(nine)
    assert reply.frames(None) is reply.frames(None)
    assert len(reply.frames(None)) > 1400

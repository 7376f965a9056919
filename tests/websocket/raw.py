"""A WebSocket client that may break every rule: it sends bytes, and reads frames with the `websockets` library."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterable
from typing import Any

from websockets.client import ClientProtocol
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.serving import DEADLINE, Server, reset
from tests.websocket.sockets import receive_until, upgrade

ROUTED = "tests.websocket.apps.routed"


class RawClient:
    """An open WebSocket.

    Args:
        server: where to.
        path: of the upgrade request.
        fields: further lines of it.
        behind: bytes sent in the same segment as the request.
        extensions: what the client reads frames with.

    Attributes:
        head: the answer's.
        code: of the server's close frame; None until there was one, 1005 for an empty one.
    """

    def __init__(
        self,
        server: Server,
        path: str = "/echo",
        *fields: str,
        behind: bytes = b"",
        extensions: Iterable[Extension] = (),
        receive_buffer: int | None = None,
    ) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(DEADLINE)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect(("127.0.0.1", server.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(upgrade(path, *fields) + behind)
        answer = receive_until(self.sock, b"\r\n\r\n")
        self.head, _, rest = answer.partition(b"\r\n\r\n")
        self.code: int | None = None
        self._frames: list[Frame] = []
        self.protocol = ClientProtocol(parse_uri("ws://localhost/"), max_size=None)
        self.protocol.state = State.OPEN
        self.protocol.extensions = list(extensions)
        self.protocol.parser = self.protocol.parse()
        next(self.protocol.parser)
        self._feed(rest)

    def _feed(self, data: bytes) -> None:
        if data:
            self.protocol.receive_data(data)
            self._frames += [event for event in self.protocol.events_received() if isinstance(event, Frame)]

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def send_octets(self, data: bytes) -> None:
        """Send each byte by itself."""
        for at in range(len(data)):
            self.sock.send(data[at : at + 1])

    @property
    def has_frames(self) -> bool:
        """Whether a frame has been read, and not been asked for."""
        return bool(self._frames)

    def next_frame(self) -> Frame | None:
        """The server's next frame; None at the end of the connection."""
        while not self._frames:
            try:
                data = self.sock.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._feed(data)
        return self._frames.pop(0)

    def receive(self) -> str | bytes:
        """The next message; pings are passed over."""
        while True:
            frame = self.next_frame()
            assert frame is not None, "the connection has ended"
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                return bytes(frame.data).decode() if frame.opcode is Opcode.TEXT else bytes(frame.data)
            assert frame.opcode is Opcode.PING, frame

    def rest(self) -> list[str | bytes]:
        """All messages, and pongs as ``b"pong:..."``, until the connection's end; `code` is known afterwards."""
        found: list[str | bytes] = []
        while (frame := self.next_frame()) is not None:
            data = bytes(frame.data)
            if frame.opcode is Opcode.CLOSE:
                self.code = int.from_bytes(data[:2], "big") if data else 1005
            elif frame.opcode is Opcode.TEXT:
                found.append(data.decode())
            elif frame.opcode is not Opcode.PING:
                found.append(b"pong:" + data if frame.opcode is Opcode.PONG else data)
        self.close()
        return found

    def rest_after_close(self) -> list[str | bytes]:
        """The same where the server closes first: its close frame is answered."""
        found: list[str | bytes] = []
        while (frame := self.next_frame()) is not None:
            data = bytes(frame.data)
            if frame.opcode is Opcode.CLOSE:
                self.code = int.from_bytes(data[:2], "big")
                self.send(Frame(Opcode.CLOSE, data[:2]).serialize(mask=True))
            elif frame.opcode is Opcode.TEXT:
                found.append(data.decode())
        self.close()
        return found

    def close(self) -> None:
        """Leave without a word."""
        self.sock.close()

    def reset(self) -> None:
        """Leave by a reset."""
        reset(self.sock)


def ask(server: Server, path: str = "/state") -> dict[str, Any]:
    """Have the application do something; the counters of its WebSockets, when they are asked for."""
    with urllib.request.urlopen(server.url(path), timeout=DEADLINE) as answer:
        state: dict[str, Any] = json.load(answer)
    return state


def wait_state(server: Server, **wanted: int) -> dict[str, Any]:
    """The counters, as soon as they have these values."""
    deadline = time.monotonic() + DEADLINE
    while True:
        state = ask(server)
        if all(state[name] == value for name, value in wanted.items()):
            return state
        assert time.monotonic() < deadline, f"{wanted} did not come: {state}"


def refusal(server: Server, request: bytes) -> tuple[int, bytes]:
    """The status and the whole answer to an upgrade that is refused."""
    answer = server.ask(request)
    return int(answer.split(b" ", 2)[1]), answer

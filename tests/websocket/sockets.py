"""What the tests of WebSockets share: handshakes and frames by hand, and clients of a served path."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from tests.serving import DEADLINE, Server

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="


def open_socket(server: Server, path: str, compression: str | None = None, **more: object) -> ClientConnection:
    """A WebSocket by the `websockets` library."""
    return connect(
        server.url(path, "ws"), compression=compression, max_size=None, open_timeout=DEADLINE, **more
    )  # type: ignore[arg-type]  # fmt: skip


def upgrade(path: str, *fields: str, version: str = "13", key: bytes = KEY, method: str = "GET") -> bytes:
    """An upgrade request."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: example.com",
        "Connection: keep-alive, Upgrade",
        "Upgrade: websocket",
        f"Sec-WebSocket-Version: {version}",
        *fields,
    ]
    return "\r\n".join(lines).encode() + b"\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"


def frame(opcode: Opcode, payload: bytes, fin: bool = True) -> bytes:
    """A frame as clients send it."""
    return Frame(opcode, payload, fin).serialize(mask=True, extensions=[])


def receive_until(sock: socket.socket, end: bytes, data: bytes = b"") -> bytes:
    """Bytes up to and with `end`, and what came with it."""
    while end not in data:
        piece = sock.recv(65536)
        assert piece, f"the server closed after {data!r}"
        data += piece
    return data


def is_silent(sock: socket.socket) -> bool:
    """Whether nothing has arrived."""
    sock.setblocking(False)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(DEADLINE)
    return False


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def payloads(sizes: Sequence[int]) -> list[str | bytes]:
    """Text and binary messages of these sizes in bytes, the text with letters of several bytes where it can."""
    messages: list[str | bytes] = []
    for size in sizes:
        text = "a" * (size % 9) + "\u00e9\u20ac\U0001f600" * (size // 9)
        assert len(text.encode()) == size
        messages += [text, os.urandom(size)]
    return messages

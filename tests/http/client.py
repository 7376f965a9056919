"""A client that sends what it is told, and reads answers by their framing."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from tests.serving import Server


@dataclass
class Answer:
    """One answer; header names in lower case, repeated fields joined by commas."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    whole: bool = True
    interim: list[Answer] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.body.decode("latin-1")


class Client:
    """One connection."""

    def __init__(self, server: Server) -> None:
        self.sock: socket.socket = server.connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self.ended = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes | str) -> None:
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def get(self, target: str, method: str = "GET", fields: str = "", body: bytes = b"") -> Answer:
        """Send a request and read its answer."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.send(f"{method} {target} HTTP/1.1\r\nHost: test\r\n{fields}{length}\r\n".encode("latin-1") + body)
        return self.read(method)

    @property
    def buffered(self) -> bytes:
        """What has been received and not been taken."""
        return bytes(self._buffer)

    def _more(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        self._buffer += data
        self.ended = not data
        return bool(data)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size and self._more():
            pass
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def until(self, mark: bytes) -> bytes:
        """What comes before a mark, which is dropped."""
        while mark not in self._buffer:
            if not self._more():
                raise EOFError(f"the connection ended after {bytes(self._buffer)!r}")
        taken = self._take(self._buffer.index(mark))
        self._take(len(mark))
        return taken

    def read(self, method: str = "GET") -> Answer:
        """The next answer, with what was said before it in passing (1xx)."""
        interim = []
        while True:
            answer = self._head()
            if answer.status >= 200 or answer.headers.get("connection") == "close":
                break
            interim.append(answer)
        answer.interim = interim
        headers = answer.headers
        if method == "HEAD" or answer.status < 200 or answer.status in (204, 304):
            return answer
        if headers.get("transfer-encoding") == "chunked":
            try:
                while size := int(self.until(b"\r\n"), 16):
                    answer.body += self._take(size)
                    assert self._take(2) == b"\r\n"
                assert self._take(2) == b"\r\n"
            except EOFError:
                answer.whole = False
        elif "content-length" in headers:
            size = int(headers["content-length"])
            answer.body = self._take(size)
            answer.whole = len(answer.body) == size
        else:
            assert headers.get("connection") == "close"
            answer.body = self.rest()
        return answer

    def _head(self) -> Answer:
        first, *lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, code, reason = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for line in lines:
            name, value = line.split(": ", 1)
            name = name.lower()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Answer(int(code), reason, headers, b"")

    def peek(self) -> bool:
        """Whether anything comes before the end."""
        return bool(self._buffer) or self._more()

    def rest(self) -> bytes:
        """Everything until the end."""
        while self._more():
            pass
        return self._take(len(self._buffer))


def ask(server: Server, target: str, method: str = "GET", fields: str = "", body: bytes = b"") -> Answer:
    """One request on a connection of its own; the connection must end after its answer."""
    with Client(server) as client:
        answer = client.get(target, method, fields + "Connection: close\r\n", body)
        assert client.rest() == b""
        return answer

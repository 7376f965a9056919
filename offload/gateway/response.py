"""One WSGI response: `start_response`, `write` and the result's iteration, to bytes on the connection.

The head is held until the first non-empty chunk, so that head and body leave in one send, and so that an application
may still change its mind. Follows PEP 3333.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from types import TracebackType

from offload.protocol.request import Request
from offload.protocol.response import FieldNames, check_status, check_value
from offload.transport.connection import HIGH_WATER_BYTES, Connection

log = logging.getLogger("offload.http")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
_SMALL_BODY_BYTES = 65536


class ClientGone(Exception):
    """The client is not there to take the rest, or too slow; the response ends without a word."""


class Response:
    """The answer to one request.

    Args:
        connection: where it goes.
        request: what it answers.
        date: the Date field's value, asked for when the head is built.
        names: the process's checked field names.
        send_timeout: seconds that the client may take nothing.
        keep_alive: whether the server would serve another request on this connection.

    Attributes:
        status: the status line's value once given, else "".
        head_sent: whether anything has left.
        keep_alive: whether the connection can serve another request afterwards.
        body_bytes: bytes of body sent.
    """

    __slots__ = (
        "_chunked",
        "_code",
        "_connection",
        "_date",
        "_headers",
        "_left",
        "_names",
        "_request",
        "_send_timeout",
        "body_bytes",
        "head_sent",
        "keep_alive",
        "status",
    )

    def __init__(
        self,
        connection: Connection,
        request: Request,
        date: Callable[[], str],
        names: FieldNames,
        send_timeout: float | None,
        keep_alive: bool,
    ) -> None:
        self._connection = connection
        self._request = request
        self._date = date
        self._names = names
        self._send_timeout = send_timeout
        self.keep_alive = keep_alive
        self.status = ""
        self.head_sent = False
        self.body_bytes = 0
        self._code = 0
        self._headers: list[tuple[str, str]] = []
        # Body bytes that Content-Length still allows; None when it was not given.
        self._left: int | None = None
        self._chunked = False

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """PEP 3333's callable.

        Raises:
            AssertionError: called twice without `exc_info`.
            ValueError, TypeError: the status or a header is not acceptable.
        """
        if exc_info is not None:
            try:
                if self.head_sent and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status:
            raise AssertionError("start_response was called a second time without exc_info")
        code = check_status(status)
        left = None
        for name, value in headers:
            check_value(name, value)
            if self._names.lower(name) == "content-length":
                if not (value.isascii() and value.isdigit()) or left is not None:
                    raise ValueError("Content-Length is repeated or not a number")
                left = int(value)
        self.status, self._code, self._headers, self._left = status, code, list(headers), left
        return self.write

    def _head(self, length: int | None) -> bytes:
        """The head; `length` is the body's size where it is known by now."""
        lines = ["HTTP/1.1 ", self.status, "\r\nServer: offload\r\nDate: ", self._date(), "\r\n"]
        lower = self._names.lower
        seen = set()
        for name, value in self._headers:
            key = lower(name)
            seen.add(key)
            if key not in ("server", "date"):
                lines += (name, ": ", value, "\r\n")
        if "server" in seen or "date" in seen:
            self._replace_own_fields(lines)
        bodiless = self._code < 200 or self._code in (204, 304)
        if bodiless:
            self._left = 0
        elif self._left is None:
            if self._request.method == "HEAD" and not length:
                # An empty answer to HEAD says nothing about the size that GET would have.
                self._left = 0
            elif length is not None:
                self._left = length
                lines.append(f"Content-Length: {length}\r\n")
            elif self._request.version == "1.1":
                self._chunked = True
                lines.append("Transfer-Encoding: chunked\r\n")
            else:
                self.keep_alive = False
        if not self.keep_alive:
            lines.append("Connection: close\r\n")
        elif self._request.version == "1.0":
            lines.append("Connection: keep-alive\r\n")
        lines.append("\r\n")
        return "".join(lines).encode("latin-1")

    def _replace_own_fields(self, lines: list[str]) -> None:
        # The application's Server and Date stand instead of ours.
        own = {self._names.lower(name): value for name, value in self._headers}
        server, date = own.get("server", "offload"), own.get("date")
        lines[2:4] = [f"\r\nServer: {server}\r\nDate: ", lines[3] if date is None else date]

    def write(self, data: bytes) -> None:
        """Send a piece of the body; the first one takes the head with it.

        Raises:
            AssertionError: `start_response` was not called.
            ClientGone: nobody takes it.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"a piece of the response is a {type(data).__name__}, not bytes")
        if data:
            self._send(data, None)

    def _send(self, data: bytes, length: int | None) -> None:
        head = b""
        if not self.head_sent:
            if not self.status:
                raise AssertionError("the application sent data before it called start_response")
            head = self._head(length)
            self.head_sent = True
        if self._left is not None:
            if len(data) > self._left:
                if self._code >= 200 and self._code not in (204, 304):
                    log.error("the application sent more bytes than its Content-Length; the rest is cut off")
                data = data[: self._left]
            self._left -= len(data)
        self.body_bytes += len(data)
        if self._request.method == "HEAD":
            data = b""
        elif self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        connection = self._connection
        if head and len(data) > _SMALL_BODY_BYTES:
            connection.write(head)
            head = b""
        if head or data:
            connection.write(head + data if head and data else head or data)
        if connection.closed or (
            connection.unsent_bytes > HIGH_WATER_BYTES and not connection.wait_drained(self._send_timeout)
        ):
            raise ClientGone

    def send_result(self, result: Iterable[bytes]) -> None:
        """Send what the application returned, and end the response.

        Raises:
            ClientGone: nobody takes it.
        """
        if type(result) is list and len(result) == 1 and not self.head_sent and isinstance(result[0], bytes):
            # The whole body is at hand, so its length is, too.
            self._send(result[0], len(result[0]))
        else:
            write = self.write
            for piece in result:
                write(piece)
        self.end()

    def end(self) -> None:
        """The body is whole. A body shorter than declared closes the connection, so that the client can tell."""
        if not self.head_sent:
            self._send(b"", 0)
        if self._left and self._request.method != "HEAD":
            log.error("the application sent %d bytes less than its Content-Length", self._left)
            self.keep_alive = False
        elif self._chunked and self._request.method != "HEAD":
            self._connection.write(b"0\r\n\r\n")

    def started(self) -> bool:
        """Whether the application called `start_response`."""
        return bool(self.status)

"""One WSGI response: `start_response`, `write` and the result's iteration, to bytes on the connection.

The head is held until the first non-empty chunk, so that head and body leave in one send, and so that an application
may still change its mind. Follows PEP 3333.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from types import TracebackType

from offload.http.file_wrapper import FileWrapper
from offload.observe.log_lines import SafeLogger
from offload.protocol.http.request import Request
from offload.protocol.http.response_head import FieldNames, Head, plain_answer
from offload.transport.connection import HIGH_WATER_BYTES, Connection

log = SafeLogger("offload.http")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
Headers = list[tuple[str, str]]
_SMALL_BODY_BYTES = 65536
"""Up to this size head and body are joined, and files are read rather than handed to the kernel."""
_NOTHING = Head("", 0)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Date:
    """The Date field's value, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self) -> str:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._text = formatdate(now, usegmt=True)
        return self._text


class ClientGone(Exception):
    """The client is not there to take the rest, or too slow; the response ends without a word."""


@dataclass(slots=True, eq=False)
class Response:
    """The answer to one request.

    Args:
        connection: where it goes.
        request: what it answers.
        date: the Date field's value, asked for when the head is built.
        names: the process's checked field names.
        may_keep: whether the server would serve another request on this connection; asked when the head is built.

    Attributes:
        status: the status line's value once given, else "".
        head_sent: whether anything of the answer has left.
        ended: whether the application has given all of it.
        keep_alive: whether the connection can serve another request afterwards.
        body_bytes: bytes of body sent.
    """

    _connection: Connection
    _request: Request
    _date: Callable[[], str]
    _names: FieldNames
    _may_keep: Callable[[], bool]
    status: str = field(default="", init=False)
    head_sent: bool = field(default=False, init=False)
    ended: bool = field(default=False, init=False)
    keep_alive: bool = field(default=True, init=False)
    body_bytes: int = field(default=0, init=False)
    # What `start_response` was given.
    _prepared: Head = field(default=_NOTHING, init=False)
    # Body bytes that Content-Length still allows; None when it was not given.
    _left: int | None = field(default=None, init=False)
    _too_long: bool = field(default=False, init=False)
    _chunked: bool = field(default=False, init=False)
    _bodiless: bool = field(default=False, init=False)

    def start_response(self, status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Callable[[bytes], None]:
        """PEP 3333's callable.

        Raises:
            AssertionError: called twice without `exc_info`, or with an empty one when the answer has begun.
            ValueError, TypeError: the status or a header is not acceptable.
        """
        if exc_info is not None:
            try:
                if self.head_sent:
                    # Never further: the framing that follows belongs to the head that has left.
                    if exc_info[1] is None:
                        raise AssertionError("start_response was called again, for no error, when the answer had begun")
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status:
            raise AssertionError("start_response was called a second time without exc_info")
        fields = tuple(headers)
        try:
            head = self._names.heads.get((status, fields))
        except TypeError:
            # Some of the fields are lists.
            head = None
        if head is None:
            head = self._names.head(status, fields)
            for name in head.dropped:
                self._drop(name)
        code = head.code
        self._prepared, self.status, self._left = head, status, head.length
        self._bodiless = code < 200 or code == 204 or code == 304 or self._request.method == "HEAD"
        if head.closes:
            self.keep_alive = False
        return self.write

    def _drop(self, name: str) -> None:
        dropped = self._names.dropped
        if name not in dropped and name != "connection":
            dropped.add(name)
            log.warning("the application's header %r is dropped: it is the server's to send (PEP 3333)", name)

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
        head, size = b"", len(data)
        if not self.head_sent:
            if not self.status:
                raise AssertionError("the application sent data before it called start_response")
            keep = self.keep_alive and self._request.keep_alive and self._may_keep()
            head, self._left, self._chunked, self.keep_alive = self._prepared.encode(
                self._request, length, self._date(), keep
            )
            self.head_sent = True
        if self._bodiless:
            if self.ended:
                self._complain("had ended when its application wrote more; that is dropped")
            data, size = b"", 0
        elif self._left is not None:
            if size > self._left:
                self._complain("has more bytes than its Content-Length; the rest is cut off")
                data, size = data[: self._left], self._left
            self._left -= size
        self.body_bytes += size
        if self._chunked and data:
            data = b"%x\r\n%b\r\n" % (size, data)
        connection = self._connection
        if head and size > _SMALL_BODY_BYTES:
            connection.write(head)
        elif head:
            data = head + data
        if data:
            connection.write(data)
        if length is None and self._left != 0 and connection.unsent_bytes:
            # The next piece may take long to compute, and this one must not wait for it (PEP 3333).
            connection.flush()
        if connection.closed or (connection.unsent_bytes > HIGH_WATER_BYTES and not connection.wait_drained()):
            raise ClientGone

    def _complain(self, clause: str) -> None:
        """Tell once that the application gives more than its answer has room for."""
        if not self._too_long:
            self._too_long = True
            log.error("%s %s", self._subject(), clause)

    def _subject(self) -> str:
        return f"the answer to {self._request.method} {self._request.target.decode('latin-1')}"

    def send_result(self, result: Iterable[bytes]) -> None:
        """Send what the application returned, and end the response.

        Raises:
            ClientGone: nobody takes it.
        """
        kind = type(result)
        if (kind is list or kind is tuple) and not self.head_sent:
            self._send_whole(result)  # type: ignore[arg-type]
        elif kind is not FileWrapper or not self._send_file(result):  # type: ignore[arg-type]
            self._send_pieces(result)
        self.end()

    def _send_whole(self, pieces: Sequence[bytes]) -> None:
        # All of the body is at hand, so its length is, too; and what is wrong with it before any of it is sent.
        length = 0
        for piece in pieces:
            if not isinstance(piece, bytes):
                raise TypeError(f"a piece of the response is a {type(piece).__name__}, not bytes")
            length += len(piece)
        if len(pieces) > 1 and length <= _SMALL_BODY_BYTES:
            pieces = (b"".join(pieces),)
        for piece in pieces:
            if piece:
                self._send(piece, length)

    def _send_pieces(self, result: Iterable[bytes]) -> None:
        length: int | None = None
        # Not by `isinstance(result, Sized)`, which costs more than all else here.
        size = getattr(result, "__len__", None)
        single = size is not None and size() == 1
        for piece in result:
            if single and isinstance(piece, bytes):
                length = len(piece)
            if length and not self.head_sent:
                self._send(piece, length)
            else:
                self.write(piece)
            if self._too_long or (self._bodiless and self.head_sent):
                # PEP 3333: no more is asked for than may be sent. A stream of events has no end of its own.
                break

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Send a file, by the kernel where it can; False where the size of what is left is open."""
        part = wrapper.part()
        if part is None or self._chunked or (self._left is None and self.head_sent) or not self.status:
            return False
        descriptor, offset, size = part
        if self._left is not None:
            # Less than the file has is the application's right here: it is how a range is sent.
            size = min(size, self._left)
        if self._bodiless:
            self._send(b"", size)
        elif size <= _SMALL_BODY_BYTES or not self._connection.sends_files:
            self._send_read(wrapper, size)
        else:
            self._send_by_kernel(descriptor, offset, size)
        return True

    def _send_read(self, wrapper: FileWrapper, size: int) -> None:
        """Send of a file what it had when it was asked for, piece by piece."""
        left = size
        for piece in wrapper:
            self._send(piece[:left], size)
            left -= len(piece)
            if left <= 0:
                break

    def _send_by_kernel(self, descriptor: int, offset: int, size: int) -> None:
        if not self.head_sent:
            self._send(b"", size)
        sent = self._connection.send_file(descriptor, offset, size)
        self.body_bytes += sent
        if self._connection.closed:
            raise ClientGone
        if self._left is not None:
            self._left -= sent

    def end(self) -> None:
        """The body is whole. A body shorter than declared closes the connection, so that the client can tell."""
        if not self.head_sent:
            self._send(b"", 0)
        if not self._bodiless:
            if self._left:
                log.error("%s has %d bytes less than its Content-Length", self._subject(), self._left)
                self.keep_alive = False
            elif self._chunked:
                self._connection.write(b"0\r\n\r\n")
        # What is written from now on, for instance by the result's close(), would get into the next answer.
        self.ended = self._bodiless = True

    def fail(self, status: int, text: str) -> None:
        """Answer in the application's place, as far as its answer has not left."""
        if self.ended or (self.head_sent and (self._bodiless or self._left == 0)):
            # For instance a result whose close() failed: the log has it, and neither client nor connection is affected.
            return
        self.keep_alive = False
        if not self.head_sent:
            answer = plain_answer(status, text, self._date(), bodiless=self._request.method == "HEAD")
            self._connection.write(answer)
            self.status, self._prepared = str(status), _NOTHING
        elif not self._chunked and self._left is None:
            # Where the connection's end is all that an answer ends with, only a reset tells that it is not whole.
            # What was held back goes first: answers to earlier requests may be among it. A framed one's client counts.
            self._connection.flush()
            self._connection.reset()

    @property
    def headers(self) -> Headers:
        """The application's fields."""
        return self._prepared.fields

    def seal(self) -> None:
        """Let nothing more be sent: what an application kept of this could only get into the next answer."""
        self.head_sent = self._bodiless = True

    # What goes ahead of the answer.

    def send_continue(self) -> None:
        """Tell the client to send its body, unless it has the answer by now."""
        if not self.head_sent:
            self._connection.write(CONTINUE)

    def early_hints(self, headers: Headers) -> None:
        """``wsgi.early_hints``: fields that the client may act on while the answer is made (103, RFC 8297).

        Does nothing for clients of HTTP/1.0, and once the answer has begun.

        Raises:
            ValueError, TypeError: a header is not acceptable.
        """
        hints = self._names.early_hints(headers)
        if not self.head_sent and self._request.version == "1.1":
            self._connection.write(hints)
            self._connection.flush()

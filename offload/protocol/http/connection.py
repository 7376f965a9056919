"""The server's side of one HTTP/1.1 connection: bytes in, `Request`, body bytes and `END` out.

One request at a time: bytes of the next one wait until `next_request`. Pure: no sockets, no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from offload.protocol.http.body import BodyDecoder, Chunked, FixedLength
from offload.protocol.http.request import HttpError, Request, check_beginning, parse_request
from offload.settings import HttpOptions

KEPT_BYTES, KEPT_FIELDS = 4096, 40
"""Header fields of a request are kept for the next one up to this size and number: larger ones are rare, and a client
could have much kept for each of many connections."""


class End(Enum):
    """The request is whole."""

    END = "end"


END = End.END
Event = Request | bytes | End
Received = Request | list[Event]
"""A request without a body alone, whole; else the events in order, none for "more data, please"."""


class HttpProtocol:
    """Reads requests from what a client sends.

    Args:
        limits: bounds on each request.
        check: None, or called with each head; it refuses one by raising `HttpError`.

    Attributes:
        rest: bytes that arrived and are not used yet: a head's beginning, or what follows the request.
    """

    __slots__ = ("_body", "_check", "_complete", "_last", "_skipped", "limits", "rest")

    def __init__(self, limits: HttpOptions, check: Callable[[Request], None] | None = None) -> None:
        self.limits = limits
        self._check = check
        self.rest = b""
        self._body: BodyDecoder | None = None
        self._complete = False
        self._last: Request | None = None
        # Whether an empty line before this request has been overlooked.
        self._skipped = False

    @property
    def reading_body(self) -> bool:
        """Whether a head was seen whose body is not whole."""
        return self._body is not None

    def receive(self, data: bytes) -> Received:
        """Feed what arrived.

        Raises:
            HttpError: what the client sent is not acceptable; feed nothing more.
        """
        begin = 0
        if self.rest:
            # A head's end may lie across two reads.
            begin = max(0, len(self.rest) - 3)
            data = self.rest + data
        if self._complete:
            self.rest = data
            return []
        if self._body is not None:
            return self._receive_body(self._body, data)
        if data[:2] == b"\r\n" and not self._skipped:
            # RFC 9112, 2.2: an empty line before the request line is to be overlooked. One, as old browsers sent it.
            self._skipped = True
            data = data[2:]
        limits = self.limits
        end = data.find(b"\r\n\r\n", begin) + 4
        if end < 4 or end > limits.limit_request_head:
            if data and (data != b"\r" or self._skipped):
                check_beginning(data, limits)
            self.rest = data
            return []
        head, rest = (data, b"") if end == len(data) else (data[:end], data[end:])
        request = parse_request(head, limits, self._last)
        is_kept = len(head) <= KEPT_BYTES and len(request.headers) <= KEPT_FIELDS
        self._last = request if is_kept else None
        if self._check is not None:
            self._check(request)
        if not request.has_body:
            self._complete = True
            self.rest = rest
            return request
        length = request.content_length
        if length is None:
            self._body = Chunked(limits.most_chunked)
        else:
            if limits.limit_request_body is not None and length > limits.limit_request_body:
                raise HttpError(413, f"the body has over {limits.limit_request_body} bytes")
            self._body = FixedLength(length)
        return [request, *self._receive_body(self._body, rest)]

    def _receive_body(self, body: BodyDecoder, data: bytes) -> list[Event]:
        chunk, self.rest = body.receive(data)
        events: list[Event] = [chunk] if chunk else []
        if body.finished:
            self._body = None
            self._complete = True
            events.append(END)
        return events

    def forget(self) -> None:
        """Keep nothing of the last request: the client may not come back, or not soon."""
        self._last = None

    def next_request(self) -> Received:
        """Go on to the next request, after the answer to this one; what of it has arrived.

        Raises:
            HttpError: as `receive`.
        """
        self._complete = self._skipped = False
        if not self.rest:
            return []
        data, self.rest = self.rest, b""
        try:
            return self.receive(data)
        except HttpError:
            self.rest = data
            raise

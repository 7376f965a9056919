"""The server's side of one HTTP/1.1 connection: bytes in, `Request`, body bytes and `END` out.

One request at a time: bytes of the next one wait until `next_request`. Pure: no sockets, no clock.
"""

from __future__ import annotations

from enum import Enum

from offload.protocol.body import BodyDecoder, Chunked, FixedLength
from offload.protocol.request import HttpError, HttpLimits, Request, parse_request


class End(Enum):
    """The request is whole."""

    END = "end"


END = End.END
Event = Request | bytes | End


class HttpProtocol:
    """Reads requests from what a client sends.

    Attributes:
        rest: bytes that arrived and are not used yet: a head's beginning, or what follows the request.
    """

    __slots__ = ("_body", "_complete", "limits", "rest")

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self.rest = b""
        self._body: BodyDecoder | None = None
        self._complete = False

    @property
    def reading_body(self) -> bool:
        """Whether a head was seen whose body is not whole."""
        return self._body is not None

    def receive(self, data: bytes) -> list[Event]:
        """Feed what arrived; the events in order, none for "more data, please".

        Raises:
            HttpError: what the client sent is not acceptable; feed nothing more.
        """
        fresh = len(data)
        if self.rest:
            data = self.rest + data
        if self._complete:
            self.rest = data
            return []
        if self._body is not None:
            return self._receive_body(self._body, data)
        while data[:2] == b"\r\n":
            # RFC 9112, 2.2: an empty line before the request line is to be overlooked.
            data = data[2:]
        # A head's end may lie across two reads.
        end = data.find(b"\r\n\r\n", max(0, len(data) - fresh - 3))
        if end < 0 or end > self.limits.head_bytes:
            self._check_beginning(data)
            self.rest = data
            return []
        head = data[: end + 4] if end + 4 < len(data) else data
        request = parse_request(head, self.limits)
        data = data[end + 4 :]
        if request.chunked:
            self._body = Chunked()
        elif request.content_length:
            self._body = FixedLength(request.content_length)
        else:
            self._complete = True
            self.rest = data
            return [request, END]
        return [request, *self._receive_body(self._body, data)]

    def _receive_body(self, body: BodyDecoder, data: bytes) -> list[Event]:
        chunk, self.rest = body.receive(data)
        events: list[Event] = [chunk] if chunk else []
        if body.finished:
            self._body = None
            self._complete = True
            events.append(END)
        return events

    def next_request(self) -> list[Event]:
        """Go on to the next request, after the answer to this one; its events as far as they have arrived.

        Raises:
            HttpError: as `receive`.
        """
        self._complete = False
        if not self.rest:
            return []
        data, self.rest = self.rest, b""
        return self.receive(data)

    def _check_beginning(self, data: bytes) -> None:
        limits = self.limits
        line_end = data.find(b"\n", 0, limits.line_bytes + 2)
        if line_end < 0 and len(data) > limits.line_bytes + 1:
            raise HttpError(414, f"the request line has over {limits.line_bytes} bytes")
        if line_end == 0 or (line_end > 0 and data[line_end - 1] != 13):
            raise HttpError(400, "a line of the head ends without CR LF")
        if len(data) > limits.head_bytes:
            raise HttpError(431, f"the head has over {limits.head_bytes} bytes")

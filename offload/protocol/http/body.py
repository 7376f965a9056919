"""Request bodies: fixed-length and chunked framing, bytes in, bytes out.

Pure: no sockets, no clock. A decoder is fed what arrives behind a head and says how much of it was body.
Follows RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

import re
from typing import Protocol

from offload.protocol.http.request import HttpError

MAX_CHUNK_LINE_BYTES = 256
"""A chunk's size and its extensions; real clients send a handful of digits."""
MAX_TRAILER_BYTES = 8192
MAX_EXCESS_BYTES = 16384
"""What the size lines of one body may have beyond what their chunks justify, so that nobody sends mere extensions."""

# RFC 9112, 7.1.1: ``;name``, ``;name=value`` or ``;name="value"``, any number of times.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*"'
_EXTENSION = rb";[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?"
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:" + _EXTENSION + rb")*")
_EXTENDED = re.compile(rb"[0-9A-Fa-f]{1,15};")
_TRAILER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[^\x00-\x08\x0a-\x1f\x7f]*")
_NO_TRAILERS = frozenset((b"content-length", b"host", b"transfer-encoding"))


class BodyDecoder(Protocol):
    """Takes a body apart.

    Attributes:
        finished: whether the body is whole.
    """

    finished: bool

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """Feed what arrived.

        Returns:
            ``(body, rest)``: body bytes that are ready, and what was not used. Until `finished`, the rest is to be
            fed again with what arrives next; afterwards it belongs to the next request.

        Raises:
            HttpError: the framing is wrong.
        """


class FixedLength:
    """A body of as many bytes as Content-Length said."""

    __slots__ = ("_left", "finished")

    def __init__(self, length: int) -> None:
        self._left = length
        self.finished = length == 0

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """See `BodyDecoder`."""
        if len(data) < self._left:
            self._left -= len(data)
            return data, b""
        left, self._left, self.finished = self._left, 0, True
        return (data, b"") if len(data) == left else (data[:left], data[left:])


class Chunked:
    """A body in chunks; extensions and trailers are checked, bounded and dropped.

    Args:
        limit: bytes that all chunks may have together; None for no limit.
    """

    __slots__ = ("_excess", "_in_trailer", "_left", "_limit", "_line_end_due", "_room", "_trailer_bytes", "finished")

    def __init__(self, limit: int | None = None) -> None:
        self.finished = False
        self._limit = limit
        self._room = limit
        self._excess = 0
        self._left = 0
        self._line_end_due = False
        self._in_trailer = False
        self._trailer_bytes = 0

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """See `BodyDecoder`."""
        pieces: list[bytes] = []
        at = 0
        while not self.finished:
            if self._left:
                piece = data[at : at + self._left]
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                self._line_end_due = self._left == 0
            elif self._line_end_due:
                line_end = data[at : at + 2]
                if line_end != b"\r\n":
                    if line_end in (b"", b"\r"):
                        break
                    raise HttpError(400, "a chunk does not end with CR LF")
                at += 2
                self._line_end_due = False
            else:
                limit = MAX_TRAILER_BYTES - self._trailer_bytes if self._in_trailer else MAX_CHUNK_LINE_BYTES
                end = data.find(b"\r\n", at, at + limit + 2)
                if end < 0:
                    self._check_beginning(data[at:], limit)
                    break
                self._line(data[at:end])
                at = end + 2
        return b"".join(pieces), data[at:]

    def _check_beginning(self, line: bytes, limit: int) -> None:
        # A CR at its end may be the line's end.
        if len(line) > limit + line.endswith(b"\r"):
            if self._in_trailer:
                raise HttpError(431, f"the trailers have over {MAX_TRAILER_BYTES} bytes")
            raise HttpError(400, f"a chunk's size line has over {MAX_CHUNK_LINE_BYTES} bytes")
        if b"\n" in line or b"\r" in line[:-1]:
            raise HttpError(400, "a line of the chunked body ends without CR LF")

    def _line(self, line: bytes) -> None:
        if self._in_trailer:
            self._trailer_bytes = min(self._trailer_bytes + len(line) + 2, MAX_TRAILER_BYTES)
            if not line:
                self.finished = True
            else:
                field = _TRAILER.fullmatch(line)
                if field is None or field[1].lower() in _NO_TRAILERS:
                    raise HttpError(400, "a trailer is not a header field, or one that belongs into the head")
            return
        size = _SIZE.fullmatch(line)
        if size is None:
            if _EXTENDED.match(line):
                raise HttpError(400, "a chunk's extension is not ;NAME=VALUE")
            raise HttpError(400, "a chunk's size is not a hexadecimal number")
        left = self._left = int(size[1], 16)
        self._in_trailer = left == 0
        if self._room is not None:
            self._room -= left
            if self._room < 0:
                raise HttpError(413, f"the body has over {self._limit} bytes")
        if len(line) > 16:
            self._excess = max(0, self._excess + len(line) - 16 - left)
            if self._excess > MAX_EXCESS_BYTES:
                raise HttpError(400, f"the chunk extensions have over {MAX_EXCESS_BYTES} bytes")

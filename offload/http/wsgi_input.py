"""``wsgi.input``: a request's body as a file.

A small body, and a chunked one, is collected before the application is called. The others stream: the loop puts chunks
in, the application's greenlet takes them out, and waits for what has not arrived yet. While more waits than is read,
the connection stops reading, so that a large upload never lies in memory whole.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, ClassVar

from gevent.event import Event

from offload.protocol.http.request import HttpError
from offload.transport.pool import wait_for_client

HIGH_WATER_BYTES = 131072
LOW_WATER_BYTES = 32768


class BodyError(OSError):
    """The body ended before its end: the client went away, was too slow, sent too much, or broke the framing.

    Attributes:
        status: what to answer, if an answer is still possible.
    """

    def __init__(self, reason: HttpError) -> None:
        super().__init__(str(reason))
        self.status = reason.status


@dataclass(slots=True, eq=False)
class CollectedBody:
    """A body that is whole before the application sees it: in memory as far as it fits, then in a file without a name.

    Args:
        memory_bytes: how much is kept in memory.

    Attributes and methods: as of `StreamedBody`; the application never waits, nor hears of a failure.
    """

    _memory_bytes: int
    _file: IO[bytes] = field(default_factory=io.BytesIO)
    complete: bool = False
    length: int | None = None
    received: int = 0
    awaits_client: ClassVar[bool] = True
    before_first_read: ClassVar[None] = None

    def feed(self, chunk: bytes) -> None:
        """Keep a piece. Raises ``OSError`` where the disk takes no more."""
        had, self.received = self.received, self.received + len(chunk)
        if had <= self._memory_bytes < self.received:
            memory = self._file
            self._file = tempfile.TemporaryFile(prefix="offload-body-")  # noqa: SIM115 -- see `discard`
            memory.seek(0)
            shutil.copyfileobj(memory, self._file)
        self._file.write(chunk)

    def ask_first(self, before_first_read: Callable[[], None]) -> None:
        pass

    def finish(self) -> None:
        self._file.seek(0)
        self.complete = True
        self.length = self.received

    def open(self) -> IO[bytes]:
        return self._file

    def fail(self, reason: HttpError) -> None:
        if not self.complete:
            self.discard()

    def discard(self) -> None:
        """What has a file is closed; what an application keeps of the memory is its own."""
        if not isinstance(self._file, io.BytesIO):
            self._file.close()
        self._file = io.BytesIO()


@dataclass(slots=True, eq=False)
class StreamedBody:
    """A body that the application reads while it arrives.

    Args:
        pause, resume: hold back and let on the connection's reading.
        length: its size in bytes where the client told it.

    Attributes:
        complete: whether all of it has arrived.
        received: bytes that have arrived.
        before_first_read: called once when the application first wants what has not arrived, or None. A client
            that waits for "100 Continue" has been told once this is None again.
    """

    _pause: Callable[[], None]
    _resume: Callable[[], None]
    length: int | None = None
    received: int = 0
    before_first_read: Callable[[], None] | None = None
    complete: bool = False
    _chunks: deque[bytes] = field(default_factory=deque)
    # How much of the first chunk has been taken.
    _at: int = 0
    _size: int = 0
    _paused: bool = False
    _arrived: Event = field(default_factory=Event)
    _failure: HttpError | None = None
    _discarding: bool = False

    def open(self) -> IO[bytes]:
        """For the application. Its reads wait for what has not arrived."""
        return io.BufferedReader(_Reader(self))

    # The loop's side.

    @property
    def awaits_client(self) -> bool:
        """Whether it is the client's to send, and not ours to read."""
        return not self._paused and self.before_first_read is None

    def feed(self, chunk: bytes) -> None:
        """A piece of the body has arrived."""
        self.received += len(chunk)
        if self._discarding:
            return
        # Whoever sends has not waited to be told.
        self.before_first_read = None
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._pause()
        self._arrived.set()

    def ask_first(self, before_first_read: Callable[[], None]) -> None:
        """Have this called when the application first has to wait, unless the client has begun to send unasked."""
        if not self._chunks and not self.complete:
            self.before_first_read = before_first_read

    def finish(self) -> None:
        """The body is whole."""
        self.complete = True
        self._arrived.set()

    def fail(self, reason: HttpError) -> None:
        """The rest will not come."""
        if not self.complete and self._failure is None:
            self._failure = reason
            self._arrived.set()

    def discard(self) -> None:
        """What is and what comes is dropped, and what is kept of this object reads empty.

        The connection's reading is the caller's again.
        """
        self._discarding = True
        self._chunks.clear()
        self._at = self._size = 0
        self._paused = False
        self._arrived.set()

    # The application's side.

    def take(self, most: int) -> bytes:
        """Up to `most` of the bytes that are there, as soon as there are any; b"" at the body's end.

        Raises:
            BodyError: the rest will not come.
        """
        while not self._chunks:
            if self.complete or self._discarding:
                return b""
            if self._failure is not None:
                raise BodyError(self._failure)
            if self.before_first_read is not None:
                before, self.before_first_read = self.before_first_read, None
                before()
            self._arrived.clear()
            wait_for_client(self._arrived.wait)
        piece = self._chunks[0][self._at : self._at + most]
        self._at += len(piece)
        if self._at == len(self._chunks[0]):
            self._at = 0
            self._chunks.popleft()
        self._size -= len(piece)
        if self._paused and self._size <= LOW_WATER_BYTES:
            self._paused = False
            self._resume()
        return piece


class _Reader(io.RawIOBase):
    """A streamed body as a raw file, for `io.BufferedReader`."""

    def __init__(self, body: StreamedBody) -> None:
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._body.take(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def readall(self) -> bytes:
        # The inherited one takes 8 KiB at a time.
        return b"".join(iter(partial(self._body.take, sys.maxsize), b""))


Body = CollectedBody | StreamedBody
"""A request's body, as its connection and its exchange see it."""

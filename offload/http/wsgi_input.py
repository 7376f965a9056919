"""``wsgi.input``: a request's body as a file.

A small body, and a chunked one, is collected before the application is called. The others stream: the loop puts chunks
in, the application's greenlet takes them out, and waits for what has not arrived yet. While more waits than is read,
the connection stops reading, so that a large upload never lies in memory whole.
"""

from __future__ import annotations

import io
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from gevent.event import Event

from offload.transport.pool import wait_for_client

HIGH_WATER_BYTES = 131072
LOW_WATER_BYTES = 32768


class BodyError(OSError):
    """The body ended before its end: the client went away, was too slow, sent too much, or broke the framing.

    Attributes:
        status: what to answer, if an answer is still possible.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True, eq=False)
class CollectedBody:
    """A body that is whole before the application sees it: in memory as far as it fits, then in a file without a name.

    Args:
        memory_bytes: how much is kept in memory.

    Attributes and methods: as of `StreamedBody`; the application never waits, nor hears of a failure.
    """

    _memory_bytes: int
    _chunks: list[bytes] = field(default_factory=list)
    _file: IO[bytes] | None = None
    before_first_read: Callable[[], None] | None = None
    complete: bool = False
    length: int | None = None
    received: int = 0

    @property
    def awaits_client(self) -> bool:
        return True

    def feed(self, chunk: bytes) -> None:
        """Keep a piece. Raises ``OSError`` where the disk takes no more."""
        self.received += len(chunk)
        if self._file is not None:
            self._file.write(chunk)
            return
        self._chunks.append(chunk)
        if self.received > self._memory_bytes:
            self._file = tempfile.TemporaryFile(prefix="offload-body-")  # noqa: SIM115 -- see `discard`
            self._file.writelines(self._chunks)
            self._chunks.clear()

    def ask_first(self, before_first_read: Callable[[], None]) -> None:
        pass

    def finish(self) -> None:
        if self._file is None:
            self._file = io.BytesIO(b"".join(self._chunks))
            self._chunks.clear()
        else:
            self._file.seek(0)
        self.complete = True
        self.length = self.received

    @property
    def file(self) -> Any:
        assert self._file is not None
        return self._file

    def fail(self, status: int, reason: str) -> None:
        self.discard()

    def discard(self) -> None:
        """What has a file is closed; what an application keeps of the memory is its own."""
        if self._file is not None and not isinstance(self._file, io.BytesIO):
            self._file.close()
        self._file = None


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
    # Most bodies arrive with their heads, and nobody waits for them.
    _arrived: Event | None = None
    _failure: tuple[int, str] | None = None
    _discarding: bool = False

    @property
    def file(self) -> Any:
        """For the application."""
        return self

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
        if self._arrived is not None:
            self._arrived.set()

    def ask_first(self, before_first_read: Callable[[], None]) -> None:
        """Have this called when the application first has to wait, unless the client has begun to send unasked."""
        if not self._chunks and not self.complete:
            self.before_first_read = before_first_read

    def finish(self) -> None:
        """The body is whole."""
        self.complete = True
        if self._arrived is not None:
            self._arrived.set()

    def fail(self, status: int, reason: str) -> None:
        """The rest will not come."""
        if not self.complete and self._failure is None:
            self._failure = status, reason
            if self._arrived is not None:
                self._arrived.set()

    def discard(self) -> None:
        """What is and what comes is dropped, and what is kept of this object reads empty.

        The connection's reading is the caller's again.
        """
        self._discarding = True
        self._chunks.clear()
        self._at = self._size = 0
        self._paused = False
        if self._arrived is not None:
            self._arrived.set()

    # The application's side.

    def _let_on(self) -> None:
        if self._paused and self._size <= LOW_WATER_BYTES:
            self._paused = False
            self._resume()

    def _wait(self) -> bool:
        """Wait for a chunk; False at the body's end."""
        while not self._chunks:
            if self.complete or self._discarding:
                return False
            if self._failure is not None:
                raise BodyError(*self._failure)
            if self.before_first_read is not None:
                before, self.before_first_read = self.before_first_read, None
                before()
            arrived = self._arrived
            if arrived is None:
                arrived = self._arrived = Event()
            arrived.clear()
            wait_for_client(arrived.wait)
        return True

    def _take(self, limit: int) -> bytes:
        chunk, begin = self._chunks[0], self._at
        end = begin + limit
        if end < len(chunk):
            self._at = end
        else:
            end = len(chunk)
            self._at = 0
            self._chunks.popleft()
        self._size -= end - begin
        self._let_on()
        return chunk[begin:end]

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes, fewer only at the end; all that comes when `size` is negative or None."""
        if size is None or size < 0:
            pieces = []
            while self._wait():
                pieces.append(self._take(1 << 62))
            return b"".join(pieces)
        pieces = []
        while size > 0 and self._wait():
            piece = self._take(size)
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def readline(self, size: int | None = -1) -> bytes:
        """Up to and with the next line feed, or `size` bytes."""
        left = 1 << 62 if size is None or size < 0 else size
        pieces = []
        while left > 0 and self._wait():
            at = self._chunks[0].find(b"\n", self._at)
            piece = self._take(left if at < 0 else min(left, at + 1 - self._at))
            pieces.append(piece)
            left -= len(piece)
            if piece.endswith(b"\n"):
                break
        return b"".join(pieces)

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """The lines that are left, or about `hint` bytes of them."""
        lines = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


Body = CollectedBody | StreamedBody
"""A request's body, as its connection and its exchange see it."""

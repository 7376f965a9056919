"""``wsgi.input``: a request's body as a file that waits for what has not arrived yet.

The loop puts chunks in, the application's greenlet takes them out. While more waits than is read, the connection
stops reading, so that a large upload never lies in memory whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from gevent.event import Event

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


class RequestBody:
    """The input stream of one request.

    Args:
        pause, resume: hold back and let on the connection's reading.
        timeout: seconds without progress before a read fails; None waits for ever.
        length: its size in bytes where the client told it.

    Attributes:
        complete: whether all of it has arrived.
        before_first_read: called once when the application first wants what has not arrived, or None. A client
            that waits for "100 Continue" has been told once this is None again.
    """

    __slots__ = (
        "_arrived",
        "_at",
        "_chunks",
        "_discarding",
        "_failure",
        "_pause",
        "_paused",
        "_resume",
        "_size",
        "_timeout",
        "before_first_read",
        "complete",
        "length",
    )

    def __init__(
        self, pause: Callable[[], None], resume: Callable[[], None], timeout: float | None, length: int | None = None
    ) -> None:
        self.length = length
        self.before_first_read: Callable[[], None] | None = None
        self._pause = pause
        self._resume = resume
        self._timeout = timeout
        self._chunks: deque[bytes] = deque()
        # How much of the first chunk has been taken.
        self._at = 0
        self._size = 0
        self._paused = False
        # Most bodies arrive with their heads, and nobody waits for them.
        self._arrived: Event | None = None
        self._failure: tuple[int, str] | None = None
        self.complete = False
        self._discarding = False

    # The loop's side.

    def feed(self, chunk: bytes) -> None:
        """A piece of the body has arrived."""
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
        """The application is done: what is and what comes is dropped, and what is kept of this object reads empty.

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
            if not arrived.wait(self._timeout):
                self.fail(408, f"no more of the request body came for {self._timeout:g} s")
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

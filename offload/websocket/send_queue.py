"""The mailbox: frames that wait for a client that reads too slowly.

It exists only while the socket takes nothing more. Frames stay whole here, so that old ones can be dropped, and
control frames can pass the others.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

_CHUNK_BYTES = 65536


class Overflow(Enum):
    """What happens when a client's unsent bytes pass their limit; the values are those of ``--ws-overflow``."""

    CLOSE = "close"
    DROP_OLDEST = "drop-oldest"
    DROP_NEWEST = "drop-newest"


class Mailbox:
    """One connection's waiting frames.

    Attributes:
        size: bytes of the data frames that wait.
        dropped: how many messages were dropped so far.
    """

    __slots__ = ("_control", "_frames", "dropped", "size")

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        # The latest of each kind is enough: one pong answers all pings before it (RFC 6455, 5.5.3).
        self._control: dict[int, bytes] | None = None
        self.size = 0
        self.dropped = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._frames and self._control is None

    def put(self, frame: bytes) -> None:
        """Let a data frame wait, or the close frame behind them all."""
        self._frames.append(frame)
        self.size += len(frame)

    def put_control(self, frame: bytes) -> None:
        """Let a ping or a pong wait, ahead of all data."""
        if self._control is None:
            self._control = {}
        self._control[frame[0]] = frame

    def drop_oldest(self, room: int) -> int:
        """Drop whole frames, the oldest first, until `room` bytes or fewer wait. Returns how many."""
        count = 0
        while self._frames and self.size > room:
            self.size -= len(self._frames.popleft())
            count += 1
        self.dropped += count
        return count

    def take(self) -> bytes:
        """The next bytes to send: whole frames, joined; b"" when nothing waits."""
        pieces: list[bytes] = []
        size = 0
        if self._control is not None:
            pieces += self._control.values()
            self._control = None
        frames = self._frames
        while frames and size < _CHUNK_BYTES:
            frame = frames.popleft()
            pieces.append(frame)
            size += len(frame)
        self.size -= size
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def take_all(self) -> bytes:
        """All that waits."""
        pieces = [*(self._control or {}).values(), *self._frames]
        self._control = None
        self._frames.clear()
        self.size = 0
        return b"".join(pieces)

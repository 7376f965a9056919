"""The send queue: frames that wait for a client that reads too slowly, up to a limit.

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


class SendQueue:
    """One connection's waiting frames.

    Attributes:
        dropped: how many messages were dropped so far.
    """

    __slots__ = ("_control", "_frames", "_size", "dropped")

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        # The latest of each kind is enough: one pong answers all pings before it (RFC 6455, 5.5.3).
        self._control: dict[int, bytes] = {}
        # Bytes of the data frames.
        self._size = 0
        self.dropped = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._frames and not self._control

    def fits(self, room: int) -> bool:
        """Whether `room` bytes or fewer wait."""
        return self._size <= room

    def put(self, frame: bytes) -> None:
        """Let a data frame wait, or the close frame behind them all."""
        self._frames.append(frame)
        self._size += len(frame)

    def put_control(self, frame: bytes) -> None:
        """Let a ping or a pong wait, ahead of all data."""
        self._control[frame[0]] = frame

    def drop_oldest(self, room: int) -> int:
        """Drop whole frames, the oldest first, until `room` bytes or fewer wait. Returns how many."""
        count = 0
        while self._frames and self._size > room:
            self._size -= len(self._frames.popleft())
            count += 1
        self.dropped += count
        return count

    def take(self, size: float = _CHUNK_BYTES) -> bytes:
        """The next bytes to send: whole frames, joined, until they have `size` bytes; b"" when nothing waits."""
        pieces = list(self._control.values())
        self._control.clear()
        frames, taken = self._frames, 0
        while frames and taken < size:
            frame = frames.popleft()
            pieces.append(frame)
            taken += len(frame)
        self._size -= taken
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

"""How many connections each process holds, and how often its loop has beaten, in memory that all of them share."""

from __future__ import annotations

import mmap

_SLACK = 2
"""Connections above the mean that are not worth a detour."""
_FEW = 16
"""With no more connections than this, each counts."""

FURTHER = 16
"""Counters for what TTIN adds."""

_NOBODY = -1
_ASIDE = -2
"""Of a process that does not accept, or not yet: neither a counter that is free, nor one to be compared with."""


class SharedLoad:
    """One counter for each process that accepts; made before the forks. A process writes its own counter only.

    Args:
        processes: the most that may count at once; while they are replaced, two for each place.
    """

    def __init__(self, processes: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 8 * processes)).cast("q")
        self._beats = memoryview(mmap.mmap(-1, 8 * processes)).cast("q")
        for number in range(processes):
            self._counts[number] = _NOBODY

    def take(self) -> int:
        """A counter that nobody uses, for a process about to be forked. Where all are in use, the last is shared."""
        free = (number for number, count in enumerate(self._counts) if count == _NOBODY)
        number = next(free, len(self._counts) - 1)
        self._counts[number] = self._beats[number] = 0
        return number

    def slot(self, number: int) -> LoadSlot:
        """The view of the process that was forked for this counter."""
        return LoadSlot(self._counts, self._beats, number)

    def put_aside(self, number: int) -> None:
        """The process with this counter accepts nothing yet."""
        self._counts[number] = _ASIDE

    def join(self, number: int) -> None:
        """The process with this counter is about to accept."""
        self._counts[number] = 0

    def beats(self, number: int) -> int:
        """How often the loop of the process with this counter has beaten."""
        return self._beats[number]

    def clear(self, number: int) -> None:
        """The process is gone, with its connections."""
        self._counts[number] = _NOBODY


class LoadSlot:
    """One process's view."""

    __slots__ = ("_beats", "_counts", "_leaving", "_number", "connections")

    def __init__(self, counts: memoryview[int], beats: memoryview[int], number: int) -> None:
        self._counts = counts
        self._beats = beats
        self._number = number
        self._leaving = False
        self.connections = 0

    def beat(self) -> None:
        """The loop has turned."""
        self._beats[self._number] += 1

    def leave(self) -> None:
        """Accept no more: the connections that are left are not to be compared with others'."""
        self._leaving = True
        self._counts[self._number] = _ASIDE

    def let_go(self) -> None:
        """In a forked child: the counter is its parent's."""
        self._leaving = True

    def change(self, by: int) -> None:
        """Connections came or went."""
        self.connections += by
        if not self._leaving:
            self._counts[self._number] = self.connections

    def is_above_mean(self) -> bool:
        """Whether others hold fewer connections."""
        counts = [count for count in self._counts if count >= 0]
        slack = _SLACK if self.connections > _FEW else 0
        return self.connections * len(counts) > sum(counts) + slack * len(counts)

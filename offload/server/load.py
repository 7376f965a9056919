"""How many connections each server process holds, in memory that all of them share."""

from __future__ import annotations

import mmap

_SLACK = 2
"""Connections above the mean that are not worth a detour."""


class SharedLoad:
    """One counter for each server process; made before the forks. A process writes its own counter only.

    Args:
        slots: number of server processes.
    """

    def __init__(self, slots: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 8 * slots)).cast("q")

    def slot(self, number: int) -> LoadSlot:
        """The counter of one process, at zero: a process that took a dead one's place starts without connections."""
        self._counts[number] = 0
        return LoadSlot(self._counts, number)

    def clear(self, number: int) -> None:
        """The process is gone, with its connections."""
        self._counts[number] = 0


class LoadSlot:
    """One process's view."""

    __slots__ = ("_counts", "_number", "connections")

    def __init__(self, counts: memoryview[int], number: int) -> None:
        self._counts = counts
        self._number = number
        self.connections = 0

    def change(self, by: int) -> None:
        """Connections came or went."""
        self.connections += by
        self._counts[self._number] = self.connections

    def is_above_mean(self) -> bool:
        """Whether others hold fewer connections."""
        slots = len(self._counts)
        return slots > 1 and self.connections * slots > sum(self._counts) + (_SLACK if self.connections > 16 else 0)

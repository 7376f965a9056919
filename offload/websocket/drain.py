"""Closing many WebSockets without sending all their clients back at the same moment."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

import gevent

from offload.websocket.keepalive import Member

_SHORTEST_TICK = 0.02
_LONGEST_STEP = 0.2
"""Seconds between two closes at most: a handful of clients is no storm, and nobody likes to wait for a stop."""


class Drain:
    """Closes members one after the other, in random order, evenly over a time.

    Args:
        members: what to close.
        code: what to close with.
        seconds: from the first close to the last, or less where they are few; 0 closes all at once.
    """

    def __init__(self, members: Iterable[Member], code: int, seconds: float) -> None:
        self._remaining = list(members)
        random.shuffle(self._remaining)
        self._code = code
        self._count = len(self._remaining)
        self._loop = gevent.get_hub().loop
        self._began = time.monotonic()
        self._seconds = min(seconds, _LONGEST_STEP * (self._count - 1))
        self._timer = self._loop.timer(0.0, ref=False)
        self._tick()

    def _tick(self) -> None:
        passed = time.monotonic() - self._began
        # The first leaves at once, the last at the end.
        due = self._count
        if passed < self._seconds:
            due = 1 + int((self._count - 1) * passed / self._seconds)
        for _ in range(due - (self._count - len(self._remaining))):
            self._remaining.pop().close(self._code)
        self._timer.close()
        if self._remaining:
            step = self._seconds / (self._count - 1)
            self._timer = self._loop.timer(max(_SHORTEST_TICK, step), ref=False)
            self._timer.start(self._tick)

"""Timeouts for many connections at the price of one timer, and least rates.

All members of one `Timeouts` wait equally long, so they fall due in the order in which they were added: a dict keeps
that order, and only its first member is ever looked at. Members of a `LeastRate` are looked at one by one, about once
a second. By the monotonic clock: the loop's own one is set back and forth with the machine's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import gevent

M = TypeVar("M")

_COARSENESS = 0.1
"""Seconds by which members may fall due together."""


class Timeouts(Generic[M]):
    """Calls `expired` with each member that stayed for `seconds`.

    Args:
        seconds: how long; None keeps nothing and calls nothing.
        expired: called in the loop; it must not raise or wait. The member has left already.
    """

    def __init__(self, seconds: float | None, expired: Callable[[M], None]) -> None:
        self.seconds = seconds
        self._expired = expired
        self._deadlines: dict[M, float] = {}
        self._loop = gevent.get_hub().loop
        # Does not keep the loop alive by itself.
        self._timer = self._loop.timer(seconds or 0.0, ref=False)
        self._armed = False
        # When the timer is to fire; and whether it was late the last time, and nobody's time has ended since.
        self._due = 0.0
        self._was_late = False

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, member: M) -> None:
        """Begin the member's time, again if it had begun."""
        if self.seconds is None:
            return
        self._deadlines.pop(member, None)
        self._deadlines[member] = time.monotonic() + self.seconds
        if not self._armed:
            self._arm(self.seconds)

    def discard(self, member: M) -> None:
        """End the member's time; no error when it had not begun."""
        self._deadlines.pop(member, None)

    def shorten(self, seconds: float) -> None:
        """Let members wait for `seconds` at most from now on; those that wait already begin anew."""
        self.seconds = seconds if self.seconds is None else min(self.seconds, seconds)
        waiting = list(self._deadlines)
        self._deadlines.clear()
        self._armed = False
        for member in waiting:
            self.add(member)

    def _arm(self, seconds: float) -> None:
        self._armed = True
        self._due = time.monotonic() + seconds + _COARSENESS
        self._timer.close()
        self._timer = self._loop.timer(seconds + _COARSENESS, ref=False)
        self._timer.start(self._fire)

    def _fire(self) -> None:
        self._armed = False
        now = time.monotonic()
        if now - self._due > _COARSENESS and not self._was_late:
            # Somebody has blocked the loop, and its timers come before its reads: the members' data may have arrived
            # long ago. They get the time of some turns to read it.
            self._was_late = True
            self._arm(0.0)
            return
        self._was_late = False
        try:
            self._end_due(now)
        finally:
            # Also when something was raised, by a handler of the log for instance: the others' times go on.
            if self._deadlines and not self._armed:
                self._arm(max(0.0, next(iter(self._deadlines.values())) - now))

    def _end_due(self, now: float) -> None:
        while self._deadlines:
            member, deadline = next(iter(self._deadlines.items()))
            if deadline > now:
                return
            del self._deadlines[member]
            self._expired(member)


GRACE_SECONDS = 5.0
"""A member of a `LeastRate` may take this long to begin."""
_TICK_SECONDS = 1.0


class _Credit:
    """How far a member had come when it was last looked at, and when its time is over."""

    __slots__ = ("total", "until")

    def __init__(self, total: int, until: float) -> None:
        self.total = total
        self.until = until


class LeastRate(Generic[M]):
    """Calls `expired` with each member that is too slow.

    What a member gets done gives it as much more time as that may take at the least rate, but no more than `seconds`
    from then: those that stand still end after a while, and so do those that do a little now and then.

    Args:
        seconds: longest time without progress; None for no limit.
        rate: least progress a second after a grace; None for none.
        progress: how far a member has come, a number that grows; None while the delay is not the member's.
        expired: called in the loop; it must not raise or wait. The member has left already.
    """

    def __init__(
        self,
        seconds: float | None,
        rate: float | None,
        progress: Callable[[M], int | None],
        expired: Callable[[M], None],
    ) -> None:
        self._seconds = math.inf if seconds is None else seconds
        self._rate = rate
        self._progress = progress
        self._expired = expired
        self._credits: dict[M, _Credit] = {}
        self._loop = gevent.get_hub().loop
        self._interval = min(_TICK_SECONDS, self._seconds / 4)
        self._timer = self._loop.timer(self._interval, ref=False)
        self._armed = False
        self._looked = 0.0

    def __len__(self) -> int:
        return len(self._credits)

    def add(self, member: M) -> None:
        """Begin the member's time; nothing when it had begun."""
        if member in self._credits:
            return
        seconds = self._seconds if self._rate is None else min(GRACE_SECONDS, self._seconds)
        if seconds == math.inf:
            return
        self._credits[member] = _Credit(self._progress(member) or 0, time.monotonic() + seconds)
        if not self._armed:
            self._arm()

    def discard(self, member: M) -> None:
        """End the member's time; no error when it had not begun."""
        self._credits.pop(member, None)

    def _arm(self) -> None:
        self._armed = True
        self._looked = time.monotonic()
        self._timer.start(self._look)

    def _look(self) -> None:
        self._armed = False
        now = time.monotonic()
        passed = now - self._looked
        try:
            # Somebody has blocked the loop, and its timers come before its reads: that time is nobody's fault.
            self._look_at_each(now, passed, spares_all=passed > self._interval + _COARSENESS)
        finally:
            if self._credits:
                self._arm()

    def _look_at_each(self, now: float, passed: float, spares_all: bool) -> None:
        for member, credit in list(self._credits.items()):
            total = self._progress(member)
            if total is None or spares_all:
                credit.until += passed
                continue
            done, credit.total = total - credit.total, total
            if done > 0:
                earned = math.inf if self._rate is None else credit.until + done / self._rate
                credit.until = min(earned, now + self._seconds)
            if credit.until <= now and self._credits.pop(member, None) is not None:
                self._expired(member)

"""Timeouts for many connections at the price of one timer.

All members of one `Timeouts` wait equally long, so they fall due in the order in which they were added: a dict keeps
that order, and only its first member is ever looked at. By the monotonic clock: the loop's own one is set back and
forth with the machine's.
"""

from __future__ import annotations

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
        """The member is not waited for any more; no error when it was not."""
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
            # Somebody has blocked the loop, and its timers come before its reads: what the members are waited for may
            # have arrived long ago. They have the time of some turns to say so.
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

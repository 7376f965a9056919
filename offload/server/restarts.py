"""When what has ended is started again: at once, or after a pause that grows where it keeps failing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("offload.server")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
"""Pauses before what keeps failing is tried again."""
SETTLED_SECONDS = 5.0
"""What lived this long was not failing at its start."""


class Restarts:
    """The restarts that are due, now or later."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, Callable[[], None]]] = []
        # What failed last, and how long it was made to wait for that.
        self._pauses: dict[object, float] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def pause_after(self, key: object, lived: float, was_ready: bool) -> float:
        """Count an end.

        Args:
            key: what has ended; the same for what is started in its stead.
            lived: seconds from its start.
            was_ready: whether it got as far as its work.

        Returns:
            Nothing for what had settled, and for the first time that what was ready ended early; for all others seconds
            that double each time.
        """
        if lived >= SETTLED_SECONDS:
            self._pauses.pop(key, None)
            return 0.0
        last = self._pauses.get(key)
        if last is None and was_ready:
            pause = 0.0
        else:
            pause = min(max(2 * (last or 0.0), FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._pauses[key] = pause
        return pause

    def add(self, pause: float, restart: Callable[[], None]) -> None:
        """Call it after so many seconds."""
        self._waiting.append((time.monotonic() + pause, restart))

    def try_again(self, key: object, what: str, error: OSError, restart: Callable[[], None]) -> None:
        """What could not be started is tried again, after a pause that grows."""
        pause = self.pause_after(key, 0.0, was_ready=False)
        log.error("no %s can be started: %s; trying again in %g s", what, error.strerror, pause)
        self.add(pause, restart)

    def moments(self) -> list[float]:
        """When they are due, by the monotonic clock."""
        return [moment for moment, _ in self._waiting]

    def run_due(self) -> None:
        """Call those whose pause is over."""
        now = time.monotonic()
        due = [restart for moment, restart in self._waiting if moment <= now]
        self._waiting = [entry for entry in self._waiting if entry[0] > now]
        for restart in due:
            restart()

    def hurry(self) -> None:
        """What failed has been mended, perhaps: no pause goes on, and the next ones begin anew."""
        self._pauses.clear()
        now = time.monotonic()
        self._waiting = [(now, restart) for _, restart in self._waiting]

    def clear(self) -> None:
        """Nothing is started again."""
        self._waiting.clear()

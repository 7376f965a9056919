"""The supervisor's look at the beats of its processes: a loop that has not beaten for --timeout is stuck."""

from __future__ import annotations

import time
from collections.abc import Mapping

_LOOK_SECONDS = 1.0
"""How often the supervisor looks; more often where the time is short."""


class Heartbeats:
    """What has been seen of each process."""

    def __init__(self) -> None:
        self._pause = _LOOK_SECONDS
        self._looked = time.monotonic()
        # By process: the count of beats, and for how long it has been the same.
        self._seen: dict[int, tuple[int, float]] = {}

    @property
    def next_look(self) -> float | None:
        """When to ask again, by the monotonic clock."""
        return self._looked + self._pause if self._seen else None

    def stuck(self, beats: Mapping[int, int], timeout: float | None) -> list[int]:
        """Processes that have not beaten for too long.

        Args:
            beats: how often each has, by its process id; 0 for one that has not begun.
            timeout: seconds without a beat; None for no limit.
        """
        if timeout is None:
            self._seen = {}
            return []
        self._pause = min(_LOOK_SECONDS, timeout / 4)
        now = time.monotonic()
        # The supervisor itself may have been stopped meanwhile, and they with it.
        passed, self._looked = min(now - self._looked, 2 * self._pause), now
        before, self._seen = self._seen, {}
        for pid, count in beats.items():
            last, since = before.get(pid, (0, 0.0))
            self._seen[pid] = (count, since + passed if count and count == last else 0.0)
        return [pid for pid, (_, since) in self._seen.items() if since >= timeout]

"""The limits of a process's life: after so many requests, so much memory, or so much time another takes its place."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from offload.settings import ReplaceOptions
from offload.transport.pool import Pool

if TYPE_CHECKING:
    from gevent._types import _Loop

_LOOK_SECONDS = 0.25


class Lifetime:
    """Looks now and then whether a limit is passed.

    Args:
        loop: gevent's.
        options: the limits.
        pools: they count what has been served.
        outlived: called once, with the limit that is passed, in words.
    """

    def __init__(
        self, loop: _Loop, options: ReplaceOptions, pools: Iterable[Pool], outlived: Callable[[str], object]
    ) -> None:
        self._options = options
        self._pools = tuple(pools)
        self._outlived = outlived
        self._began = time.monotonic()
        self._requests: int | None = None
        if options.max_requests is not None:
            self._requests = options.max_requests + random.randint(0, options.max_requests_jitter)
        self._timer = loop.timer(_LOOK_SECONDS, _LOOK_SECONDS, ref=False)
        if options.max_requests is not None or options.max_rss is not None or options.max_lifetime is not None:
            self._timer.start(self._look)

    def stop(self) -> None:
        """The process ends anyway."""
        self._timer.stop()

    def _look(self) -> None:
        passed = self._passed()
        if passed is not None:
            self._timer.stop()
            self._outlived(passed)

    def _passed(self) -> str | None:
        options = self._options
        served = sum(pool.ended for pool in self._pools)
        if self._requests is not None and served >= self._requests:
            return f"it has served {served} requests and messages (--max-requests)"
        lived = time.monotonic() - self._began
        if options.max_lifetime is not None and lived >= options.max_lifetime:
            return f"it has run for {lived:.0f} s (--max-lifetime)"
        if options.max_rss is not None:
            resident = resident_bytes()
            if resident >= options.max_rss:
                return f"it holds {resident} bytes of memory (--max-rss)"
        return None


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

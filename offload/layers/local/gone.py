"""Which other processes were found gone, so that nobody waits for the same one a second time.

Process tokens are never used again, so that they could be kept for ever; but a process that was only cut off for long
may come back, and is forgotten here when it is heard of.
"""

from __future__ import annotations

import time
from _thread import RLock
from collections import OrderedDict
from collections.abc import Callable

_KEPT = 60.0
_MOST = 1000


class GoneProcesses:
    """Process tokens, the latest thousand of the last minute.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = RLock()
        self._found: OrderedDict[str, float] = OrderedDict()  # when, oldest first

    def add(self, process: str) -> None:
        with self._lock:
            self._found[process] = self._clock()
            self._found.move_to_end(process)
            if len(self._found) > _MOST:
                self._found.popitem(last=False)

    def forget(self, process: str) -> None:
        # Nearly always there is nothing to forget, and looking takes no lock.
        if process in self._found:
            with self._lock:
                self._found.pop(process, None)

    def __contains__(self, process: str) -> bool:
        with self._lock:
            found = self._found.get(process)
            if found is None:
                return False
            if found + _KEPT > self._clock():
                return True
            del self._found[process]
            return False

"""Those who wait for a place on a channel that is full: a few of them try now and then, the others wait to be let on.

Each that leaves lets two others try, so that their number doubles while there is room. Were all to try for
themselves, a thousand handshakes at once would cost several refused sends each.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque

MOST_TRYING = 4
LET_ON = 2


class FullChannel:
    """One channel. Whoever calls `wait` calls `let_on` when it has a place, or wants none any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trying = 0
        self._waiting: deque[threading.Event] = deque()

    def wait(self, pause: float, deadline: float) -> None:
        """Return when it is worth another try.

        Args:
            pause: seconds until then, for those who try now and then.
            deadline: on the monotonic clock; the others wait no longer.
        """
        let_on = threading.Event()
        with self._lock:
            tries = self._trying < MOST_TRYING
            if tries:
                self._trying += 1
            else:
                self._waiting.append(let_on)
        try:
            # Not all together again.
            let_on.wait(pause * random.uniform(0.5, 1.0) if tries else deadline - time.monotonic())
        finally:
            with self._lock:
                if tries:
                    self._trying -= 1
                elif let_on in self._waiting:
                    self._waiting.remove(let_on)

    def let_on(self) -> None:
        """Have others try."""
        if self._waiting:
            with self._lock:
                for _ in range(min(LET_ON, len(self._waiting))):
                    self._waiting.popleft().set()

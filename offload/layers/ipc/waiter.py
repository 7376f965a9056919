"""A thread's wait for the answer to its request, or for the connection."""

from __future__ import annotations

import threading
from typing import Any


class Waiter:
    """One wait for one thing. A bare lock: many are made, and a condition or event costs several."""

    __slots__ = ("_lock", "error", "frame")

    def __init__(self) -> None:
        self.frame: list[Any] | None = None
        self.error: Exception | None = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float | None) -> bool:
        return self._lock.acquire(timeout=-1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX))

    def wake(self) -> None:
        self._lock.release()

"""Work that waits for a server, in lanes: in order in one lane, and lanes beside each other.

A lane that waits holds up no other. What has gathered for a lane meanwhile is done together. Each lane with work has a
thread, which ends when there has been none for a while. Knows no server.
"""

from __future__ import annotations

import logging
import threading
from _thread import RLock
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from offload.layers.link.thread import Duty

logger = logging.getLogger("offload.layer")

Item = TypeVar("Item")


class _Lane(Generic[Item]):
    def __init__(self, run: Callable[[_Lane[Item]], None]) -> None:
        self.items: list[Item] = []
        # A bare lock, which a signal in the middle cannot break, as it can an event.
        self.gate = threading.Lock()
        self.gate.acquire()
        self.sleeps = False
        self.duty = Duty(partial(run, self), "offload-layer-lane")

    def wake(self) -> None:
        """With the lock."""
        if self.sleeps:
            self.gate.release()
            self.sleeps = False


class Lanes(Generic[Item]):
    """
    Args:
        work: is given a lane's name and what has gathered for it, one call at a time for each lane. It may wait.
        idle: seconds that a lane's thread waits for the next item.
    """

    def __init__(self, work: Callable[[str, list[Item]], None], idle: float = 10.0) -> None:
        self._work = work
        self._idle = idle
        self._lock = RLock()
        self._lanes: dict[str, _Lane[Item]] = {}
        self._closed = False

    def put(self, name: str, item: Item) -> None:
        """Neither waits nor raises; nothing happens after `close`."""
        with self._lock:
            if self._closed:
                return
            lane = self._lanes.get(name)
            if lane is None:
                lane = self._lanes[name] = _Lane(partial(self._run, name))
            lane.items.append(item)
            lane.wake()
        try:
            lane.duty.ensure()
        except RuntimeError as error:
            logger.warning("requests of another process are held up: %s", error)

    def close(self) -> None:
        """What has begun is finished, unless it ends with its connections; the rest is dropped."""
        with self._lock:
            self._closed = True
            for lane in self._lanes.values():
                lane.items.clear()
                lane.wake()

    def _run(self, name: str, lane: _Lane[Item]) -> None:
        while True:
            with self._lock:
                items, lane.items = lane.items, []
                if not items and self._closed and lane.duty.may_end(lambda: False):
                    return
                lane.sleeps = not items
            if items:
                try:
                    self._work(name, items)
                except Exception:
                    logger.exception("requests of another process failed")
                del items  # what it holds must not stay for as long as there is no other
            elif not lane.gate.acquire(timeout=self._idle):
                with self._lock:
                    if not lane.sleeps:
                        lane.gate.acquire()  # in this instant something came
                    elif lane.duty.may_end(lambda: False):
                        self._lanes.pop(name, None)
                        return

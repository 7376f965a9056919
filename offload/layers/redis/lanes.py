"""Jobs that wait for a server, in order where they wait for the same one, and beside each other where they do not.

A place that does not answer holds up nobody's jobs but its own. Each place with work has a thread, which ends when
there has been none for a while. Knows no server: a place is a word.
"""

from __future__ import annotations

import logging
import queue
import threading
from _thread import RLock
from collections.abc import Callable

logger = logging.getLogger("offload.layer")

_IDLE = 10.0  # seconds that a thread waits for the next job

Job = Callable[[], None]


class Lanes:
    """Queues of jobs by place. A job does not raise."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._lanes: dict[str, queue.SimpleQueue[Job | None]] = {}
        self._closed = False

    def put(self, place: str, job: Job) -> None:
        """Neither waits nor raises; nothing happens after `close`."""
        with self._lock:
            if self._closed:
                return
            lane = self._lanes.get(place)
            if lane is not None:
                lane.put(job)
                return
            lane = self._lanes[place] = queue.SimpleQueue()
            lane.put(job)
        thread = threading.Thread(target=self._work, args=(place, lane), name="offload-redis-requests", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            with self._lock:
                del self._lanes[place]
            logger.warning("lost a request of another process: %s", error)

    def close(self) -> None:
        """Jobs that have begun are finished, unless they end with their connections."""
        with self._lock:
            self._closed = True
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.put(None)

    def _work(self, place: str, lane: queue.SimpleQueue[Job | None]) -> None:
        while True:
            try:
                job = lane.get(timeout=_IDLE)
            except queue.Empty:
                with self._lock:
                    if lane.empty():
                        del self._lanes[place]
                        return
                continue
            if job is None:
                return
            job()
            del job  # what it holds must not stay for as long as there is no other

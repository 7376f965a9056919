"""Taking messages from queues, wherever they are.

What is there already is taken by a script, together with other senders' commands. Who has to wait for queues of several
shards waits on each at a time, and the first message wins; what another shard gave in the same moment goes back to the
head of its queue. So does what comes for one who was killed, or was told that the server does not answer. Knows no
layer.
"""

from __future__ import annotations

import _thread
import logging
import threading
import time
from _thread import RLock
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from redis.exceptions import RedisError

from offload.exceptions import LayerUnavailable
from offload.layers.redis.scripts import GIVE_BACK, TAKE, payload_of
from offload.layers.redis.shards import Ring, Shard
from offload.layers.redis.waits import Item, Waits

logger = logging.getLogger("offload.layer")


class Takes:
    """Takes messages.

    Args:
        expired, lost: told how many messages were found to have expired, or could not be given back or may have been
            taken by a command whose answer never came.
    """

    def __init__(self, ring: Ring, expired: Callable[[int], None], lost: Callable[[int], None]) -> None:
        self._ring = ring
        self._expired = expired
        self._lost = lost
        self._turn = 0

    def take(self, keys: Sequence[str], timeout: float | None) -> Item | None:
        """The next message of any of these queues, as the queue's key and the payload; None when none came in time.

        Raises:
            LayerUnavailable: also when one of several shards is, and the others have nothing.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        # Redis serves the first queue that has something: each takes its turn at being first.
        self._turn = turn = (self._turn + 1) % 1_000_000
        turn %= len(keys)
        parts = self._ring.parts([*keys[turn:], *keys[:turn]])
        failure: LayerUnavailable | None = None
        for _, some in parts:
            try:
                expired, *found = self._ring.run_script(TAKE, some, unclaimed=partial(self._taken_late, some))
            except LayerUnavailable as error:
                failure = error
                continue
            if expired:
                self._expired(expired)
            if found:
                number, item = found
                return some[number - 1], payload_of(item)
        if failure is not None:
            raise failure
        if deadline is not None and deadline <= time.monotonic():
            return None
        if len(parts) == 1:
            shard, some = parts[0]
            taken = shard.waits.wait(some, deadline, partial(self._found_late, some))
        else:
            taken = _Race(parts, deadline, self._found_late).run()
        return None if taken is None else (taken[0], payload_of(taken[1]))

    def _taken_late(self, keys: Sequence[str], reply: Any) -> None:
        """The script's answer came when nobody waited for it any more, or never, which is None. Does not wait."""
        if reply is None:
            self._found_late(keys, None)
        elif not isinstance(reply, RedisError):
            expired, *found = reply
            if expired:
                self._expired(expired)
            if found:
                number, item = found
                _thread.start_new_thread(self._found_late, (keys, (keys[number - 1], item)))

    def _found_late(self, keys: Sequence[str], found: Item | None) -> None:
        """Put an item at the head of its queue, as if it had not been taken."""
        if found is None:
            self._lost(1)
            logger.warning("may have lost a message of %s: it is unknown whether one was taken", ", ".join(keys))
            return
        key, item = found
        try:
            self._ring.run_script(GIVE_BACK, [key], item)
        except LayerUnavailable as error:
            self._lost(1)
            logger.warning("lost a message of %s, which could not be given back: %s", key, error)


class _Race:
    """Waits on several shards, a thread for each."""

    def __init__(
        self,
        parts: list[tuple[Shard, list[str]]],
        deadline: float | None,
        found_late: Callable[[Sequence[str], Item | None], None],
    ) -> None:
        self._parts = parts
        self._deadline = deadline
        self._found_late = found_late
        self._lock = RLock()
        self._done = threading.Event()
        self._running = len(parts)
        self._over = False
        self._found: Item | None = None
        self._error: LayerUnavailable | None = None
        self._enders: dict[tuple[Waits, str], Callable[[], None]] = {}

    def run(self) -> Item | None:
        try:
            for shard, keys in self._parts:
                threading.Thread(
                    target=self._wait, args=(shard.waits, keys), name="offload-redis-receive", daemon=True
                ).start()
            # Bounded, as each thread's wait is, or for ever if so asked.
            self._done.wait()
        except BaseException:
            # Being killed. Whoever finds something from now on gives it back.
            with self._lock:
                self._over = True
                found = self._found
                enders = list(self._enders.values())
            _thread.start_new_thread(self._end, (enders, found))
            raise
        if self._error is not None:
            raise self._error
        return self._found

    def _wait(self, waits: Waits, keys: list[str]) -> None:
        found: Item | None = None
        failure: LayerUnavailable | None = None
        key = keys[0]
        try:
            found = waits.wait(
                keys, self._deadline, partial(self._found_late, keys), lambda end: self._goes_on(waits, key, end)
            )
        except LayerUnavailable as error:
            failure = error
        except Exception as error:
            logger.exception("waiting for messages failed")
            failure = LayerUnavailable(f"layer 'redis' failed while it waited: {error}")
        with self._lock:
            self._running -= 1
            self._enders.pop((waits, key), None)
            ends = not self._over and (found is not None or failure is not None)
            if ends:
                self._over, self._found, self._error = True, found, failure
            enders = list(self._enders.values()) if ends else []
            if self._over or not self._running:
                self._done.set()
        self._end(enders, None if ends else found)

    def _end(self, enders: Sequence[Callable[[], None]], surplus: Item | None) -> None:
        """End the others' waits, and give back what nobody wants."""
        if surplus is not None:
            self._found_late((), surplus)
        for end in enders:
            try:
                end()
            except LayerUnavailable:
                pass  # it is noticed there, too

    def _goes_on(self, waits: Waits, key: str, end: Callable[[], None]) -> bool:
        with self._lock:
            if not self._over:
                self._enders[(waits, key)] = end
            return not self._over

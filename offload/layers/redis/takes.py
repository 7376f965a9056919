"""Taking messages from queues, wherever they are.

A script takes what is there, together with other senders' commands. Whoever finds nothing has the servers tell when one
of the queues changes, and looks again: waiting costs no connection and no thread of its own, at however many queues and
servers. What is taken for one who was killed, or was told that the server does not answer, goes back to the head of its
queue. Knows no layer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from redis.exceptions import RedisError

from offload.exceptions import LayerUnavailable
from offload.layers.backend import Owner
from offload.layers.link.thread import start
from offload.layers.redis.scripts import GIVE_BACK, payload_of
from offload.layers.redis.server import SlotMoved
from offload.layers.redis.shards import Ring, Shard
from offload.layers.redis.subscriber import Waiter

logger = logging.getLogger("offload.layer")

_BLIND_PAUSE = 0.5  # seconds between looks at a server that does not tell of changes

Item = tuple[str, bytes]


class Takes:
    """
    Args:
        owner: is told of messages that had expired, and of those that are lost: they could not be given back, or may
            have been taken by a command whose answer never came.
    """

    def __init__(self, ring: Ring, owner: Owner) -> None:
        self._ring = ring
        self._owner = owner
        self._turn = 0

    def take(self, keys: Sequence[str], timeout: float | None) -> Item | None:
        """The next message of any of these queues, as the queue's key and the payload; None when none came in time.

        Raises:
            LayerUnavailable: also when one of several shards is, and the others have nothing.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        # The first queue that has something is served: each takes its turn at being first.
        self._turn = turn = (self._turn + 1) % 1_000_000
        turn %= len(keys)
        keys = [*keys[turn:], *keys[:turn]]
        found = self._take_now(self._ring.parts(keys))
        if found is not None or (deadline is not None and deadline <= time.monotonic()):
            return found
        waiter = Waiter()
        watching: dict[str, tuple[Shard, set[str]]] = {}
        try:
            while True:
                parts = self._ring.parts(keys)
                for shard, some in parts:
                    watching.setdefault(shard.shown, (shard, set()))[1].update(some)
                    shard.subscriber.watch(some, waiter)
                if not self._wait(waiter, parts, deadline):
                    return None
                found = self._take_now(parts)
                if found is not None:
                    return found
        finally:
            for shard, watched in watching.values():
                shard.subscriber.unwatch(watched, waiter)

    def _wait(self, waiter: Waiter, parts: Sequence[tuple[Shard, list[str]]], deadline: float | None) -> bool:
        """For something that may be a message. Returns False when the time is over."""
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        is_blind = any(shard.subscriber.is_blind for shard, _ in parts)
        pause = min(_BLIND_PAUSE, _BLIND_PAUSE if remaining is None else remaining) if is_blind else remaining
        is_woken = waiter.wait(pause)
        error, waiter.error = waiter.error, None
        if error is not None:
            self._ring.note_move()
            if not isinstance(error, SlotMoved):
                raise error
        return is_woken or (is_blind and pause != remaining)

    def _take_now(self, parts: Sequence[tuple[Shard, list[str]]]) -> Item | None:
        failure: LayerUnavailable | None = None
        for shard, keys in parts:
            try:
                expired, *found = self._ring.take(shard, keys, partial(self._taken_late, keys))
            except LayerUnavailable as error:
                failure = error
                continue
            if expired:
                self._owner.count("expired", expired)
            if found:
                key, item = found
                return key.decode(), payload_of(item)
        if failure is not None:
            raise failure
        return None

    def _taken_late(self, keys: Sequence[str], reply: Any) -> None:
        """The script's answer came when nobody waited for it any more, or never, which is None. Does not wait."""
        if reply is None:
            self._owner.count("lost")
            logger.warning("may have lost a message of %s: it is unknown whether one was taken", ", ".join(keys))
        elif not isinstance(reply, RedisError):
            expired, *found = reply
            if expired:
                self._owner.count("expired", expired)
            if found:
                start(partial(self._give_back, *found), "offload-redis-give-back")

    def _give_back(self, key: bytes, item: bytes) -> None:
        """Put an item at the head of its queue, as if it had not been taken."""
        try:
            self._ring.run_script(GIVE_BACK, [key.decode()], item)
        except LayerUnavailable as error:
            self._owner.count("lost")
            logger.warning("lost a message of %s, which could not be given back: %s", key.decode(), error)

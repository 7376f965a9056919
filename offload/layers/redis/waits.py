"""Waiting for messages of queues on one Redis server: each who waits has a connection for as long as that takes.

Whoever is killed while it waits leaves its connection to a thread, which ends the waiting and hands on what came all
the same. Knows no layer, and nothing of other servers but that another may win the race for a message.
"""

from __future__ import annotations

import _thread
import time
from _thread import RLock
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from offload.exceptions import LayerUnavailable
from offload.layers.redis.commands import LATENESS, Commands
from offload.layers.redis.server import Server
from offload.layers.redis.wire import pack

ROUND = 2.0  # seconds of one blocking command: how long a server that froze goes unnoticed, besides the timeout
_SPARE = 4  # connections that stay open when nobody waits
_FAILURES = (RedisError, LayerUnavailable)

Item = tuple[str, bytes]


class _Place:
    """A connection to wait at."""

    def __init__(self, wire: Any) -> None:
        self.wire = wire
        self.number: int | None = None  # the server's name for it; None when it may not tell
        self.asked = False  # whether an answer is to come


class Waits:
    """Waits on one server."""

    def __init__(self, server: Server, commands: Commands) -> None:
        self._server = server
        self._commands = commands
        self._lock = RLock()
        self._idle: list[_Place] = []
        self._in_use: set[_Place] = set()
        self._closed = False

    def wait(
        self,
        keys: Sequence[str],
        deadline: float | None,
        unclaimed: Callable[[Item | None], None],
        goes_on: Callable[[Callable[[], None]], bool] | None = None,
    ) -> Item | None:
        """The next item of any of these queues, and the queue's key; None when none came in time.

        Args:
            unclaimed: is called, from another thread, with an item that came after an exception from here, and with
                None, also before that exception, when it is never known whether one did. With None it must not wait.
            goes_on: is asked before each round, and given what ends the waiting from another thread.

        Raises:
            LayerUnavailable
        """
        place = None
        try:
            place = self._take_place()
            found = self._wait_at(place, keys, deadline, goes_on)
        except BaseException as error:
            if place is not None:
                broken = isinstance(error, _FAILURES) and not isinstance(error, RedisTimeoutError)
                if place.asked and not broken:
                    _thread.start_new_thread(self._leave, (place, unclaimed))
                else:
                    self._give_up(place)
                    if place.asked and not self._closed:
                        unclaimed(None)
            if isinstance(error, _FAILURES):
                raise self._server.failure(error) from None
            raise
        self._free(place)
        return found

    def close(self) -> None:
        """For good. Whoever waits gets ``LayerUnavailable``."""
        with self._lock:
            self._closed = True
            places = [*self._idle, *self._in_use]
            self._idle.clear()
        for place in places:
            place.wire.disconnect()

    def _wait_at(
        self,
        place: _Place,
        keys: Sequence[str],
        deadline: float | None,
        goes_on: Callable[[Callable[[], None]], bool] | None,
    ) -> Item | None:
        def end() -> None:
            if place.number is not None:
                self._commands.run("CLIENT", "UNBLOCK", place.number)

        while goes_on is None or goes_on(end):
            left = ROUND if deadline is None else min(ROUND, deadline - time.monotonic())
            if left <= 0:
                break
            # Zero would mean for ever. No message can have expired here: it comes as it is pushed.
            command = pack(("BLPOP", *keys, f"{max(0.001, left):.3f}"))
            place.asked = True
            place.wire.send([command])
            reply = place.wire.reply()
            place.asked = not isinstance(reply, RedisError)
            found = _item(reply)
            place.asked = False
            if found is not None:
                return found
        return None

    def _leave(self, place: _Place, unclaimed: Callable[[Item | None], None]) -> None:
        """In a thread of its own: whoever waited is gone, and the server does not know."""
        found: Item | None = None
        known = False
        try:
            if place.number is not None:
                self._commands.run("CLIENT", "UNBLOCK", place.number)
        except LayerUnavailable:
            pass  # then it ends by itself, or the server does, as is seen below
        try:
            found = _item(place.wire.late_reply(time.monotonic() + LATENESS))
            known = True
        except _FAILURES:
            known = self._closed
        finally:
            self._give_up(place)
        if found is not None or not known:
            unclaimed(found)

    def _take_place(self) -> _Place:
        while True:
            with self._lock:
                if self._closed:
                    raise LayerUnavailable("layer 'redis' was closed meanwhile; nothing was taken")
                place = self._idle.pop() if self._idle else None
                if place is None:
                    break
                self._in_use.add(place)
            if place.wire.is_open and not place.wire.is_stale():
                return place
            self._give_up(place)
        pool = self._server.pool("receive", ROUND + self._server.timeout)
        place = _Place(pool.make_connection())
        with self._lock:
            self._in_use.add(place)
        try:
            place.wire.connect()
            place.wire.send([pack(("CLIENT", "ID"))])
            number = place.wire.reply()
            place.number = number if isinstance(number, int) else None  # it may be forbidden
            if self._closed:
                raise LayerUnavailable("layer 'redis' was closed meanwhile; nothing was taken")
        except BaseException:
            self._give_up(place)
            raise
        return place

    def _free(self, place: _Place) -> None:
        with self._lock:
            self._in_use.discard(place)
            self._idle.append(place)
            # No more than were of use a moment ago. The one used last is the least likely to be cut off.
            most = 0 if self._closed else max(_SPARE, len(self._in_use))
            spare, self._idle = self._idle[:-most] if most else self._idle, self._idle[-most:] if most else []
        for place in spare:
            place.wire.disconnect()

    def _give_up(self, place: _Place) -> None:
        place.wire.disconnect()
        with self._lock:
            self._in_use.discard(place)


def _item(reply: Any) -> Item | None:
    if isinstance(reply, RedisError):
        raise reply
    if reply is None:
        return None
    if not isinstance(reply, list) or len(reply) != 2:
        raise InvalidResponse(f"an answer to BLPOP that is none: {reply!r:.100}")
    key, item = reply
    return key.decode(), item

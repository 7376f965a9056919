"""Waiting for messages of queues on one Redis server.

What is there already is taken by a script, together with other senders' commands. Only who has to wait gets a
connection for itself, for as long as it waits. Knows no layer.
"""

from __future__ import annotations

import time
from _thread import RLock
from collections.abc import Callable, Sequence

from offload.exceptions import LayerUnavailable
from offload.layers.redis_address import RedisAddress
from offload.layers.redis_commands import Commands
from offload.layers.redis_link import Link, ReplyError, pack, refused
from offload.layers.redis_scripts import TAKE, payload_of

ROUND = 2.0  # seconds of one blocking command: how long a server that froze goes unnoticed, besides the timeout
_SPARE = 4  # connections kept for the next who wait


class Takes:
    """Takes messages.

    Args:
        connect: opens a connection whose reads wait longer than `ROUND`; raises ``LayerUnavailable``.
        expired: told how many messages were found to have expired.
    """

    def __init__(
        self, address: RedisAddress, commands: Commands, connect: Callable[[], Link], expired: Callable[[int], None]
    ) -> None:
        self._address = address
        self._commands = commands
        self._connect = connect
        self._expired = expired
        self._lock = RLock()
        self._spare: list[Link] = []
        self._waiting: set[Link] = set()
        self._closed = False
        self._turn = 0

    def take(self, keys: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        """The next message of any of these queues, as the queue's key and the payload; None when none came in time.

        Raises:
            LayerUnavailable
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        # Redis serves the first queue that has something: each takes its turn at being first.
        self._turn = turn = (self._turn + 1) % 1_000_000
        turn %= len(keys)
        keys = [*keys[turn:], *keys[:turn]]
        expired, *found = self._commands.run_script(TAKE, keys)
        if expired:
            self._expired(expired)
        if found:
            number, item = found
            return keys[number - 1], payload_of(item)
        if deadline is not None and deadline <= time.monotonic():
            return None
        return self._wait(keys, deadline)

    def close(self) -> None:
        """For good. Whoever waits gets ``LayerUnavailable``."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting)
            spare, self._spare = self._spare, []
        for link in spare:
            link.close()
        for link in waiting:
            link.interrupt()

    def drop(self) -> None:
        """In a forked child."""
        for link in [*self._spare, *self._waiting]:
            link.drop()

    def _wait(self, keys: list[str], deadline: float | None) -> tuple[str, bytes] | None:
        link = self._acquire()
        try:
            found = self._block(link, keys, deadline)
        except BaseException:
            # Also when this thread is being ended: what the server has popped for it by now is lost with it.
            with self._lock:
                self._waiting.discard(link)
            link.close()
            raise
        self._give_back(link)
        return found

    def _block(self, link: Link, keys: list[str], deadline: float | None) -> tuple[str, bytes] | None:
        while True:
            left = ROUND if deadline is None else min(ROUND, deadline - time.monotonic())
            if left <= 0:
                return None
            # Zero would mean for ever. No message can have expired here: it comes as it is pushed.
            link.send(pack("BLPOP", *keys, f"{max(0.001, left):.3f}"))
            replies = link.read()
            if not replies:
                raise link.silent()
            reply = replies[0]
            if isinstance(reply, ReplyError):
                raise refused(self._address, reply)
            if reply is not None:
                return reply[0].decode(), payload_of(reply[1])

    def _acquire(self) -> Link:
        with self._lock:
            while self._spare:
                link = self._spare.pop()
                if not link.is_stale():
                    self._waiting.add(link)
                    return link
                link.close()
        link = self._connect()
        with self._lock:
            if not self._closed:
                self._waiting.add(link)
                return link
        link.close()
        raise LayerUnavailable("layer 'redis' was closed meanwhile; nothing was taken")

    def _give_back(self, link: Link) -> None:
        with self._lock:
            self._waiting.discard(link)
            if not self._closed and len(self._spare) < _SPARE:
                self._spare.append(link)
                return
        link.close()

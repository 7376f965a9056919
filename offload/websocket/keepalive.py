"""Keepalive: pings from one coarse timer for all WebSockets, and the end of those that stay silent.

Members are spread over buckets; each tick of the timer pings one bucket, and looks at one that was pinged earlier. So
a connection costs one place in a set, and pings never leave all at once. Only bytes that were received count as life.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import gevent

from offload.protocol.websocket.frames import ping_frame

_BUCKETS = 64
_SHORTEST_TICK = 0.05


class Ping(NamedTuple):
    """One tick's ping, shared by all that it was sent to."""

    payload: bytes
    frame: bytes
    moment: float


class Member(Protocol):
    """A WebSocket as its keepalive, its drain and its server know it; see `WebSocketConnection`. Called in the loop."""

    def ping(self, ping: Ping) -> None: ...
    def check(self, before: float) -> None: ...
    def renew(self) -> None: ...
    def answer(self) -> None: ...
    def close(self, code: int) -> None: ...
    def close_expired(self) -> None: ...
    def abort(self) -> None: ...


class Members:
    """A set of members in buckets.

    Attributes:
        left: called whenever a member has left.
    """

    def __init__(self) -> None:
        self.buckets: list[set[Member]] = [set() for _ in range(_BUCKETS)]
        self.left: Callable[[], None] | None = None

    def add(self, member: Member) -> None:
        """No error when it is there already."""
        self.buckets[id(member) // 64 % _BUCKETS].add(member)

    def discard(self, member: Member) -> None:
        """No error when it is not there."""
        self.buckets[id(member) // 64 % _BUCKETS].discard(member)
        if self.left is not None:
            self.left()

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    def __iter__(self) -> Iterator[Member]:
        for bucket in self.buckets:
            yield from bucket


class Keepalive:
    """Pings members, and checks them.

    Args:
        members: who is pinged; they come and go.
        interval: seconds between two pings of one member; None for none.
        timeout: seconds after a ping until silence ends a member; None for never.
    """

    def __init__(self, members: Members, interval: float | None, timeout: float | None) -> None:
        self._members = members
        self._timeout = timeout
        self._count = 0
        if interval is None:
            return
        # A short interval serves several buckets in a tick.
        self._buckets_at_once = max(1, min(_BUCKETS, round(_BUCKETS * _SHORTEST_TICK / interval)))
        self._ticks = -(-_BUCKETS // self._buckets_at_once)
        tick = interval / self._ticks
        # Late by a tick or two does no harm; early would leave a silent member until its next turn.
        self._delay = 0 if timeout is None else int(timeout / tick) + 2
        self._timer = gevent.get_hub().loop.timer(tick, tick, ref=False)
        self._timer.start(self._tick)

    def _bucket(self, tick: int) -> list[Member]:
        begin = tick % self._ticks * self._buckets_at_once
        return [member for bucket in self._members.buckets[begin : begin + self._buckets_at_once] for member in bucket]

    def _tick(self) -> None:
        self._count += 1
        now = time.monotonic()
        if self._timeout is not None and self._count > self._delay:
            for member in self._bucket(self._count - self._delay):
                member.check(now - self._timeout)
        due = self._bucket(self._count)
        if due:
            payload = self._count.to_bytes(8, "big")
            ping = Ping(payload, ping_frame(payload), now)
            for member in due:
                member.ping(ping)

"""A broker in memory: named queues, groups of named channels, and sessions, with their limits and expiry.

Pure: no socket, thread, lock or clock; the caller passes the time (seconds that only grow) and sees to it that one
call runs at a time. Payloads are opaque. What is over its time is dropped when it is met, and by a sweep every few
seconds that any changing call may do, so nothing is left behind by channels that nobody uses any more.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from offload.exceptions import ChannelFull
from offload.layers.backend import Due

Payload = TypeVar("Payload")

SWEEP_INTERVAL = 10.0
MOST_DUE = 100
MOST_DUE_BYTES = 1024 * 1024
"""Messages that one call of `Broker.take_due` returns, and their bytes where they are several."""
GIVEN_SECONDS = 3600.0
"""For which delayed messages are kept for a taker who does not say that they came: he may have ended."""


class _Queue(Generic[Payload]):
    """One channel's messages.

    Attributes:
        messages: ``(expires, payload)``, oldest first.
        turn: when the channel was last served, or came up: the lowest of several is next.
    """

    __slots__ = ("messages", "turn")

    def __init__(self, turn: int) -> None:
        self.messages: deque[tuple[float, Payload]] = deque()
        self.turn = turn


class Broker(Generic[Payload]):
    """Queues, groups and sessions of one name space (one prefix)."""

    def __init__(self) -> None:
        self.expired = 0
        self.full = 0
        self.queues: dict[str, _Queue[Payload]] = {}
        self._groups: dict[str, dict[str, float]] = {}
        self._sessions: dict[str, tuple[float, Payload]] = {}
        # When each is due, in which order they came, the channel, and the message.
        self._delayed: list[tuple[float, int, str, bytes]] = []
        self._delays = 0
        # What each taker was given last and has not received yet, and until when it is kept for him.
        self._given: dict[str, tuple[int, list[tuple[str, bytes]], float]] = {}
        self._turn = 0
        self._next_sweep = 0.0

    def send(self, channel: str, payload: Payload, now: float, *, expiry: float, capacity: int) -> None:
        """Raises ``ChannelFull``, at once, when the queue holds `capacity` messages."""
        self._sweep_if_due(now)
        if not self.put(channel, payload, now + expiry, now, capacity):
            raise ChannelFull(f"channel {channel!r} holds {capacity} messages, which is its capacity")

    def receive(self, channels: Iterable[str], now: float) -> tuple[str, Payload] | None:
        """The oldest message of that channel among these whose turn it is; None when all are empty.

        Channels are served in turn, however many messages each holds.
        """
        best: _Queue[Payload] | None = None
        name = ""
        for channel in channels:
            queue = self.queues.get(channel)
            if queue is None or (best is not None and queue.turn >= best.turn):
                continue
            if self.drop_expired(channel, queue, now):
                best, name = queue, channel
        if best is None:
            return None
        payload = best.messages.popleft()[1]
        best.turn = self._next_turn()
        if not best.messages:
            del self.queues[name]
        return name, payload

    def put_back(self, channel: str, payload: Payload, now: float, *, expires: float) -> None:
        """Put what was received in front of its queue again, also of a full one, unless it has expired meanwhile."""
        if expires <= now:
            self.expired += 1
            return
        queue = self.queues.get(channel)
        if queue is None:
            queue = self.queues[channel] = _Queue(self._next_turn())
        queue.messages.appendleft((expires, payload))

    def keep(self, channel: str, message: bytes, due: float) -> None:
        """Keep a message for `take_due`."""
        self._delays += 1
        heapq.heappush(self._delayed, (due, self._delays, channel, message))

    def take_due(self, taker: str, received: int, batch: int, now: float) -> Due:
        """As `Backend.take_due`."""
        self._sweep_if_due(now)
        delayed = self._delayed
        given = self._given.get(taker)
        if given is not None and given[0] != received:
            batch, found, _ = given
        else:
            self._given.pop(taker, None)
            found, size = [], 0
            while delayed and delayed[0][0] <= now and len(found) < MOST_DUE:
                size += len(delayed[0][3])
                if found and size > MOST_DUE_BYTES:
                    break
                _, _, channel, message = heapq.heappop(delayed)
                found.append((channel, message))
            if found:
                self._given[taker] = batch, found, now + GIVEN_SECONDS
        return Due(batch, found, max(0.0, delayed[0][0] - now) if delayed else None)

    def has_messages(self, channel: str) -> bool:
        return channel in self.queues

    def drop(self, channel: str) -> None:
        """Forget a channel's messages."""
        self.queues.pop(channel, None)

    def group_add(self, group: str, channel: str, now: float, *, group_expiry: float) -> None:
        """Make a named channel a member, or renew its membership."""
        self._sweep_if_due(now)
        self._groups.setdefault(group, {})[channel] = now + group_expiry

    def group_discard(self, group: str, channel: str) -> None:
        members = self._groups.get(group)
        if members is not None:
            members.pop(channel, None)
            if not members:
                del self._groups[group]

    def group_members(self, group: str, now: float) -> list[str]:
        members = self._groups.get(group, {})
        return [channel for channel, ends in members.items() if ends > now]

    def group_send(
        self, group: str, payload: Payload, now: float, *, expiry: float, capacity_of: Callable[[str], int]
    ) -> tuple[list[str], int]:
        """Put a message into each member's queue; full ones are passed over.

        Returns:
            The channels that have a new message, and the number of those passed over.
        """
        self._sweep_if_due(now)
        reached: list[str] = []
        full = 0
        for channel in self.group_members(group, now):
            if self.put(channel, payload, now + expiry, now, capacity_of(channel)):
                reached.append(channel)
            else:
                full += 1
        return reached, full

    def session_load(self, key: str, now: float) -> Payload | None:
        found = self._sessions.get(key)
        if found is None:
            return None
        if found[0] <= now:
            del self._sessions[key]
            return None
        return found[1]

    def session_save(self, key: str, payload: Payload, now: float, *, expiry: float) -> None:
        self._sweep_if_due(now)
        self._sessions[key] = (now + expiry, payload)

    def session_expire(self, key: str, now: float, *, seconds: float) -> None:
        found = self._sessions.pop(key, None)
        if found is not None and found[0] > now and seconds:
            self._sessions[key] = (now + seconds, found[1])

    def flush(self) -> None:
        """Drop every message, membership and session; counters stay."""
        self._delayed.clear()
        self._given.clear()
        self.queues.clear()
        self._groups.clear()
        self._sessions.clear()

    def sweep(self, now: float) -> None:
        """Drop all that is over its time."""
        self._next_sweep = now + SWEEP_INTERVAL
        for channel, queue in list(self.queues.items()):
            self.drop_expired(channel, queue, now, thoroughly=True)
        for group, members in list(self._groups.items()):
            for channel in [channel for channel, ends in members.items() if ends <= now]:
                self.group_discard(group, channel)
        for key in [key for key, (ends, _) in self._sessions.items() if ends <= now]:
            del self._sessions[key]
        for taker in [taker for taker, (_, _, ends) in self._given.items() if ends <= now]:
            del self._given[taker]

    def statistics(self) -> dict[str, int]:
        """Counters since the start (``full``, ``expired``), and what is held now (the others)."""
        return {
            "pending": sum(len(queue.messages) for queue in self.queues.values()),
            "delayed": len(self._delayed),
            "channels": len(self.queues),
            "groups": len(self._groups),
            "sessions": len(self._sessions),
            "full": self.full,
            "expired": self.expired,
        }

    def put(self, channel: str, payload: Payload, expires: float, now: float, capacity: int) -> bool:
        queue = self.queues.get(channel)
        if queue is not None and len(queue.messages) >= capacity:
            # Senders may differ in their expiry: an expired message may stand behind one that is not.
            if self.drop_expired(channel, queue, now, thoroughly=True) >= capacity:
                self.full += 1
                return False
            queue = self.queues.get(channel)
        if queue is None:
            # A channel that comes up joins behind the others, or one that is refilled each time would starve them.
            queue = self.queues[channel] = _Queue(self._next_turn())
        queue.messages.append((expires, payload))
        return True

    def drop_expired(self, channel: str, queue: _Queue[Payload], now: float, thoroughly: bool = False) -> int:
        messages = queue.messages
        before = len(messages)
        if thoroughly:
            queue.messages = messages = deque(item for item in messages if item[0] > now)
        else:
            while messages and messages[0][0] <= now:
                messages.popleft()
        self.expired += before - len(messages)
        if not messages:
            del self.queues[channel]
        return len(messages)

    def _next_turn(self) -> int:
        self._turn += 1
        return self._turn

    def _sweep_if_due(self, now: float) -> None:
        if now >= self._next_sweep:
            self.sweep(now)

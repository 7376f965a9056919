"""What a hub does with requests: queues, topics, groups and sessions of one prefix, for its clients.

Knows frames, not sockets: a client is a `Peer`, to which frames are written. Runs in one thread; the time and timers
come from outside. A request is answered once, at once or later.

No message is lost between the hub and a receiver: one that was handed out stays in hand until the client says TAKEN,
and goes back to the front of its queue when the client cancels or dies before. Who is interrupted while it says so may
still cancel: the last ones that a client has taken are kept until it takes others.
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from offload.exceptions import ChannelFull
from offload.layers.backend import Due
from offload.layers.ipc import wire
from offload.layers.local.broker import Broker
from offload.layers.words.settings import LayerSettings

logger = logging.getLogger("offload.layer")

SLOWEST = 1.0
"""Longest time that a sender is held up because the process it sends to is slow."""
MOST_COUNTED = 100_000
"""For how many topics publications are counted, the latest: a process that is back learns what it has missed."""

MOST_HELD_BYTES = 16 * 1024 * 1024
"""Of what waits for processes that are not back yet; past it nothing waits any more, and they count what they miss."""

MOST_TAKEN = 64
"""How many messages that a client has taken are kept for it, should it cancel after all."""
MOST_LEFT = 100
"""Of how many processes that left it is known what they had got by then, the latest."""

_GROUP, _INBOX = "group:", "inbox:"

_LATER = object()
"""What a handler returns that answers later."""

Parcel = tuple[float, bytes]
"""When it expires, and the payload."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Peer(abc.ABC):
    """One client's connection, as the exchange sees it.

    Attributes:
        settings: the client's; capacities and expiries are the sender's to say.
        process: its token.
        congested: whether it is slow to read what was written.
    """

    def __init__(self) -> None:
        self.settings = LayerSettings()
        self.process = ""
        self.congested = False
        self.topics: set[str] = set()
        self.parked: dict[int, _Parked] = {}
        self.in_hand: dict[int, tuple[str, Parcel]] = {}
        self.just_taken: dict[int, tuple[str, Parcel]] = {}  # the latest
        self.slowed: dict[tuple[Peer, int], Timer] = {}  # senders that wait until this client has read more

    @abc.abstractmethod
    def write(self, frame: bytes) -> None:
        """Send a frame; nothing happens when the connection has ended."""

    @abc.abstractmethod
    def push(self, frame: bytes) -> None:
        """Send a message, or drop and count it when the client does not keep up."""

    def answer(self, request: int, value: Any = None, status: int = wire.OK) -> None:
        if request:
            self.write(wire.pack(wire.ANSWER, request, status, value))


class _Parked:
    """A TAKE that waits."""

    __slots__ = ("channels", "peer", "request", "timer")

    def __init__(self, peer: Peer, request: int, channels: list[str]) -> None:
        self.peer = peer
        self.request = request
        self.channels = channels
        self.timer: Timer | None = None


class Exchange:
    """One prefix.

    Args:
        clock: seconds that only grow.
        later: calls a function after so many seconds.
        absent: processes that lived with a hub before this one, and are not back yet. What is published waits for them:
            after a restart of the hub, processes come back one after the other.
        grace: seconds for which it waits at most.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        later: Callable[[float, Callable[[], None]], Timer],
        absent: set[str] | None = None,
        grace: float = 0.0,
    ) -> None:
        self.broker: Broker[Parcel] = Broker()
        self.peers: set[Peer] = set()
        self._clock = clock
        self._later = later
        self._absent = absent or set()
        self._held: list[tuple[Peer, list[Any]]] = []  # requests, and whose they are
        self._held_bytes = 0
        self._grace = later(grace, self._end_grace) if self._absent else None
        self._subscribers: dict[str, dict[Peer, None]] = {}
        self._published: dict[str, int] = {}  # by topic, for those that come back late
        self._left: dict[str, dict[str, int]] = {}  # what had been published to a process's topics when it left
        self._waiting: dict[str, dict[_Parked, None]] = {}
        self._handlers: dict[int, Callable[..., Any]] = {
            wire.PING: lambda *_: None,
            wire.PUSH: self._push,
            wire.TAKE: self._take,
            wire.TAKEN: self._taken,
            wire.CANCEL: self._cancel,
            wire.SUBSCRIBE: self._subscribe,
            wire.UNSUBSCRIBE: self._unsubscribe,
            wire.PUBLISH: self._publish,
            wire.GROUP_SEND: self._group_send,
            wire.SET_MEMBER: self._set_member,
            wire.SESSION_LOAD: self._session_load,
            wire.SESSION_SAVE: self._session_save,
            wire.SESSION_EXPIRE: self._session_expire,
            wire.FLUSH: lambda *_: self.broker.flush(),
            wire.STATISTICS: self._statistics,
            wire.KEEP: self._keep,
            wire.TAKE_DUE: self._take_due,
        }

    def handle(self, peer: Peer, frame: list[Any]) -> None:
        """Carry out a request. Raises ``BrokenFrame`` for an unknown kind, whatever for wrong arguments."""
        handler = self._handlers.get(frame[0])
        if handler is None:
            raise wire.BrokenFrame(f"frame has the unknown kind {frame[0]}")
        try:
            value = handler(peer, *frame[1:])
        except ChannelFull as error:
            peer.answer(frame[1], str(error), wire.FULL)
            return
        if value is not _LATER:
            peer.answer(frame[1], value)

    def join(self, peer: Peer) -> None:
        self.peers.add(peer)

    def leave(self, peer: Peer) -> None:
        """A client's connection has ended: forget all that it had, and put back what it had not taken."""
        self.peers.discard(peer)
        for topic in peer.topics:
            self._leave_topic(peer, topic)
        if peer.topics:
            self._left[peer.process] = {topic: self._published.get(topic, 0) for topic in peer.topics}
            if len(self._left) > MOST_LEFT:
                del self._left[next(iter(self._left))]
            peer.topics.clear()
        for parked in list(peer.parked.values()):
            self._unpark(parked)
        returned = list(peer.in_hand.values())
        peer.in_hand.clear()
        for channel, parcel in reversed(returned):
            self._put_back(channel, parcel)
        for channel in {channel for channel, _ in returned}:
            self._serve(channel)
        self.relieve(peer)

    def relieve(self, peer: Peer) -> None:
        """A client is no longer congested: let those go on that sent to it."""
        slowed, peer.slowed = peer.slowed, {}
        for (sender, request), timer in slowed.items():
            timer.cancel()
            sender.answer(request, 1)

    def is_unused(self) -> bool:
        """Whether nothing would be lost with this object."""
        held = self.broker.statistics()
        return not (
            self.peers or self._held or any(held[kind] for kind in ("channels", "delayed", "groups", "sessions"))
        )

    # Requests: what a handler returns is the answer

    def _push(self, _: Peer, __: int, channel: str, payload: bytes, expiry: float, capacity: int) -> None:
        now = self._clock()
        self.broker.send(channel, (now + expiry, payload), now, expiry=expiry, capacity=capacity)
        self._serve(channel)

    def _take(self, peer: Peer, request: int, channels: list[str], timeout: float | None) -> Any:
        found = self.broker.receive(channels, self._clock())
        if found is not None:
            return self._hand_over(peer, request, *found)
        if timeout is not None and timeout <= 0:
            return None
        parked = peer.parked[request] = _Parked(peer, request, list(dict.fromkeys(channels)))
        for channel in parked.channels:
            self._waiting.setdefault(channel, {})[parked] = None
        if timeout is not None:
            parked.timer = self._later(timeout, partial(self._time_out, parked))
        return _LATER

    def _taken(self, peer: Peer, _: int, request: int) -> None:
        if (taken := peer.in_hand.pop(request, None)) is not None:
            peer.just_taken[request] = taken
            if len(peer.just_taken) > MOST_TAKEN:
                del peer.just_taken[next(iter(peer.just_taken))]

    def _cancel(self, peer: Peer, _: int, request: int) -> None:
        if (parked := peer.parked.get(request)) is not None:
            self._unpark(parked)
        returned = peer.in_hand.pop(request, None) or peer.just_taken.pop(request, None)
        if returned is not None:
            self._put_back(*returned)
            self._serve(returned[0])

    def _put_back(self, channel: str, parcel: Parcel) -> None:
        self.broker.put_back(channel, parcel, self._clock(), expires=parcel[0])

    def _serve(self, channel: str) -> None:
        """Hand the channel's messages to those who wait for them, the longest first."""
        while waiting := self._waiting.get(channel):
            found = self.broker.receive((channel,), self._clock())
            if found is None:
                return
            parked = next(iter(waiting))
            self._unpark(parked)
            parked.peer.answer(parked.request, self._hand_over(parked.peer, parked.request, *found))

    def _hand_over(self, peer: Peer, request: int, channel: str, parcel: Parcel) -> tuple[str, bytes]:
        peer.in_hand[request] = channel, parcel
        return channel, parcel[1]

    def _time_out(self, parked: _Parked) -> None:
        self._unpark(parked)
        parked.peer.answer(parked.request)

    def _unpark(self, parked: _Parked) -> None:
        parked.peer.parked.pop(parked.request, None)
        if parked.timer is not None:
            parked.timer.cancel()
        for channel in parked.channels:
            waiting = self._waiting[channel]
            del waiting[parked]
            if not waiting:
                del self._waiting[channel]

    def _keep(self, _: Peer, __: int, channel: str, payload: bytes, seconds: float) -> None:
        self.broker.keep(channel, payload, self._clock() + seconds)

    def _take_due(self, _: Peer, __: int, taker: str, received: int, batch: int) -> Due:
        return self.broker.take_due(taker, received, batch, self._clock())

    # Topics

    def _subscribe(self, peer: Peer, request: int, topics: list[str], were_lost: bool) -> Any:
        for topic in topics:
            peer.topics.add(topic)
            self._subscribers.setdefault(topic, {})[peer] = None
        seen = self._left.pop(peer.process, None)
        if seen is None:  # it had left a hub before this one
            seen = dict.fromkeys(topics, 0)
        missed = 0
        if were_lost:
            # What it joined while it was away it has not missed; of topics that are no longer counted nothing is known.
            missed = sum(max(0, self._published.get(topic, 0) - seen[topic]) for topic in topics if topic in seen)
        peer.answer(request, missed)
        if self._absent:
            self._absent.discard(peer.process)
            if not self._absent:
                self._end_grace()
        return _LATER  # was answered before what was held

    def _unsubscribe(self, peer: Peer, _: int, topic: str) -> None:
        peer.topics.discard(topic)
        self._leave_topic(peer, topic)

    def _leave_topic(self, peer: Peer, topic: str) -> None:
        subscribers = self._subscribers.get(topic)
        if subscribers is not None:
            subscribers.pop(peer, None)
            if not subscribers:
                del self._subscribers[topic]

    def _publish(self, peer: Peer, request: int, topic: str, payload: bytes) -> Any:
        if self._absent and not self._subscribers.get(topic):
            return self._hold(peer, [wire.PUBLISH, request, topic, payload], len(payload))
        subscribers = self._send(topic, payload)
        if topic.startswith(_INBOX) and (slow := next((its for its in subscribers if its.congested), None)) is not None:
            # Who sends to one process goes at its pace, for a while: dropping is for those who do not read.
            slow.slowed[peer, request] = self._later(SLOWEST, partial(self._go_on, slow, peer, request))
            return _LATER
        return len(subscribers)

    def _send(self, topic: str, payload: bytes) -> dict[Peer, None]:
        subscribers = self._subscribers.get(topic, {})
        if subscribers:
            frame = wire.pack(wire.MESSAGE, topic, payload)
            for subscriber in subscribers:
                subscriber.push(frame)
        self._published[topic] = self._published.pop(topic, 0) + 1
        if len(self._published) > MOST_COUNTED:
            del self._published[next(iter(self._published))]
        return subscribers

    def _go_on(self, target: Peer, peer: Peer, request: int) -> None:
        if target.slowed.pop((peer, request), None) is not None:
            peer.answer(request, 1)

    def _hold(self, peer: Peer, frame: list[Any], size: int) -> object:
        self._held.append((peer, frame))
        self._held_bytes += size
        if self._held_bytes > MOST_HELD_BYTES:
            logger.warning(
                "hub: %d messages, over %d MiB, waited for processes that are not back (%d); they count what they miss",
                len(self._held),
                MOST_HELD_BYTES >> 20,
                len(self._absent),
            )
            self._end_grace()
        return _LATER

    def _end_grace(self) -> None:
        self._absent.clear()
        if self._grace is not None:
            self._grace.cancel()
        held, self._held = self._held, []
        for peer, frame in held:
            self.handle(peer, frame)

    # Groups

    def _group_send(self, peer: Peer, request: int, group: str, payload: bytes) -> Any:
        if self._absent:
            return self._hold(peer, [wire.GROUP_SEND, request, group, payload], len(payload))
        self._send(_GROUP + group, payload)
        now, expiry = self._clock(), peer.settings.expiry
        reached, full = self.broker.group_send(
            group, (now + expiry, payload), now, expiry=expiry, capacity_of=peer.settings.capacity_of
        )
        for channel in reached:
            self._serve(channel)
        return full

    def _set_member(self, peer: Peer, _: int, group: str, channel: str, is_member: bool) -> None:
        if is_member:
            self.broker.group_add(group, channel, self._clock(), group_expiry=peer.settings.group_expiry)
        else:
            self.broker.group_discard(group, channel)

    # Sessions, and the rest

    def _session_load(self, _: Peer, __: int, key: str) -> bytes | None:
        found = self.broker.session_load(key, self._clock())
        return None if found is None else found[1]

    def _session_save(self, _: Peer, __: int, key: str, payload: bytes, expiry: float) -> None:
        now = self._clock()
        self.broker.session_save(key, (now + expiry, payload), now, expiry=expiry)

    def _session_expire(self, _: Peer, __: int, key: str, seconds: float) -> None:
        self.broker.session_expire(key, self._clock(), seconds=seconds)

    def _statistics(self, *_: Any) -> dict[str, int]:
        counts = self.broker.statistics()
        counts["clients"] = len(self.peers)
        counts["subscriptions"] = sum(
            len(subscribers) for topic, subscribers in self._subscribers.items() if topic.startswith(_GROUP)
        )
        counts["inboxes"] = sum(topic.startswith(_INBOX) for topic in self._subscribers)
        counts["waiting"] = sum(len(its.parked) for its in self.peers)
        counts["in_hand"] = sum(len(its.in_hand) for its in self.peers)
        return counts

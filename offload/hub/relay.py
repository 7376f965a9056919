"""What a hub does with requests: queues, groups, inboxes and sessions of one prefix, for its clients.

Knows frames, not sockets: a client is a `Peer`, to which frames are written. Runs in one thread; the time and timers
come from outside. A request is answered once, at once or later.

No message is lost between the hub and a receiver: one that was handed out stays in hand until the client says TAKEN,
and goes back to the front of its queue when the client cancels or dies before. Who is interrupted while it says so may
still cancel: the last one that a client has taken is kept until it takes another.
"""

from __future__ import annotations

import abc
import itertools
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Protocol

from offload.exceptions import ChannelFull
from offload.layers.ipc import wire
from offload.layers.local.broker import Broker, _Queue
from offload.layers.words.settings import LayerSettings

SLOWEST = 1.0
"""Longest time that a sender is held up because the process it sends to is slow."""
MOST_LEFT, MOST_LEFT_FOR = 100, 1000
"""How many calls are left for each process that is not here, and for how many of these: the latest."""

Parcel = tuple[float, bytes]
"""When it expires, and the payload."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class HubBroker(Broker[Parcel]):
    """A broker that takes back what was not delivered."""

    def put_back(self, channel: str, parcel: Parcel, now: float) -> None:
        """Put a message in front of its queue, also of a full one, unless it has expired meanwhile."""
        ends = parcel[0]
        if ends <= now:
            self.expired += 1
            return
        queue = self._queues.get(channel)
        if queue is None:
            queue = self._queues[channel] = _Queue(self._next_turn())
        queue.messages.appendleft((ends, parcel))


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
        self.groups: set[str] = set()
        self.parked: dict[int, _Parked] = {}
        self.in_hand: dict[int, tuple[str, Parcel]] = {}
        self.just_taken: tuple[int, tuple[str, Parcel]] | None = None
        self.calls: dict[int, tuple[Peer, int]] = {}  # calls that this client has to answer, and who asked
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
    """A RECEIVE that waits."""

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
        grace_ends: until then, what is for an unknown process waits for it: after a restart of the hub, processes
            come back one after the other.
    """

    def __init__(
        self, clock: Callable[[], float], later: Callable[[float, Callable[[], None]], Timer], grace_ends: float = 0.0
    ) -> None:
        self.broker = HubBroker()
        self.peers: set[Peer] = set()
        self._clock = clock
        self._later = later
        self._grace_ends = grace_ends
        self._subscribers: dict[str, dict[Peer, None]] = {}
        self._inboxes: dict[str, Peer] = {}
        self._waiting: dict[str, dict[_Parked, None]] = {}
        self._held: dict[str, list[Callable[[], None]]] = {}
        self._left: OrderedDict[str, deque[tuple[bool, str, str]]] = OrderedDict()
        # Not from 1: what a hub before this one asked for may be answered to this one.
        self._calls = itertools.count(secrets.randbits(48))
        self._handlers: dict[int, Callable[..., None]] = {
            wire.PING: self._ping,
            wire.SEND: self._send,
            wire.RECEIVE: self._receive,
            wire.TAKEN: self._taken,
            wire.CANCEL: self._cancel,
            wire.OPEN_INBOX: self._open_inbox,
            wire.SUBSCRIBE: self._subscribe,
            wire.UNSUBSCRIBE: self._unsubscribe,
            wire.SEND_TO_PROCESS: self._send_to_process,
            wire.CALL_PROCESS: self._call_process,
            wire.CALLED: self._called,
            wire.GROUP_SEND: self._group_send,
            wire.ADD_QUEUE: self._add_queue,
            wire.DISCARD_QUEUE: self._discard_queue,
            wire.SESSION_LOAD: self._session_load,
            wire.SESSION_SAVE: self._session_save,
            wire.SESSION_DELETE: self._session_delete,
            wire.FLUSH: self._flush,
            wire.STATISTICS: self._statistics,
        }

    def handle(self, peer: Peer, frame: list[Any]) -> None:
        """Carry out a request. Raises ``BrokenFrame`` for an unknown kind, whatever for wrong arguments."""
        handler = self._handlers.get(frame[0])
        if handler is None:
            raise wire.BrokenFrame(f"frame has the unknown kind {frame[0]}")
        handler(peer, *frame[1:])

    def join(self, peer: Peer) -> None:
        self.peers.add(peer)

    def leave(self, peer: Peer) -> None:
        """A client's connection has ended: forget all that it had, and put back what it had not taken."""
        self.peers.discard(peer)
        for group in peer.groups:
            self._leave_group(peer, group)
        peer.groups.clear()
        if self._inboxes.get(peer.process) is peer:
            del self._inboxes[peer.process]
        for parked in list(peer.parked.values()):
            self._unpark(parked)
        returned = list(peer.in_hand.values())
        peer.in_hand.clear()
        for channel, parcel in reversed(returned):
            self.broker.put_back(channel, parcel, self._clock())
        for channel in {channel for channel, _ in returned}:
            self._serve(channel)
        calls = list(peer.calls.values())
        peer.calls.clear()
        for caller, request in calls:
            caller.answer(request)  # its channels have gone with it, and that is no error
        self.relieve(peer)

    def relieve(self, peer: Peer) -> None:
        """A client is no longer congested: let those go on that sent to it."""
        slowed, peer.slowed = peer.slowed, {}
        for (sender, request), timer in slowed.items():
            timer.cancel()
            sender.answer(request)

    def is_unused(self) -> bool:
        """Whether nothing would be lost with this object."""
        held = self.broker.statistics()
        return not self.peers and not (held["channels"] or held["groups"] or held["sessions"])

    def _ping(self, peer: Peer, request: int) -> None:
        peer.answer(request)

    # Queues

    def _send(self, peer: Peer, request: int, channel: str, payload: bytes) -> None:
        now, expiry = self._clock(), peer.settings.expiry
        capacity = peer.settings.capacity_of(channel)
        try:
            self.broker.send(channel, (now + expiry, payload), now, expiry=expiry, capacity=capacity)
        except ChannelFull as error:
            peer.answer(request, str(error), wire.FULL)
            return
        self._serve(channel)
        peer.answer(request)

    def _receive(self, peer: Peer, request: int, channels: list[str], timeout: float | None) -> None:
        found = self.broker.receive(channels, self._clock())
        if found is not None:
            self._hand_over(peer, request, *found)
        elif timeout is not None and timeout <= 0:
            peer.answer(request)
        else:
            parked = peer.parked[request] = _Parked(peer, request, list(dict.fromkeys(channels)))
            for channel in parked.channels:
                self._waiting.setdefault(channel, {})[parked] = None
            if timeout is not None:
                parked.timer = self._later(timeout, lambda: self._time_out(parked))

    def _taken(self, peer: Peer, _: int, request: int) -> None:
        if (taken := peer.in_hand.pop(request, None)) is not None:
            peer.just_taken = request, taken

    def _cancel(self, peer: Peer, _: int, request: int) -> None:
        parked = peer.parked.get(request)
        if parked is not None:
            self._unpark(parked)
        returned = peer.in_hand.pop(request, None)
        if returned is None and peer.just_taken is not None and peer.just_taken[0] == request:
            returned, peer.just_taken = peer.just_taken[1], None
        if returned is not None:
            self.broker.put_back(*returned, self._clock())
            self._serve(returned[0])

    def _serve(self, channel: str) -> None:
        """Hand the channel's messages to those who wait for them, the longest first."""
        while waiting := self._waiting.get(channel):
            found = self.broker.receive((channel,), self._clock())
            if found is None:
                return
            parked = next(iter(waiting))
            self._unpark(parked)
            self._hand_over(parked.peer, parked.request, *found)

    def _hand_over(self, peer: Peer, request: int, channel: str, parcel: Parcel) -> None:
        peer.in_hand[request] = channel, parcel
        peer.answer(request, (channel, parcel[1]))

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

    # Processes

    def _open_inbox(self, peer: Peer, request: int) -> None:
        # A process that came back may be here before the end of its old connection was seen.
        self._inboxes[peer.process] = peer
        peer.answer(request)
        for call in self._left.pop(peer.process, ()):
            # Nobody waits for its answer any more.
            peer.write(wire.pack(wire.CALL, next(self._calls), *call))
        for action in self._held.pop(peer.process, ()):
            action()

    def _send_to_process(self, peer: Peer, request: int, process: str, channel: str, payload: bytes) -> None:
        target = self._inboxes.get(process)
        if target is not None:
            target.push(wire.pack(wire.MESSAGE, channel, payload))
            if target.congested:
                # Who sends to one process goes at its pace, for a while: dropping is for those who do not read at all.
                target.slowed[peer, request] = self._later(SLOWEST, lambda: self._go_on(target, peer, request))
                return
        elif self._hold(process, lambda: self._send_to_process(peer, request, process, channel, payload)):
            return
        peer.answer(request)

    def _go_on(self, target: Peer, peer: Peer, request: int) -> None:
        if target.slowed.pop((peer, request), None) is not None:
            peer.answer(request)

    def _call_process(self, peer: Peer, request: int, process: str, add: bool, group: str, channel: str) -> None:
        target = self._inboxes.get(process)
        if target is not None:
            number = next(self._calls)
            target.calls[number] = peer, request
            target.write(wire.pack(wire.CALL, number, add, group, channel))
        elif not self._hold(process, lambda: self._call_process(peer, request, process, add, group, channel)):
            # Gone, or it was cut off, or stopped, for so long: should it come back, it does this first.
            left = self._left.setdefault(process, deque(maxlen=MOST_LEFT))
            left.append((add, group, channel))
            self._left.move_to_end(process)
            if len(self._left) > MOST_LEFT_FOR:
                self._left.popitem(last=False)
            peer.answer(request)

    def _called(self, peer: Peer, _: int, number: int, error: str | None) -> None:
        found = peer.calls.pop(number, None)
        if found is not None:
            caller, request = found
            caller.answer(request, error, wire.OK if error is None else wire.ERROR)

    def _hold(self, process: str, action: Callable[[], None]) -> bool:
        remaining = self._grace_ends - self._clock()
        if remaining <= 0:
            return False
        if not self._held:
            self._later(remaining, self._end_grace)
        self._held.setdefault(process, []).append(action)
        return True

    def _end_grace(self) -> None:
        # The clock of the timer may be a little ahead of ours: nothing may be held a second time.
        self._grace_ends = 0.0
        held, self._held = self._held, {}
        for actions in held.values():
            for action in actions:
                action()

    # Groups

    def _subscribe(self, peer: Peer, request: int, groups: list[str]) -> None:
        for group in groups:
            peer.groups.add(group)
            self._subscribers.setdefault(group, {})[peer] = None
        peer.answer(request)

    def _unsubscribe(self, peer: Peer, request: int, group: str) -> None:
        peer.groups.discard(group)
        self._leave_group(peer, group)
        peer.answer(request)

    def _leave_group(self, peer: Peer, group: str) -> None:
        subscribers = self._subscribers.get(group)
        if subscribers is not None:
            subscribers.pop(peer, None)
            if not subscribers:
                del self._subscribers[group]

    def _group_send(self, peer: Peer, request: int, group: str, payload: bytes) -> None:
        subscribers = self._subscribers.get(group)
        if subscribers:
            frame = wire.pack(wire.GROUP, group, payload)
            for subscriber in subscribers:
                subscriber.push(frame)
        now, expiry = self._clock(), peer.settings.expiry
        reached, full = self.broker.group_send(
            group, (now + expiry, payload), now, expiry=expiry, capacity_of=peer.settings.capacity_of
        )
        for channel in reached:
            self._serve(channel)
        peer.answer(request, full)

    def _add_queue(self, peer: Peer, request: int, group: str, channel: str) -> None:
        self.broker.group_add(group, channel, self._clock(), group_expiry=peer.settings.group_expiry)
        peer.answer(request)

    def _discard_queue(self, peer: Peer, request: int, group: str, channel: str) -> None:
        self.broker.group_discard(group, channel)
        peer.answer(request)

    # Sessions, and the rest

    def _session_load(self, peer: Peer, request: int, key: str) -> None:
        found = self.broker.session_load(key, self._clock())
        peer.answer(request, None if found is None else found[1])

    def _session_save(self, peer: Peer, request: int, key: str, payload: bytes, expiry: float) -> None:
        now = self._clock()
        self.broker.session_save(key, (now + expiry, payload), now, expiry=expiry)
        peer.answer(request)

    def _session_delete(self, peer: Peer, request: int, key: str) -> None:
        self.broker.session_delete(key)
        peer.answer(request)

    def _flush(self, peer: Peer, request: int) -> None:
        self.broker.flush()
        peer.answer(request)

    def _statistics(self, peer: Peer, request: int) -> None:
        counts = self.broker.statistics()
        counts["clients"] = len(self.peers)
        counts["subscriptions"] = sum(len(subscribers) for subscribers in self._subscribers.values())
        counts["inboxes"] = len(self._inboxes)
        counts["waiting"] = sum(len(its.parked) for its in self.peers)
        counts["in_hand"] = sum(len(its.in_hand) for its in self.peers)
        peer.answer(request, counts)

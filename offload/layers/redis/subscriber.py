"""One process's subscriptions on one Redis server, and its watch over queues there.

A topic's pub/sub channel has the prefix in front; here that is its name. All of one read is delivered as one batch.

Order is what makes a subscription right: a message is read after the answer to the subscription that lets it through.
Each name has a command of its own, so that an error is for one name. A watched queue is one whose length was asked for
on a connection with client tracking: the server tells once when it changes.

A name's counter on the server tells, when a lost connection is back, how many messages were missed. It counts no less
than what was published by this layer since it began, which may be after this process subscribed: counters expire.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from _thread import RLock
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from redis.exceptions import NoPermissionError, RedisError

from offload.exceptions import LayerUnavailable
from offload.layers.backend import Owner, Topics
from offload.layers.link.link import Call, Connection, Link, Note, User
from offload.layers.link.outage import Outage, closed
from offload.layers.link.thread import give_way, threads_are_greenlets
from offload.layers.redis.resp import Wire, pack
from offload.layers.redis.server import SUBSCRIBER, Server, SlotMoved

logger = logging.getLogger("offload.layer")

_MESSAGES = (b"message", b"smessage")
_MOST_MOVES = 5
_CLOSED = closed("redis")

# What a wait for further messages may cost and save is measured as it goes, so none of these needs to be set for a
# machine or a site.
_BATCH = 64  # messages delivered before others get a turn; by then joining has saved nearly all of the system calls
_WORTH_WAITING = 0.0005  # seconds that a delivery must take before others are awaited for its sake: some round trips
_LONGEST_WAIT = 0.005  # seconds; nobody sees them, and a group so large that it could save more takes longer itself
_TURNS = 5  # of the loop, in which an answered consumer ends and the next one sends


class Router(Protocol):
    """Who has which names, in a cluster."""

    def subscribers(self, names: Iterable[str]) -> list[tuple[str, Subscriber]]:
        """May wait. Raises ``LayerUnavailable``."""

    def follow(self, moved: SlotMoved) -> Subscriber:
        """Who has the name now. Neither waits nor raises."""


class Waiter:
    """One who waits for messages of queues, at one server or several.

    Attributes:
        woken: keys for whose sake it was woken. It looks whether they hold something, and has the next one woken when
            it found something or leaves.
        error: why it waits in vain.
    """

    __slots__ = ("_event", "error", "woken")

    def __init__(self) -> None:
        self._event = threading.Event()
        self.woken: set[str] = set()
        self.error: LayerUnavailable | None = None

    def wait(self, seconds: float | None) -> bool:
        """Returns False when nothing has happened in time."""
        woken = self._event.wait(seconds)
        self._event.clear()
        return woken

    def wake(self, error: LayerUnavailable | None = None) -> None:
        self.error = self.error or error
        self._event.set()


class _Subscription(Note):
    """One name's, and the command for it.

    Attributes:
        in_force: whether it was confirmed, so that it is to be restored when it is lost.
        left: whether it was given up.
        moves: how often it was sent to another node.
        counted: what its counter would be now if no message was missed since it was last read; None before that.
        since: when that counter began, by the server's clock.
    """

    __slots__ = ("_subscriber", "counted", "in_force", "left", "moves", "name", "number", "since")

    def __init__(self, subscriber: Subscriber, packed: bytes, name: str, number: int, moves: int = 0) -> None:
        super().__init__(packed, optional=False)
        self._subscriber = subscriber
        self.name = name
        self.number = number
        self.moves = moves
        self.counted: int | None = None
        self.since = 0
        self.in_force = False
        self.left = False

    def resolve(self, reply: Any) -> None:
        self._subscriber.answered(self, reply)

    def abort(self, outage: Outage, *, sent: bool) -> None:
        if not self.in_force:
            error = LayerUnavailable(outage.reason) if outage.was_open else outage.error(sent=False)
            self._subscriber.failed(self, error)


class _End(Note):
    """Of a subscription."""

    __slots__ = ("name",)

    def __init__(self, packed: bytes, name: str) -> None:
        super().__init__(packed)
        self.name = name.encode()


class _Watch(Note):
    """The question for a queue's length, which the server answers once more when that changes."""

    __slots__ = ("_aborted",)

    def __init__(self, key: str, answered: Callable[[Any], None], aborted: Callable[[Outage], None]) -> None:
        super().__init__(pack("LLEN", key), answered, optional=False)
        self._aborted = aborted

    def abort(self, outage: Outage, *, sent: bool) -> None:
        self._aborted(outage)


class Subscriber(User[Wire]):
    """Subscribes, watches, and delivers what comes.

    Args:
        owner: is told what comes.
        expects: whether this process has just sent what may come back as further messages.
        router: in a cluster.
        sharded: whether the server has channels of its own slots only, which are subscribed to by other commands
            (SSUBSCRIBE).

    Attributes:
        link: carries them.
        is_blind: whether the server does not tell of queues that change.
    """

    def __init__(
        self,
        server: Server,
        owner: Owner,
        expects: Callable[[], bool],
        router: Router | None = None,
        sharded: bool = False,
    ) -> None:
        self._server = server
        self._owner = owner
        self._prefix = owner.settings.prefix
        self._expects = expects
        self._router = router
        self._verb = "SSUBSCRIBE" if sharded else "SUBSCRIBE"
        self._end = "SUNSUBSCRIBE" if sharded else "UNSUBSCRIBE"
        self.link = Link(server, SUBSCRIBER, self)
        self._lock = RLock()
        self._names: dict[str, _Subscription] = {}
        self._watches: dict[str, dict[Waiter, None]] = {}
        self._tracks = False  # whether the server was asked to tell of changes, on this connection
        self.is_blind = False
        self._cost = 0.0  # seconds that the last batch took to be delivered
        self._lost: float | None = None  # when the connection was lost that is not back yet
        self._lost_at = math.inf  # the same by the server's clock, in milliseconds, or later
        self._missed = 0  # while it was lost
        self._reason = ""  # why it is not back, as last logged
        self._closed = False

    def subscribe(self, name: str, number: int, moves: int = 0) -> None:
        """Neither waits nor raises: the owner is told what became of it. Not the same name twice without `unsubscribe`
        between."""
        subscription = _Subscription(self, pack(self._verb, name), name, number, moves)
        with self._lock:
            self._names[name] = subscription
        for call in (subscription, *self._counts([subscription])):
            self.link.submit(call)

    def unsubscribe(self, name: str) -> None:
        """Neither waits nor raises.

        Nothing happens when it is not subscribed here: a node of a cluster would answer that its slot is elsewhere.
        """
        with self._lock:
            subscription = self._names.pop(name, None)
            if subscription is None:
                return
            subscription.left = True
        if self.link.is_open:
            self.link.submit(_End(pack(self._end, name), name))

    def watch(self, keys: Iterable[str], waiter: Waiter) -> None:
        """Have one woken when one of these queues may hold something; also if it does already. Neither waits nor
        raises."""
        with self._lock:
            if self._closed:
                waiter.wake(LayerUnavailable(_CLOSED))
                return
            unwatched: list[str] = []
            for key in keys:
                if key not in self._watches or key in waiter.woken:
                    unwatched.append(key)
                    waiter.woken.discard(key)
                self._watches.setdefault(key, {})[waiter] = None
            calls = self._watching(unwatched)
        for call in calls:
            self.link.submit(call)

    def _watching(self, keys: Sequence[str]) -> list[Call]:
        """What to send for these."""
        calls: list[Call] = []
        if keys and not self._tracks:
            self._tracks = True
            calls.append(Note(pack("CLIENT", "TRACKING", "ON"), self._take_tracking, optional=False))
        calls += [_Watch(key, partial(self._take_length, key), partial(self._drop_watch, key)) for key in keys]
        return calls

    def unwatch(self, keys: Iterable[str], waiter: Waiter) -> None:
        """Whom this one was woken in place of is woken. Neither waits nor raises."""
        with self._lock:
            for key in keys:
                waiters = self._watches.get(key)
                if waiters is None:
                    continue
                waiters.pop(waiter, None)
                if not waiters:
                    del self._watches[key]
                elif key in waiter.woken:
                    self._wake_one(key)

    def adopt(self, subscriptions: Iterable[_Subscription], lost: float) -> None:
        """Go on with subscriptions that another one lost at this time. Neither waits nor raises."""
        adopted: list[_Subscription] = []
        for other in subscriptions:
            subscription = _Subscription(self, pack(self._verb, other.name), other.name, other.number)
            subscription.in_force = True
            subscription.counted, subscription.since = other.counted, other.since
            adopted.append(subscription)
        with self._lock:
            if self._closed:
                return
            self._names.update((subscription.name, subscription) for subscription in adopted)
            self._lost = lost if self._lost is None else self._lost
        if self.link.is_open:
            for call in self._restoring(adopted, lost):
                self.link.submit(call)
        else:
            self.link.keep_up()

    def close(self) -> None:
        """For good."""
        with self._lock:
            self._closed = True
            names = [subscription for subscription in self._names.values() if not subscription.in_force]
            watches = list(self._watches)
            self._names.clear()
        self.link.close()
        for subscription in names:
            self._tell_failed(subscription, LayerUnavailable(_CLOSED))
        for key in watches:
            self._wake_all(key, LayerUnavailable(_CLOSED))

    def drop(self) -> None:
        """In a forked child."""
        self._closed = True
        self.link.drop()

    # What the link calls

    @property
    def keeps_up(self) -> bool:
        return bool(self._names or self._watches)

    def opening(self) -> None:
        """Leave to others what is theirs by now."""
        if self._router is None or self._lost is None:
            return
        lost = self._lost
        with self._lock:
            names = [name for name, subscription in self._names.items() if subscription.in_force]
        try:
            theirs = [(other, name) for name, other in self._router.subscribers(names) if other is not self]
        except LayerUnavailable:
            return  # nobody knows better
        with self._lock:
            # Some may have been given up meanwhile.
            moving = [(other, self._names.pop(name)) for other, name in theirs if name in self._names]
        for other in {other for other, _ in moving}:
            other.adopt([subscription for heir, subscription in moving if heir is other], lost)

    def opened(self, wire: Wire) -> Sequence[Call]:
        with self._lock:
            self._tracks = False
            self.is_blind = not wire.speaks_resp3
            calls = self._watching(list(self._watches))
            if self._lost is not None:
                restored = [subscription for subscription in self._names.values() if subscription.in_force]
                calls += self._restoring(restored, self._lost)
        return calls

    def _restoring(self, subscriptions: Sequence[_Subscription], lost: float) -> list[Call]:
        """What to send for these, which were lost at this time."""
        time_since = Note(pack("TIME"), partial(self._take_time, time.monotonic() - lost))
        return [*subscriptions, time_since, *self._counts(subscriptions), Note(pack("PING"), self._come_back)]

    def came(self, replies: list[Any], connection: Connection[Wire]) -> None:
        if self._cost > _WORTH_WAITING and threads_are_greenlets():
            self._gather(replies, connection.wire)
        started = time.monotonic()
        batch: list[tuple[str, bytes]] = []
        names, start = self._names, len(self._prefix)
        for reply in replies:
            if isinstance(reply, list) and reply and reply[0] in _MESSAGES:
                name = reply[1].decode()
                batch.append((name[start:], reply[2]))
                if (subscription := names.get(name)) is not None and subscription.counted is not None:
                    subscription.counted += 1
                continue
            if batch:
                self._owner.arrived(batch)
                batch = []
            self._take(reply, connection)
        if batch:
            self._owner.arrived(batch)
        self._cost = time.monotonic() - started
        # A socket that always has something to read would keep the loop for itself.
        give_way()

    def lost(self, outage: Outage) -> None:
        with self._lock:
            if self._closed:
                return
            topics = self._topics(each for each in self._names.values() if each.in_force)
            first = bool(topics) and self._lost is None
            if first:
                self._lost = time.monotonic()
                self._reason = outage.reason
        if topics:
            self._owner.lost(topics, outage.reason)
        if first:
            logger.warning("%s; messages for %d subscriptions are missed until it is back", outage.reason, len(topics))

    def unreachable(self, outage: Outage) -> None:
        """Tell why it is still not back, when the server does not let it. That it is not there was logged."""
        for key in list(self._watches):
            self._wake_all(key, outage.error(sent=False))
        if self._lost is not None and outage.refusal is not None and outage.reason != self._reason:
            self._reason = outage.reason
            logger.warning("%s; messages for %d subscriptions are still missed", outage.reason, len(self._names))

    # What comes

    def _gather(self, replies: list[Any], wire: Wire) -> None:
        """Add to the replies what is about to come, where delivering them one by one would cost more than the wait.

        What a large group's members get together leaves in one system call for each member.

        One who sends message after message sends the next when the last is answered, so let that happen first. Then
        wait for it, but no longer than half of the time that it may save.
        """
        until = time.monotonic() + min(self._cost / 2, _LONGEST_WAIT)
        while len(replies) < _BATCH:
            for _ in range(_TURNS):
                give_way()
            remaining = until - time.monotonic()
            if remaining <= 0 or not self._expects():
                return
            try:
                found = wire.replies(_BATCH - len(replies), remaining)
            except Outage:
                return  # what came before the end counts; the next read fails at once
            if not found:
                return
            replies += found

    def _take(self, reply: Any, connection: Connection[Wire]) -> None:
        """What is no message."""
        if isinstance(reply, list) and reply:
            if reply[0] == b"invalidate":
                self._take_changes(reply[1])
                return
            if reply[0] == b"sunsubscribe":
                expected = connection.expected[0] if connection.expected else None
                if not (isinstance(expected, _End) and expected.name == reply[1]):
                    raise Outage(
                        f"layer 'redis' lost {self._server.shown}: slots were moved to another node", was_open=True
                    )
        connection.answer(reply)

    def answered(self, subscription: _Subscription, reply: Any) -> None:
        if isinstance(reply, RedisError):
            self._take_refusal(subscription, reply)
            return
        with self._lock:
            is_wanted = self._names.get(subscription.name) is subscription
            if is_wanted:
                subscription.in_force = True
        if is_wanted:
            self._owner.subscribed(self._topics([subscription]))

    def failed(self, subscription: _Subscription, error: LayerUnavailable) -> None:
        if self._drop(subscription):
            self._tell_failed(subscription, error)

    def _drop(self, subscription: _Subscription) -> bool:
        """Returns False when it was given up, or another has taken its place."""
        with self._lock:
            is_wanted = self._names.get(subscription.name) is subscription
            if is_wanted:
                del self._names[subscription.name]
        return is_wanted

    def _tell_failed(self, subscription: _Subscription, error: LayerUnavailable) -> None:
        self._owner.failed(self._topics([subscription]), error)

    def _topics(self, subscriptions: Iterable[_Subscription]) -> Topics:
        """As the owner knows them."""
        return {each.name[len(self._prefix) :]: each.number for each in subscriptions}

    def _take_refusal(self, subscription: _Subscription, reply: RedisError) -> None:
        error = self._server.refusal(reply)
        if isinstance(error, SlotMoved) and not subscription.in_force and self._router is not None:
            if not self._drop(subscription):
                return
            if subscription.moves < _MOST_MOVES:
                heir = self._router.follow(error)
                heir.subscribe(subscription.name, subscription.number, subscription.moves + 1)
                return
            self._tell_failed(subscription, error)
            return
        is_forbidden = isinstance(reply, NoPermissionError) and "channel" in str(reply)
        if subscription.in_force and not is_forbidden:
            # It is to be restored, here or elsewhere.
            raise Outage(str(error), was_open=True, refusal=error)
        if subscription.in_force and not subscription.left:
            logger.warning("%s; the subscription of %s is given up", error, subscription.name)
        if self._drop(subscription):
            self._owner.refused(self._topics([subscription]), error)

    def _counts(self, subscriptions: Iterable[_Subscription]) -> list[Call]:
        """Questions for their counters. The answers are behind the messages that were counted."""
        calls: list[Call] = []
        for subscription in subscriptions:
            if subscription.name.startswith("group:", len(self._prefix)):
                packed = pack("HMGET", f"{self._prefix}sent:{{{subscription.name}}}", "sent", "since")
                calls.append(Note(packed, partial(self._take_count, subscription), optional=False))
        return calls

    def _take_time(self, elapsed: float, reply: Any) -> None:
        if isinstance(reply, list):
            seconds, microseconds = map(int, reply)
            self._lost_at = (seconds - elapsed) * 1000 + microseconds / 1000

    def _take_count(self, subscription: _Subscription, reply: Any) -> None:
        if not isinstance(reply, list):
            return  # forbidden, or elsewhere
        sent, since = (int(value or 0) for value in reply)
        if subscription.counted is not None:
            # One that began meanwhile, on a server that had lost its data, has counted what was missed and nothing
            # else. One that expired before and began anew may lack what this process has counted: the rest is certain.
            is_new = since > self._lost_at and since != subscription.since
            self._missed += sent if is_new else max(0, sent - subscription.counted)
        subscription.counted, subscription.since = sent, since

    def _come_back(self, _: Any) -> None:
        with self._lock:
            lost, self._lost = self._lost, None
            missed, self._missed, self._lost_at = self._missed, 0, math.inf
            number = len(self._names)
        if lost is not None:
            logger.info(
                "layer 'redis' is back at %s after %.1f s, with %d subscriptions",
                self._server.shown,
                time.monotonic() - lost,
                number,
            )
            self._owner.reconnected()
            if missed:
                self._owner.subscribed({}, missed)

    # Watches

    def _take_tracking(self, reply: Any) -> None:
        if isinstance(reply, RedisError) and not self.is_blind:
            self.is_blind = True
            logger.warning(
                "%s; messages of named channels are looked for instead of waited for; allow 'client|tracking'",
                self._server.refusal(reply),
            )

    def _take_length(self, key: str, length: Any) -> None:
        if isinstance(length, RedisError):
            self._wake_all(key, self._server.refusal(length))
        elif length:
            with self._lock:
                self._wake_one(key)

    def _take_changes(self, keys: list[bytes] | None) -> None:
        """None: of all."""
        with self._lock:
            for key in list(self._watches) if keys is None else [key.decode() for key in keys]:
                self._wake_one(key)

    def _drop_watch(self, key: str, outage: Outage) -> None:
        """It was not asked for; where the connection was lost meanwhile, the next one asks."""
        if not outage.was_open:
            self._wake_all(key, outage.error(sent=False))

    def _wake_one(self, key: str) -> None:
        """Not all of those who wait for one message. Under the lock."""
        waiters = self._watches.get(key)
        if not waiters:
            return
        waiter = next(iter(waiters))
        del waiters[waiter]
        if not waiters:
            del self._watches[key]
        waiter.woken.add(key)
        waiter.wake()

    def _wake_all(self, key: str, error: LayerUnavailable) -> None:
        with self._lock:
            waiters = self._watches.pop(key, {})
        for waiter in waiters:
            waiter.wake(error)

"""What a hub does for one process: what is asked, what waits while the hub is away, and what is subscribed to.

Whoever has been connected, or expects a hub, waits for one that is away: requests that were not sent, and those that
may be done twice, are held back until it is there, or their callers have waited long enough. A hub that hangs keeps its
connection: each caller's own time ends its wait.

The lock is the interpreter's own (see ``offload.layers.local.subscriptions``): nothing under it waits, or calls the
owner.
"""

from __future__ import annotations

import itertools
import logging
import time
from _thread import RLock
from collections.abc import Sequence
from typing import Any

from offload.exceptions import LayerUnavailable, LayerUnreachable
from offload.layers.backend import Backend, Due, Owner
from offload.layers.ipc import wire
from offload.layers.ipc.connection import Hopeless, HubConnection, HubServer
from offload.layers.link.future import Future, Overdue
from offload.layers.link.link import Call, Connection, Link, Note, User
from offload.layers.link.outage import Outage, closed

logger = logging.getLogger("offload.layer")


class _Request(Future):
    """What somebody waits for the answer to.

    Attributes:
        number: which its answer repeats.
        again: whether it may be done twice.
        sent: whether the hub may have it.
        held: why it waits for a connection.
        since: when that began.
    """

    __slots__ = ("_backend", "again", "held", "number", "packed", "sent", "since")

    answers = 0  # for the link: they come in any order, and the number tells whose they are
    optional = False

    def __init__(self, backend: HubBackend, number: int, packed: bytes, again: bool) -> None:
        super().__init__()
        self._backend = backend
        self.number = number
        self.packed = packed
        self.again = again
        self.sent = False
        self.held: Outage | None = None
        self.since = 0.0

    def abort(self, outage: Outage, *, sent: bool) -> None:
        self._backend.aborted(self, outage, sent)

    def hold(self, outage: Outage) -> None:
        self.sent = False
        self.held = outage
        self.since = time.monotonic()

    def renew(self) -> None:
        """It is sent after it was held."""
        self.held = None


class _Take(_Request):
    """One whose answer the hub is told of before the caller has it."""

    __slots__ = ("_channels", "_ends")

    def __init__(self, backend: HubBackend, number: int, channels: Sequence[str], timeout: float | None) -> None:
        self._channels = channels
        self._ends = None if timeout is None else time.monotonic() + timeout
        super().__init__(backend, number, wire.pack(wire.TAKE, number, channels, timeout), again=True)

    def renew(self) -> None:
        super().renew()
        remaining = None if self._ends is None else max(0.0, self._ends - time.monotonic())
        self.packed = wire.pack(wire.TAKE, self.number, self._channels, remaining)


class _Word(Note):
    """What nobody waits for the answer to, if there is one."""

    __slots__ = ()

    answers = 0


class _Taken(_Word):
    """The caller goes on when the hub has been told, so that no other gets the message if this process dies then."""

    __slots__ = ("_frame", "_take")

    def __init__(self, take: _Take, frame: list[Any]) -> None:
        super().__init__(wire.pack(wire.TAKEN, 0, take.number), optional=False)
        self._take = take
        self._frame = frame

    def told(self) -> None:
        self._take.resolve(self._frame)

    def abort(self, outage: Outage, *, sent: bool) -> None:
        self.told()


class HubBackend(Backend, User[HubConnection]):
    """
    Args:
        server: the hub.
        owner: is told what comes.
        max_unsent_bytes: of what waits for a hub that does not read; past it requests are refused.
    """

    def __init__(self, server: HubServer, owner: Owner, max_unsent_bytes: int) -> None:
        self.server = server
        self.timeout = server.patience
        self._owner = owner
        self._max_unsent_bytes = max_unsent_bytes
        self._unsent_bytes = 0
        self._lock = RLock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Request] = {}  # what has no answer yet
        self._topics: dict[str, int] = {}  # what to restore
        self._subscribing: dict[int, dict[str, int]] = {}  # by the number of the question, on this connection
        self._was_lost = False
        self._closed = False
        self._link = Link(server, "hub", self)

    def check(self) -> None:
        self.request(wire.PING, again=True)

    def push(self, channel: str, payload: bytes, expiry: float, capacity: int) -> None:
        self.request(wire.PUSH, channel, payload, expiry, capacity, again=False)

    def keep(self, channel: str, payload: bytes, seconds: float) -> None:
        self.request(wire.KEEP, channel, payload, seconds, again=False)

    def take_due(self, taker: str, received: int, batch: int) -> Due:
        return Due(*self.request(wire.TAKE_DUE, taker, received, batch, again=False))

    def take(self, channels: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        take = _Take(self, next(self._numbers), channels, timeout)
        # A signal may raise anywhere in here, also when the hub has just been told that the message is taken.
        try:
            # The hub keeps the time: only a hub that hangs is waited for longer.
            value = self._result(take, None if timeout is None else timeout + self.timeout)
            return None if value is None else (value[0], value[1])
        except BaseException:
            take.leave()
            self._say(wire.CANCEL, take.number)
            raise

    def subscribe(self, topic: str, number: int) -> None:
        with self._lock:
            self._topics[topic] = number
            self._link.submit(self._subscription({topic: number}, were_lost=False))

    def unsubscribe(self, topic: str) -> None:
        with self._lock:
            self._topics.pop(topic, None)
            self._say(wire.UNSUBSCRIBE, topic)

    def publish(self, topic: str, payload: bytes) -> int:
        heard: int = self.request(wire.PUBLISH, topic, payload, again=False)
        return heard

    def group_send(self, group: str, payload: bytes) -> int:
        full: int = self.request(wire.GROUP_SEND, group, payload, again=False)
        return full

    def set_member(self, group: str, channel: str, is_member: bool) -> None:
        self.request(wire.SET_MEMBER, group, channel, is_member, again=True)

    def session_load(self, key: str) -> bytes | None:
        payload: bytes | None = self.request(wire.SESSION_LOAD, key, again=True)
        return payload

    def session_save(self, key: str, payload: bytes, expiry: float) -> None:
        self.request(wire.SESSION_SAVE, key, payload, expiry, again=True)

    def session_expire(self, key: str, seconds: float) -> None:
        self.request(wire.SESSION_EXPIRE, key, seconds, again=True)

    def flush(self) -> None:
        self.request(wire.FLUSH, again=True)

    def close(self) -> None:
        self._closed = True
        self._link.close()
        self._fail_held(Outage(closed(self.server.layer), was_open=True))

    def abandon(self) -> None:
        self._closed = True
        self._link.drop()

    # Asking

    def request(self, kind: int, *arguments: Any, again: bool) -> Any:
        """Ask, and wait for the answer.

        Args:
            again: whether to ask once more when the connection is lost before the answer: for what may be done twice.

        Raises:
            LayerUnreachable, ConfigurationError: nothing was asked, and why.
            LayerUnavailable: no answer in time.
        """
        number = next(self._numbers)
        return self._result(_Request(self, number, wire.pack(kind, number, *arguments), again), self.timeout)

    def _result(self, request: _Request, timeout: float | None) -> Any:
        if self._unsent_bytes > self._max_unsent_bytes:
            raise LayerUnreachable(
                f"layer 'ipc' waits for {self.server.shown} to read {self._unsent_bytes} bytes that were sent before"
            )
        self._note_unsent(len(request.packed))
        self._asked[request.number] = request
        try:
            self._link.submit(request)
            return wire.value_of(request.result(timeout))
        except Overdue:
            if request.held is not None:
                raise request.held.error(sent=False) from None
            raise LayerUnavailable(
                f"layer 'ipc' got no answer from {self.server.shown} within {self.timeout:g} s"
            ) from None
        finally:
            self._asked.pop(request.number, None)

    def _say(self, kind: int, argument: Any) -> None:
        """Nothing where there is no connection. Does not wait."""
        if self._link.is_open:
            self._link.submit(_Word(wire.pack(kind, 0, argument)))

    def _subscription(self, topics: dict[str, int], were_lost: bool) -> Call:
        """Under the lock."""
        number = next(self._numbers)
        self._subscribing[number] = topics
        return _Word(wire.pack(wire.SUBSCRIBE, number, list(topics), were_lost))

    def _note_unsent(self, size: int) -> None:
        with self._lock:
            self._unsent_bytes += size

    # What the link calls

    @property
    def keeps_up(self) -> bool:
        return bool(self._topics or self._asked) and not self._closed

    def opened(self, wire: HubConnection) -> Sequence[Call]:
        calls: list[Call] = []
        with self._lock:
            topics, again = self._topics.copy(), self._was_lost
            self._was_lost = False
            self._subscribing.clear()
            if topics:
                calls.append(self._subscription(topics, were_lost=again))
        held = self._held()
        for request in held:
            request.renew()
            self._note_unsent(len(request.packed))
        if again:
            groups = sum(topic.startswith("group:") for topic in topics)
            logger.info("layer 'ipc' has its hub at %s again; groups restored: %d", self.server.path, groups)
            self._owner.reconnected()
        return [*calls, *held]

    def written(self, calls: Sequence[Call]) -> None:
        size = 0
        for call in calls:
            if isinstance(call, _Request):
                size += len(call.packed)
                call.sent = True
            elif isinstance(call, _Taken):
                call.told()
        if size:
            self._note_unsent(-size)

    def aborted(self, request: _Request, outage: Outage, sent: bool) -> None:
        """Hold it where it may be sent yet, or again."""
        if not sent:
            self._note_unsent(-len(request.packed))
        if (request.again or not sent) and not isinstance(outage, Hopeless):
            request.hold(outage)
            if not self._closed:
                return
        request.fail(outage.error(sent=sent))

    def lost(self, outage: Outage) -> None:
        if not self._closed:
            logger.warning(
                "layer 'ipc' lost its hub at %s; its queued messages and sessions are gone", self.server.path
            )
            with self._lock:
                self._was_lost = True
                topics = self._topics.copy()
            self._owner.lost(topics, outage.reason)
        for request in list(self._asked.values()):
            if request.sent:
                request.abort(outage, sent=True)

    def unreachable(self, outage: Outage) -> None:
        if isinstance(outage, Hopeless):
            self._fail_held(outage)
            self._owner.failed(self._topics.copy(), LayerUnreachable(outage.reason))
            return
        oldest = time.monotonic() - self.timeout
        for request in self._held():
            if request.since < oldest:
                request.fail(outage.error(sent=False))
            else:
                request.held = outage

    def _held(self) -> list[_Request]:
        return [request for request in list(self._asked.values()) if request.held is not None and not request.done]

    def _fail_held(self, outage: Outage) -> None:
        for request in self._held():
            request.fail(outage.error(sent=False))

    # What comes

    def came(self, replies: list[Any], connection: Connection[HubConnection]) -> None:
        batch: list[tuple[str, bytes]] = []
        for frame in replies:
            kind = frame[0]
            if kind == wire.MESSAGE:
                batch.append((frame[1], frame[2]))
            elif kind == wire.ANSWER:
                request = self._asked.pop(frame[1], None)
                if isinstance(request, _Take) and frame[3] is not None and frame[2] == wire.OK:
                    self._link.submit(_Taken(request, frame))
                elif request is not None:
                    request.resolve(frame)
                elif (topics := self._subscribing.pop(frame[1], None)) is not None:
                    if batch:
                        self._owner.arrived(batch)
                        batch = []
                    self._owner.subscribed(topics, frame[3])
            elif kind == wire.LOST:
                self._owner.count("lost", frame[1])
                logger.warning("layer 'ipc' lost %d messages: this process did not read for a while", frame[1])
        if batch:
            self._owner.arrived(batch)

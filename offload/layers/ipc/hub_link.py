"""A process's link to its hub: what is asked, what waits while the hub is away, and what is subscribed to.

Whoever has been connected, or expects a hub, waits for one that is away: requests that were not sent, and those that
may be done twice, are held back until it is there, or their callers have waited long enough. A hub that hangs keeps its
connection, since no other would serve: each caller's own time ends its wait.

The lock is the interpreter's own (see ``offload.layers.local.subscriptions``): nothing under it waits, or calls the
owner.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import socket
import time
from _thread import RLock
from collections import deque
from collections.abc import Sequence
from typing import Any

from offload.exceptions import ConfigurationError, LayerUnavailable, LayerUnreachable
from offload.layers.addresses import hub_path
from offload.layers.backend import Owner
from offload.layers.ipc import wire
from offload.layers.link.future import Future, Overdue
from offload.layers.link.link import Call, Connection, Link, Note, User
from offload.layers.link.outage import Outage, closed

logger = logging.getLogger("offload.layer")

_READ_BYTES = 256 * 1024


class _Hopeless(Outage):
    """Waiting would not help: those who ask are told so at once."""

    def __init__(self, error: LayerUnavailable | ConfigurationError) -> None:
        super().__init__(str(error))
        self._error = error

    def error(self, *, sent: bool) -> Any:
        return type(self._error)(*self._error.args)


class _Request(Future):
    """One that is answered soon.

    Attributes:
        number: which its answer repeats.
        again: whether it may be done twice.
        held: why it was not sent yet.
    """

    __slots__ = ("_link", "again", "held", "number", "packed")

    answers = 1
    optional = False

    def __init__(self, link: HubLink, number: int, packed: bytes, again: bool) -> None:
        super().__init__()
        self._link = link
        self.number = number
        self.packed = packed
        self.again = again
        self.held: Outage | None = None

    def abort(self, outage: Outage, *, sent: bool) -> None:
        self._link.aborted(self, outage, sent)

    def renew(self) -> None:
        """It is sent after it was held."""
        self.held = None


class _Take(_Request):
    """One whose answer may take long, and which the hub is told of before the caller has it."""

    __slots__ = ("_channels", "_ends", "answered", "held_since", "sent")

    answers = 0  # in any order of time

    def __init__(self, link: HubLink, number: int, channels: Sequence[str], timeout: float | None) -> None:
        self._channels = channels
        self._ends = None if timeout is None else time.monotonic() + timeout
        self.sent = self.answered = False
        self.held_since = 0.0
        super().__init__(link, number, wire.pack(wire.TAKE, number, channels, timeout), again=True)

    def renew(self) -> None:
        super().renew()
        remaining = None if self._ends is None else max(0.0, self._ends - time.monotonic())
        self.packed = wire.pack(wire.TAKE, self.number, self._channels, remaining)


class _Word(Note):
    """What has no answer."""

    __slots__ = ()

    answers = 0


class _Taken(_Word):
    """The caller goes on when the hub has been told, so that no other gets the message if this process dies then."""

    __slots__ = ("_take", "frame")

    def __init__(self, take: _Take, frame: list[Any]) -> None:
        super().__init__(wire.pack(wire.TAKEN, 0, take.number), optional=False)
        self._take = take
        self.frame = frame

    def told(self) -> None:
        self._take.resolve(self.frame)

    def abort(self, outage: Outage, *, sent: bool) -> None:
        self.told()


class _Subscribe(Note):
    """One that is lost is done anew on the next connection."""

    __slots__ = ("_link", "_topics", "number")

    def __init__(self, link: HubLink, number: int, topics: dict[str, int], were_lost: bool) -> None:
        super().__init__(wire.pack(wire.SUBSCRIBE, number, list(topics), were_lost))
        self._link = link
        self._topics = topics
        self.number = number

    def resolve(self, frame: Any) -> None:
        self._link.owner.subscribed(self._topics, frame[3])

    def abort(self, outage: Outage, *, sent: bool) -> None:
        if self._link.is_closed:
            self._link.owner.failed(self._topics, outage.error(sent=False))


class _Wire:
    """A connection to the hub."""

    def __init__(self, link: HubLink) -> None:
        self._link = link
        self._socket: socket.socket | None = None
        self._frames = wire.FrameReader()

    def open(self) -> None:
        try:
            self._open()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else "connection refused"
            raise self._link.not_reached(reason, is_there=False) from None
        except (ConfigurationError, LayerUnavailable) as error:
            raise _Hopeless(error) from None
        except (OSError, wire.BrokenFrame) as error:
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
            raise self._link.not_reached(reason, is_there=True) from None

    def _open(self) -> None:
        link = self._link
        hub_path.check_directory(link.path, foreign=link.is_foreign)
        hub_path.check_socket(link.path)
        # Known from the first, so that a forked child, or `close`, finds it.
        self._socket = connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(link.patience)
        connected.connect(link.path)
        _, user = hub_path.peer(connected)
        if user not in (None, os.geteuid()) and not link.is_foreign:
            raise LayerUnreachable(
                f"layer 'ipc' refuses {link.shown}: it belongs to user {user}, not to {os.geteuid()}"
            )
        connected.sendall(wire.pack(wire.HELLO, 1, wire.VERSION, *link.hello))
        answers: list[list[Any]] = []
        while not answers:
            data = connected.recv(_READ_BYTES)
            if not data:
                raise OSError("the hub ended the connection")
            answers = self._frames.feed(data)
        try:
            wire.value_of(answers[0])
        except LayerUnavailable as error:
            raise LayerUnreachable(f"layer 'ipc' was refused by {link.shown}, which {error}") from None
        connected.settimeout(None)

    def send(self, data: bytes) -> None:
        assert self._socket is not None
        try:
            self._socket.sendall(data)
        except OSError:
            raise self._link.lost_hub() from None

    def replies(self, most: int) -> list[Any]:
        assert self._socket is not None
        try:
            if data := self._socket.recv(_READ_BYTES):
                return self._frames.feed(data)
        except OSError:
            pass  # as its end
        except wire.BrokenFrame as error:
            logger.error("layer 'ipc': the hub at %s sent what cannot be read: %s", self._link.path, error)
        raise self._link.lost_hub()

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Also for who reads or sends at this moment, and for a forked child that still has it.
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def abandon(self) -> None:
        if self._socket is not None:
            self._socket.close()


class HubLink(User[_Wire]):
    """The link.

    Args:
        path: the hub's socket.
        patience: seconds to wait for a connection, and for an answer.
        is_foreign: see ``offload.layers.addresses.hub_path.check_directory``.
        is_expected: whether to wait for a hub that is not there; from the first connection on, one that is lost is
            waited for anyway.
        max_unsent_bytes: of what waits for a hub that does not read; past it requests are refused.
        hello: prefix, process token and settings.
        owner: is told what comes.
    """

    layer = "ipc"
    timeout = math.inf
    keepalive = b""

    def __init__(
        self,
        path: str,
        patience: float,
        hello: tuple[Any, ...],
        owner: Owner,
        *,
        is_foreign: bool,
        is_expected: bool,
        max_unsent_bytes: int,
    ) -> None:
        self.path = path
        self.patience = patience
        self.hello = hello
        self.owner = owner
        self.is_foreign = is_foreign
        self.is_expected = is_expected
        self.is_closed = False
        self.shown = f"its hub at {path}"
        self.seen = 0.0
        self._max_unsent_bytes = max_unsent_bytes
        self._unsent_bytes = 0
        self._lock = RLock()
        self._numbers = itertools.count(1)
        self._was_up = False
        self._topics: dict[str, int] = {}  # what to restore
        self._takes: dict[int, _Take] = {}
        self._held: list[_Request] = []
        self._link = Link(self, "hub", self)

    # For callers

    def request(self, kind: int, *arguments: Any, again: bool) -> Any:
        """Ask, and wait for the answer.

        Args:
            again: whether to ask once more when the connection is lost before the answer: for what may be done twice.

        Raises:
            LayerUnreachable, ConfigurationError: nothing was asked, and why.
            LayerUnavailable: no answer in time.
        """
        number = next(self._numbers)
        request = _Request(self, number, wire.pack(kind, number, *arguments), again)
        return wire.value_of(self._result(request, self.patience))

    def take(self, channels: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        """Take a message from named queues. What was handed out and is not wanted any more goes back."""
        number = next(self._numbers)
        # A signal may raise anywhere in here, also when the hub has just been told that the message is taken.
        try:
            request = self._takes[number] = _Take(self, number, channels, timeout)
            # The hub keeps the time: only a hub that hangs is waited for longer.
            value = wire.value_of(self._result(request, None if timeout is None else timeout + self.patience))
            del self._takes[number]
            return None if value is None else (value[0], value[1])
        except BaseException:
            if (left := self._takes.pop(number, None)) is not None:
                left.leave()
            self._say(wire.CANCEL, number)
            raise

    def subscribe(self, topic: str, number: int) -> None:
        """As `Backend.subscribe`."""
        with self._lock:
            self._topics[topic] = number
            self._link.submit(_Subscribe(self, next(self._numbers), {topic: number}, were_lost=False))

    def unsubscribe(self, topic: str) -> None:
        """As `Backend.unsubscribe`."""
        with self._lock:
            self._topics.pop(topic, None)
            self._say(wire.UNSUBSCRIBE, topic)

    def close(self) -> None:
        """For good. Whoever waits gets ``LayerUnavailable``."""
        self.is_closed = True
        self._link.close()
        self._fail_held(Outage(closed(self.layer), was_open=True))

    def drop(self) -> None:
        """In a forked child."""
        self.is_closed = True
        self._link.drop()

    def _say(self, kind: int, argument: Any) -> None:
        """Nothing where there is no connection. Does not wait."""
        if self._link.is_open:
            self._link.submit(_Word(wire.pack(kind, 0, argument)))

    def _result(self, request: _Request, timeout: float | None) -> Any:
        if self._unsent_bytes > self._max_unsent_bytes:
            raise LayerUnreachable(
                f"layer 'ipc' waits for {self.shown} to read {self._unsent_bytes} bytes that were sent before"
            )
        self._note_unsent(len(request.packed))
        self._link.submit(request)
        try:
            return request.result(timeout)
        except Overdue:
            if request.held is not None:
                raise request.held.error(sent=False) from None
            raise LayerUnavailable(f"layer 'ipc' got no answer from {self.shown} within {self.patience:g} s") from None

    def _note_unsent(self, size: int) -> None:
        with self._lock:
            self._unsent_bytes += size

    # What the link asks, and tells

    def wire(self, duty: str) -> _Wire:
        return _Wire(self)

    def not_reached(self, reason: str, *, is_there: bool) -> Outage:
        text = f"layer 'ipc' cannot reach {self.shown}: {reason}"
        remedy = "start 'offload APP' in this directory, or name the socket with ipc:///path"
        if is_there or self.is_expected or self._was_up:
            return Outage(text, remedy)
        return _Hopeless(LayerUnreachable(f"{text}; {remedy}"))

    def lost_hub(self) -> Outage:
        return Outage(f"layer 'ipc' lost {self.shown}", was_open=True)

    @property
    def keeps_up(self) -> bool:
        return bool(self._topics or self._held) and not self.is_closed

    def opened(self, wire: _Wire) -> Sequence[Call]:
        calls: list[Call] = []
        with self._lock:
            topics, again = self._topics.copy(), self._was_up
            self._was_up = True
            if topics:
                calls.append(_Subscribe(self, next(self._numbers), topics, were_lost=again))
            held, self._held = self._held, []
        for request in held:
            request.renew()
            self._note_unsent(len(request.packed))
        if again:
            groups = sum(topic.startswith("group:") for topic in topics)
            logger.info("layer 'ipc' has its hub at %s again; groups restored: %d", self.path, groups)
            self.owner.reconnected()
        return [*calls, *held]

    def written(self, calls: Sequence[Call]) -> None:
        size = 0
        for call in calls:
            if isinstance(call, _Request):
                size += len(call.packed)
                if isinstance(call, _Take):
                    call.sent = True
            elif isinstance(call, _Taken):
                call.told()
        if size:
            self._note_unsent(-size)

    def aborted(self, request: _Request, outage: Outage, sent: bool) -> None:
        """Hold it where it may be sent yet, or again."""
        if not sent:
            self._note_unsent(-len(request.packed))
        if (sent and not request.again) or self.is_closed or isinstance(outage, _Hopeless):
            request.fail(outage.error(sent=sent))
            return
        if request.left:
            return
        if isinstance(request, _Take):
            request.sent = False
            request.held_since = time.monotonic()
        request.held = outage
        with self._lock:
            self._held.append(request)

    def lost(self, outage: Outage) -> None:
        if self.is_closed:
            for take in list(self._takes.values()):
                take.fail(outage.error(sent=True))
            return
        logger.warning("layer 'ipc' lost its hub at %s; its queued messages and sessions are gone", self.path)
        with self._lock:
            topics = self._topics.copy()
        self.owner.lost(topics, outage.reason)
        for take in list(self._takes.values()):
            if take.sent and not take.answered:
                self.aborted(take, outage, sent=True)

    def unreachable(self, outage: Outage) -> None:
        if isinstance(outage, _Hopeless):
            self._fail_held(outage)
            self.owner.failed(self._topics.copy(), LayerUnreachable(outage.reason))
            return
        oldest = time.monotonic() - self.patience
        with self._lock:
            held, self._held = self._held, []
        for request in held:
            if isinstance(request, _Take) and request.held_since < oldest:
                request.fail(outage.error(sent=False))
            elif not request.left:
                request.held = outage
                with self._lock:
                    self._held.append(request)

    def _fail_held(self, outage: Outage) -> None:
        with self._lock:
            held, self._held = self._held, []
        for request in held:
            request.fail(outage.error(sent=False))

    # What comes

    def came(self, replies: list[Any], connection: Connection[_Wire]) -> None:
        batch: list[tuple[str, bytes]] = []
        for frame in replies:
            kind = frame[0]
            if kind == wire.MESSAGE:
                batch.append((frame[1], frame[2]))
            elif kind == wire.ANSWER:
                if (take := self._takes.get(frame[1])) is not None:
                    take.answered = True
                    if frame[3] is None or frame[2] != wire.OK:
                        take.resolve(frame)
                    else:
                        self._link.submit(_Taken(take, frame))
                    continue
                call = _asked(connection.expected, frame[1])
                if batch and isinstance(call, _Subscribe):
                    self.owner.arrived(batch)
                    batch = []
                if call is not None:
                    connection.answer_to(call, frame)
            elif kind == wire.LOST:
                self.owner.count("lost", frame[1])
                logger.warning("layer 'ipc' lost %d messages: this process did not read for a while", frame[1])
        if batch:
            self.owner.arrived(batch)


def _asked(expected: deque[Any], number: int) -> Any:
    """The call that this is the answer to; nearly always the first."""
    if expected and expected[0].number == number:
        return expected[0]
    return next((call for call in list(expected) if call.number == number), None)

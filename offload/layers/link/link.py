"""A process's link to a layer's server: one connection at a time, with a writer and a reader of its own.

Callers queue calls and wait for their replies; they do no input or output. So whatever is thrown into a caller, at any
moment, can only end its wait: no command is half written, and each reply finds its call. The writer sends all that is
queued in one piece, opens the connection, and closes it; everything that ends one is told to the writer.

Knows no protocol: its user tells answers from what the server says by itself.
"""

from __future__ import annotations

import abc
import logging
import random
import time
from _thread import RLock
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from offload.layers.link.outage import Outage, closed, silence
from offload.layers.link.thread import Duty, closed_gate, start, wait_at

logger = logging.getLogger("offload.layer")

LATENESS = 60.0  # seconds that a reply may be late and still be of use

_BATCH_BYTES = 1024 * 1024
_BATCH_CALLS = 1000
_REPLIES = 64  # taken before others get a turn
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 0.5


class Wire(Protocol):
    """A connection. One thread writes while another reads; `close` may be called from any."""

    def open(self) -> None:
        """Connect. Waits for no longer than some bound. Raises ``Outage``."""

    def send(self, data: bytes) -> None:
        """Send all of it. Raises ``Outage``, also when nothing could be sent for too long."""

    def replies(self, most: int) -> list[Any] | None:
        """What has come, this many or so; an empty list when only a part of one has, and None when nothing has for a
        moment. Raises ``Outage``."""

    def close(self) -> None:
        """Ends what waits here."""

    def abandon(self) -> None:
        """In a forked child: give the descriptor back, and leave the connection as it is."""


W = TypeVar("W", bound=Wire)


W_co = TypeVar("W_co", bound=Wire, covariant=True)


class Server(Protocol[W_co]):
    """Where a link leads.

    Attributes:
        shown: its address, for errors and logs.
        layer: the layer's name.
        timeout: seconds after which a server that does not answer counts as unreachable.
        keepalive: a command whose answer says no more than that the server is there.
        seen: when one of its links last opened a connection.
    """

    shown: str
    layer: str
    timeout: float
    keepalive: bytes
    seen: float

    def wire(self, duty: str) -> W_co:
        """One that is not open yet.

        Args:
            duty: what it is for.
        """


class Call(Protocol):
    """A command to send.

    Attributes:
        packed: its bytes.
        answers: how many come for it; the last is its own, the others are of no interest. The user sees to answers to
            what has none here.
        optional: whether it is of no use on another connection than the one there is.
        left: whether it need not be sent any more.
        is_claimable: whether its reply is of use even when it comes too late.
    """

    packed: bytes
    answers: int
    optional: bool
    left: bool

    @property
    def is_claimable(self) -> bool: ...

    def resolve(self, reply: Any) -> None:
        """The answer; an error of the server, too. In the reader."""

    def abort(self, outage: Outage, *, sent: bool) -> None:
        """There is none. `sent`: whether it was, or may have been."""

    def lose(self) -> None:
        """There will never be one, after `abort`, though it is claimable."""


class Note:
    """A call that nobody waits for."""

    __slots__ = ("_answered", "optional", "packed")

    answers = 1
    left = False
    is_claimable = False

    def __init__(self, packed: bytes, answered: Callable[[Any], None] | None = None, *, optional: bool = True) -> None:
        self.packed = packed
        self.optional = optional
        self._answered = answered

    def resolve(self, reply: Any) -> None:
        if self._answered is not None:
            self._answered(reply)

    def abort(self, outage: Outage, *, sent: bool) -> None:
        pass

    def lose(self) -> None:
        pass


class User(abc.ABC, Generic[W]):
    """Whose link it is. None of its methods raises."""

    @property
    def keeps_up(self) -> bool:
        """Whether the connection is to be opened again when it is lost, without a call."""
        return False

    def opening(self) -> None:
        """A connection is about to be opened. In the writer; may wait for other servers."""

    def opened(self, wire: W) -> Sequence[Call]:
        """There is a connection. Returns what is said first. In the writer."""
        return ()

    def written(self, calls: Sequence[Call]) -> None:
        """These were sent, or may have been in part; those that were `left` not. In the writer."""

    @abc.abstractmethod
    def came(self, replies: list[Any], connection: Connection[W]) -> None:
        """These came together; answers are handed to `Connection.answer`. In the reader; may raise ``Outage``."""

    def lost(self, outage: Outage) -> None:
        """There was a connection. In the writer."""

    def unreachable(self, outage: Outage) -> None:
        """It could not be opened. In the writer."""


class Connection(Generic[W]):
    """
    Attributes:
        wire: the bytes' way.
        expected: calls that were sent, or are just being sent, and have no answer.
        asked: when the first of them was sent.
        heard: when anything last came.
        since: when it was opened.
    """

    __slots__ = ("asked", "expected", "heard", "since", "wire")

    def __init__(self, wire: W) -> None:
        self.wire = wire
        self.expected: deque[Call | None] = deque()
        self.asked = 0.0
        self.since = self.heard = time.monotonic()

    def answer(self, reply: Any) -> None:
        """Hand the next answer to its call."""
        call = self.expected[0]
        if call is not None:
            call.resolve(reply)
        self.expected.popleft()


class _Loss:
    """Of a connection; told to the writer."""

    __slots__ = ("connection", "outage")

    def __init__(self, connection: Connection[Any], outage: Outage) -> None:
        self.connection = connection
        self.outage = outage


_Item = Call | _Loss | None


class _Queue:
    """What its one taker is to do. A deque, and a lock that is open when there may be something new: gevent's queues
    switch greenlets for each item. Putting neither waits nor raises."""

    def __init__(self) -> None:
        self.items: deque[_Item] = deque()
        self._gate = closed_gate()

    def put(self, item: _Item) -> None:
        self.items.append(item)
        self.wake()

    def wake(self) -> None:
        if self._gate.locked():
            try:
                self._gate.release()
            except RuntimeError:
                pass  # another thread has just done so

    def wait(self, timeout: float | None) -> None:
        """Until something was put, or for so many seconds. May return although nothing was."""
        if not self.items:
            wait_at(self._gate, timeout)


class Link(Generic[W]):
    """
    Args:
        duty: as of `Server.wire`.
        user: see there.
    """

    def __init__(self, server: Server[W], duty: str, user: User[W]) -> None:
        self._server = server
        self._name = f"offload-{server.layer}-{duty}"
        self._make_wire = partial(server.wire, duty)
        self._user = user
        self._lock = RLock()
        # Made when first needed, which is after gevent has patched.
        self._made: _Queue | None = None
        self._duty = Duty(self._write_all, self._name)
        self._connection: Connection[W] | None = None
        self._open_wires: list[W] = []  # also those that are being opened, or of which only late replies are read
        self._keepalive = Note(server.keepalive)
        self._closed = False
        self._forked = False
        self._outage: Outage | None = None  # of the last attempt to connect
        self._failed = self._retry_at = 0.0
        self._delay = _FIRST_DELAY

    @property
    def is_busy(self) -> bool:
        """Whether calls are queued, or wait for their answers."""
        connection = self._connection
        return (connection is not None and bool(connection.expected)) or bool(self._queue.items)

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def submit(self, call: Call) -> None:
        """Queue a call. Neither waits nor raises."""
        self._queue.put(call)
        if self._closed:
            self._fail_queued(self._closing)
        else:
            self._wake()

    def keep_up(self) -> None:
        """Have the connection opened if the user wants it. Neither waits nor raises."""
        self._queue.put(None)
        self._wake()

    def renew(self) -> None:
        """Connect anew, since the server has become of no use. Neither waits nor raises."""
        if (connection := self._connection) is not None:
            self._queue.put(_Loss(connection, self._ended("left")))

    def close(self) -> None:
        """For good. Whoever waits gets ``LayerUnavailable``."""
        with self._lock:
            self._closed = True
            wires = list(self._open_wires)
        for wire in wires:
            wire.close()
        self._queue.put(None)
        if not self._duty.is_running:
            self._fail_queued(self._closing)

    def drop(self) -> None:
        """In a forked child, which has copies of the parent's greenlets: give back the descriptors, and say nothing to
        the server or to those who wait. What they were about to send is the parent's to send."""
        self._forked = self._closed = True
        for wire in self._open_wires:
            wire.abandon()

    # Writing

    @property
    def _queue(self) -> _Queue:
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = _Queue()
        return self._made

    def _wake(self) -> None:
        try:
            self._duty.ensure()
        except RuntimeError as error:
            self._fail_queued(self._unstarted(error))

    def _write_all(self) -> None:
        try:
            while not self._duty.may_end(self._has_work):
                self._write_some(self._next())
        except BaseException:
            # An interrupt of the whole process, which came here.
            self._end(self._ended("gave up its connection to"))
            raise
        if self._closed:
            self._end(self._closing)

    def _has_work(self) -> bool:
        if self._closed:
            return False
        return self._connection is not None or self._user.keeps_up or bool(self._queue.items)

    def _next(self) -> list[Call]:
        """Waits for something to do, and sees to what is no call."""
        timeout = None
        if self._connection is None and self._user.keeps_up:
            timeout = max(0.0, self._retry_at - time.monotonic())
        queue = self._queue
        queue.wait(timeout)
        items = queue.items
        calls: list[Call] = []
        size = 0
        while len(calls) < _BATCH_CALLS and size < _BATCH_BYTES:
            try:
                item = items.popleft()
            except IndexError:
                break  # not asked before: callers of a closed link take items, too
            if isinstance(item, _Loss):
                if item.connection is self._connection:
                    self._lose(item.connection, item.outage)
            elif item is not None:
                calls.append(item)
                size += len(item.packed)
        return calls

    def _write_some(self, calls: list[Call]) -> None:
        if self._closed:
            self._abort(calls, self._closing)
            return
        if self._connection is None:
            calls = [call for call in calls if not call.optional]
            if not (calls or self._user.keeps_up):
                return
            if self._outage is not None and self._server.seen <= self._failed and time.monotonic() < self._retry_at:
                # A server that lets nobody in is not to be asked by every call. What let another link in is back.
                self._abort(calls, self._outage)
                return
            self._user.opening()
            if not (calls or self._user.keeps_up):
                return
            try:
                self._open()
            except Outage as outage:
                self._abort(calls, outage)
                self._note_unreachable(outage)
                return
        self._send(calls)

    def _open(self) -> None:
        wire = self._make_wire()
        with self._lock:
            self._open_wires.append(wire)
        try:
            if not self._closed:
                wire.open()
            if self._closed:
                raise self._closing
            connection = Connection(wire)
            start(partial(self._read, connection), self._name)
        except BaseException as error:
            self._discard(wire)
            if self._closed and isinstance(error, Exception):
                # The wire was taken away while it opened, which may fail in any way.
                raise self._closing from None
            if isinstance(error, RuntimeError):
                raise self._unstarted(error) from None
            raise
        self._outage = None
        self._server.seen = time.monotonic()
        self._connection = connection
        self._send(self._user.opened(wire))

    def _note_unreachable(self, outage: Outage) -> None:
        self._outage = outage
        self._failed = time.monotonic()
        self._back_off()
        # All that came meanwhile fails at once: one bounded wait for all, not one after the other.
        self._fail_queued(outage)
        if not self._forked:
            self._user.unreachable(outage)

    def _back_off(self) -> None:
        """Not all processes at the same moment."""
        self._retry_at = time.monotonic() + self._delay * random.uniform(0.5, 1.0)
        self._delay = min(2 * self._delay, _LONGEST_DELAY)

    def _send(self, calls: Sequence[Call]) -> None:
        connection = self._connection
        if connection is None:
            # It was lost again at once: they are next, before what was queued meanwhile.
            self._queue.items.extendleft(reversed(calls))
            return
        packed: list[bytes] = []
        expected: list[Call | None] = []
        for call in calls:
            if call.left:
                continue
            packed.append(call.packed)
            if call.answers != 1:
                if not call.answers:
                    continue
                expected += [None] * (call.answers - 1)
            expected.append(call)
        if expected and not connection.expected and expected[0] is not self._keepalive:
            connection.asked = time.monotonic()
        connection.expected.extend(expected)
        broken: Outage | None = None
        try:
            if packed:
                connection.wire.send(b"".join(packed))
        except Outage as outage:
            broken = outage
        # Its user looks at a loss for what was sent.
        self._user.written(calls)
        if broken is not None:
            self._lose(connection, broken)

    def _lose(self, connection: Connection[W], outage: Outage) -> None:
        self._connection = None
        if self._forked:
            return
        if self._closed:
            outage = self._closing  # not what its end looked like to whoever was reading or writing
        unanswered = [call for call in list(connection.expected) if call is not None]
        is_late = outage.is_silence and any(call.is_claimable for call in unanswered)
        for call in unanswered:
            call.abort(outage, sent=True)
        if not is_late:  # otherwise its reader goes on, and closes it
            self._discard(connection.wire)
            self._lose_claims(unanswered)
        if time.monotonic() - connection.since < 2 * _LONGEST_DELAY:
            self._back_off()
        else:
            self._delay = _FIRST_DELAY
        self._user.lost(outage)

    def _lose_claims(self, calls: Iterable[Call | None]) -> None:
        for call in calls:
            if call is not None and call.is_claimable and not self._closed:
                call.lose()

    def _end(self, outage: Outage) -> None:
        if (connection := self._connection) is not None:
            self._lose(connection, outage)
        self._fail_queued(outage)

    def _fail_queued(self, outage: Outage) -> None:
        while not self._forked:
            try:
                item = self._queue.items.popleft()
            except IndexError:
                return
            if not (item is None or isinstance(item, _Loss)):
                item.abort(outage, sent=False)

    def _abort(self, calls: Iterable[Call], outage: Outage) -> None:
        for call in () if self._forked else calls:
            call.abort(outage, sent=False)

    def _discard(self, wire: W) -> None:
        with self._lock:
            if wire in self._open_wires:
                self._open_wires.remove(wire)
        wire.close()

    @property
    def _closing(self) -> Outage:
        return Outage(closed(self._server.layer), was_open=True)

    def _ended(self, how: str) -> Outage:
        return Outage(f"layer {self._server.layer!r} {how} {self._server.shown}", was_open=True)

    def _unstarted(self, error: RuntimeError) -> Outage:
        return Outage(f"layer {self._server.layer!r} cannot reach {self._server.shown}: {error}")

    def _silence(self) -> Outage:
        return silence(self._server.layer, self._server.shown, self._server.timeout)

    # Reading

    def _read(self, connection: Connection[W]) -> None:
        late: float | None = None  # until when late replies are of use, once the connection is lost
        outage = self._ended("gave up its connection to")
        try:
            while late is None or (connection.expected and time.monotonic() < late):
                replies = connection.wire.replies(_REPLIES)
                if replies is not None:
                    connection.heard = time.monotonic()
                    self._user.came(replies, connection)
                elif late is None and self._is_silent(connection):
                    late = time.monotonic() + LATENESS
                    self._queue.put(_Loss(connection, self._silence()))
        except Outage as error:
            outage = error
        except Exception:
            # Our bug, or a server that answers what nobody asked: all is set up anew.
            if not self._closed:
                logger.exception("reading from %s failed", self._server.shown)
        finally:
            if not self._forked:
                if late is None:
                    self._queue.put(_Loss(connection, outage))
                else:
                    self._discard(connection.wire)
                    self._lose_claims(list(connection.expected))

    def _is_silent(self, connection: Connection[W]) -> bool:
        """Whether answers are overdue. Asks for one where nothing is heard for a while."""
        now = time.monotonic()
        if self._queue.items:
            # A signal may have interrupted a caller that was about to wake the writer.
            self._queue.wake()
        if connection.expected:
            return now - max(connection.heard, connection.asked) >= self._server.timeout
        if self._user.keeps_up and now - connection.heard >= self._server.timeout / 2:
            self._queue.put(self._keepalive)
        return False

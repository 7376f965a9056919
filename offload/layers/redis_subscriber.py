"""One process's subscriptions on one Redis server: a connection, a thread that reads it, and its return after a loss.

Knows pub/sub channels and payloads, nothing of groups or layers. All of one read is delivered as one batch.

It does without redis-py's ``PubSub``, which does not tell what has been confirmed, nor which messages came together.

Order is what makes a subscription right: commands are written in the order in which they were noted, Redis answers in
that order, and a message is read after the answer to the subscription that lets it through.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from _thread import RLock
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from offload.exceptions import LayerUnavailable
from offload.layers.redis_server import Server, give_way
from offload.layers.redis_wire import threads_are_greenlets

logger = logging.getLogger("offload.layer")

# What a wait may cost and save is measured as it goes, so none of these needs to be set for a machine or a site.
_BATCH = 64  # messages delivered before others get a turn; by then joining has saved nearly all of the system calls
_WORTH_WAITING = 0.0005  # seconds that a delivery must take before others are awaited for its sake: some round trips
_LONGEST_WAIT = 0.005  # seconds; nobody sees them, and a group so large that it could save more takes longer itself
_TURNS = 5  # of the loop, in which an answered consumer ends and the next one sends
_SLOWEST_TICK = 1.0  # seconds
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 0.5
_NAMES = 500  # most names in one command, so that nobody waits for thousands of others

_SUBSCRIBE, _UNSUBSCRIBE, _PING = "SUBSCRIBE", "UNSUBSCRIBE", "PING"
_MESSAGES = (b"message", b"smessage")
_ALL_BACK = "all-back"  # what a PING says that follows the subscriptions after a loss
_CLOSED = "layer 'redis' was closed meanwhile"


class _Request:
    """A command for one name that the server is to confirm."""

    __slots__ = ("command", "done", "error", "given_up", "name", "number")

    def __init__(self, command: str, name: str = "", done: threading.Event | None = None) -> None:
        self.command = command
        self.name = name
        self.done = done  # when somebody waits
        self.error: LayerUnavailable | None = None
        self.given_up = False
        self.number = 0  # of the command that it was written with

    def fail(self, error: LayerUnavailable) -> None:
        if self.done is not None:
            self.error = error
            self.done.set()


class Subscriber:
    """Subscribes, and delivers what comes.

    Args:
        deliver: is called with a batch of pairs of pub/sub channel and payload; must neither wait nor raise.
        returned: called when a connection that was lost is back.
        expects: whether this process has just sent what may come back as further messages.
        owners: of names, when they may be another subscriber's after a connection was lost: in a cluster.
        sharded: whether the server has channels of its own slots only, which are subscribed to by other commands
            (SSUBSCRIBE).
    """

    def __init__(
        self,
        server: Server,
        deliver: Callable[[list[tuple[bytes, bytes]]], None],
        returned: Callable[[], None],
        expects: Callable[[], bool],
        owners: Owners | None = None,
        sharded: bool = False,
    ) -> None:
        self._server = server
        self._deliver = deliver
        self._returned = returned
        self._expects = expects
        self._cost = 0.0  # seconds that the last batch took to be delivered
        self._owners = owners
        self._sharded = sharded
        self._timeout = server.timeout  # of a subscription, and of silence after which a connection counts as dead
        self._lock = RLock()
        self._names: set[str] = set()  # confirmed, and not given up since
        self._notes: list[_Request] = []  # to be written
        self._asked: deque[_Request] = deque()  # written, to be confirmed
        self._commands = 0
        self._writing = False
        self._connection: Any = None
        self._thread: threading.Thread | None = None
        self._stop: threading.Event | None = None
        self._closed = False
        self._lost: float | None = None  # when the connection was lost that is not back yet
        self._delay = _FIRST_DELAY

    def subscribe(self, name: str) -> None:
        """Returns when messages come. The same name not twice at a time.

        Raises:
            LayerUnavailable: messages may come all the same, for a while.
        """
        # This goes to the server and back even when an earlier `unsubscribe` has not been written yet: what was sent
        # before is then read before the answer, while nobody wants it.
        request = _Request(_SUBSCRIBE, name, threading.Event())
        with self._lock:
            if self._closed:
                raise LayerUnavailable(_CLOSED)
            self._notes.append(request)
        try:
            self._ensure_thread()
            self._write()
            assert request.done is not None
            in_time = request.done.wait(self._timeout)
        except BaseException:
            self._give_up(request)
            raise
        if not in_time and self._give_up(request):
            raise LayerUnavailable(self._server.silence("the subscription was given up"))
        if request.error is not None:
            raise request.error

    def unsubscribe(self, name: str) -> None:
        """Note that a name is no longer wanted; the reader's next look, or the next `subscribe`, tells the server.

        Nothing happens when it is not subscribed here: a node of a cluster would answer that its slot is elsewhere.
        """
        with self._lock:
            if name not in self._names:
                return
            self._names.discard(name)
            if self._connection is not None:
                self._notes.append(_Request(_UNSUBSCRIBE, name))

    def adopt(self, names: Iterable[str], lost: float) -> None:
        """Go on with subscriptions that another one lost at this time. Neither waits nor raises."""
        with self._lock:
            if self._closed:
                return
            self._names.update(names)
            self._lost = lost if self._lost is None else self._lost
            if self._connection is not None:
                self._notes += self._restoring(names)
        self._ensure_thread()
        self._write()

    def close(self) -> None:
        """For good."""
        with self._lock:
            self._closed = True
            self._names.clear()
            connection, thread = self._connection, self._thread
            if self._stop is not None:
                self._stop.set()
        if connection is not None:
            connection.disconnect()
        if thread is not None and thread.ident is not None and thread is not threading.current_thread():
            thread.join(self._timeout)

    def drop(self) -> None:
        """In a forked child, which has none of the parent's threads; greenlets end when they find it closed."""
        self._closed = True
        self._connection = None

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            self._stop = threading.Event()
            thread = self._thread = threading.Thread(
                target=self._run, args=(self._stop,), name="offload-redis-subscriber", daemon=True
            )
        # Not under the lock: starting waits for the thread.
        try:
            thread.start()
        except BaseException:
            self._thread = None
            raise

    def _give_up(self, request: _Request) -> bool:
        """Returns False when it has been answered meanwhile."""
        with self._lock:
            if request.done is None or request.done.is_set():
                return False
            request.given_up = True
            if request in self._notes:
                self._notes.remove(request)
            elif self._connection is not None:
                # It is on its way, and will be confirmed some time.
                self._notes.append(_Request(_UNSUBSCRIBE, request.name))
            return True

    # Writing: one thread at a time, whichever has something to write

    def _write(self) -> None:
        while True:
            with self._lock:
                connection = self._connection
                if connection is None or self._writing or not self._notes:
                    return
                self._writing = True
                commands = self._take_notes()
            try:
                connection.write(commands)
            except RedisError:
                return  # the reader sees to the rest
            finally:
                self._writing = False

    def _take_notes(self) -> list[tuple[str, ...]]:
        """Under the lock: the notes as commands, neighbours of a kind in one."""
        notes, self._notes = self._notes, []
        self._asked.extend(notes)
        commands: list[tuple[str, ...]] = []
        start = 0
        while start < len(notes):
            command = notes[start].command
            end = start + 1
            most = 1 if command == _PING or self._sharded else _NAMES  # names in one command must be of one slot
            while end < len(notes) and notes[end].command == command and end - start < most:
                end += 1
            self._commands += 1
            for note in notes[start:end]:
                note.number = self._commands
            sharded = "S" if self._sharded and command != _PING else ""
            commands.append((sharded + command, *(note.name for note in notes[start:end] if note.name)))
            start = end
        return commands

    # Reading: the thread

    def _run(self, stop: threading.Event) -> None:
        # Reads return now and then, to look after silence and notes.
        pool = self._server.pool("subscriber", min(_SLOWEST_TICK, self._timeout / 4))
        while self._goes_on():
            if self._owners is not None and self._lost is not None and self._hand_on(self._owners, self._lost):
                continue
            # A new one each time: who still holds the last one cannot write to this one what was meant for that one.
            connection: Any = pool.make_connection()
            try:
                connection.connect()
            except LayerUnavailable as error:
                self._fail(error)
                self._pause(stop)
                continue
            try:
                self._restore(connection)
                self._read(connection)
            except (RedisError, LayerUnavailable) as error:
                self._note_loss(self._server.failure(error))
            except Exception:
                # Our bug, or a server that answers what nobody asked: all is set up anew.
                logger.exception("reading from %s failed", self._server.shown)
                self._note_loss(LayerUnavailable(f"layer 'redis' gave up its connection to {self._server.shown}"))
            finally:
                connection.disconnect()
            self._pause(stop)

    def _goes_on(self) -> bool:
        """Whether anybody wants this thread; otherwise it has ended, and the next subscription starts another."""
        with self._lock:
            if not self._closed and (self._names or self._notes):
                return True
            self._thread = None
            self._lost = None
            closed = self._closed
        if closed:
            self._fail(LayerUnavailable(_CLOSED))
        return False

    def _pause(self, stop: threading.Event) -> None:
        """Before the next attempt: not all processes at the same moment."""
        if self._names and not self._closed:
            stop.wait(self._delay * random.uniform(0.5, 1.0))
            self._delay = min(2 * self._delay, _LONGEST_DELAY)

    def _fail(self, error: LayerUnavailable) -> None:
        """End the waits for what is not written yet."""
        with self._lock:
            notes, self._notes = self._notes, []
        for note in notes:
            note.fail(error)

    def _hand_on(self, owners: Owners, lost: float) -> bool:
        """Leave what is others' now to them. Returns whether nothing is left to do here."""
        try:
            theirs = [(owner, name) for name, owner in owners(list(self._names)) if owner is not self]
        except LayerUnavailable:
            return False  # nobody knows better
        with self._lock:
            # Some may have been given up meanwhile.
            theirs = [(owner, name) for owner, name in theirs if name in self._names]
            self._names.difference_update(name for _, name in theirs)
        for owner in {owner for owner, _ in theirs}:
            owner.adopt([name for heir, name in theirs if heir is owner], lost)
        return not self._names and not self._notes

    def _restoring(self, names: Iterable[str]) -> list[_Request]:
        """The answer to the PING tells that all are back."""
        return [*(_Request(_SUBSCRIBE, name) for name in names), _Request(_PING, _ALL_BACK)]

    def _restore(self, connection: Any) -> None:
        with self._lock:
            if self._closed:
                raise LayerUnavailable(_CLOSED)
            if self._lost is not None:
                self._notes[:0] = self._restoring(self._names)
            self._connection = connection
        self._write()

    def _note_loss(self, error: LayerUnavailable) -> None:
        with self._lock:
            self._connection = None
            asked, self._asked = self._asked, deque()
            # Gone with the connection; what is still to be subscribed waits for the next.
            self._notes = [note for note in self._notes if note.done is not None]
            if self._closed:
                return
            again = self._lost is not None
            if self._names and not again:
                self._lost = time.monotonic()
        for request in asked:
            request.fail(error)
        if self._lost is not None and not again:
            logger.warning(
                "%s; messages for %d subscriptions are missed until it is back",
                str(error).partition("; ")[0],
                len(self._names),
            )

    def _read(self, connection: Any) -> None:
        heard = time.monotonic()
        pinged = False
        while not self._closed:
            replies = self._read_some(connection)
            if replies:
                heard, pinged = time.monotonic(), False
                self._take(replies)
            else:
                silent = time.monotonic() - heard
                if silent >= self._timeout:
                    raise self._server.silence()
                if silent >= self._timeout / 2 and not pinged:
                    pinged = True
                    with self._lock:
                        self._notes.append(_Request(_PING))
            if self._notes:
                self._write()

    def _read_some(self, connection: Any) -> list[Any]:
        """The replies that have come, errors among them; none when none came in a tick."""
        try:
            replies: list[Any] = connection.replies(_BATCH)
        except RedisTimeoutError:
            return []
        if self._cost > _WORTH_WAITING and threads_are_greenlets():
            self._gather(connection, replies)
        return replies

    def _gather(self, connection: Any, replies: list[Any]) -> None:
        """Add what is about to come: what large groups get together leaves in one system call for each member.

        One who sends message after message sends the next when the last is answered, so let that happen first. Then
        wait for it, but no longer than half of the time that it may save.
        """
        until = time.monotonic() + min(self._cost / 2, _LONGEST_WAIT)
        while len(replies) < _BATCH:
            for _ in range(_TURNS):
                give_way()
            left = until - time.monotonic()
            if left <= 0 or not self._expects():
                break
            try:
                found = connection.more(_BATCH - len(replies), left)
            except RedisError:
                break  # what came before the end counts; the next read fails at once
            if not found:
                break
            replies += found

    def _take(self, replies: list[Any]) -> None:
        batch: list[tuple[bytes, bytes]] = []
        started = time.monotonic()
        for reply in replies:
            if type(reply) is list and reply[0] in _MESSAGES:
                batch.append((reply[1], reply[2]))
                continue
            if batch:
                self._deliver(batch)
                batch = []
            self._answered(reply)
        if batch:
            self._deliver(batch)
        self._cost = time.monotonic() - started
        # A socket that always has something to read would keep the loop for itself.
        give_way()

    def _answered(self, reply: Any) -> None:
        with self._lock:
            unasked = not self._asked or self._asked[0].command != _UNSUBSCRIBE
            if unasked and type(reply) is list and reply[0] == b"sunsubscribe":
                raise LayerUnavailable(f"layer 'redis' lost {self._server.shown}: slots were moved to another node")
            request = self._asked.popleft()
            # An error instead of the end of a subscription: there is none, since its slot has been moved.
            if not isinstance(reply, RedisError) or request.command == _UNSUBSCRIBE:
                if request.command == _SUBSCRIBE and request.done is not None and not request.given_up:
                    self._names.add(request.name)
                    request.done.set()
                all_back = request.name == _ALL_BACK
                together = []
            else:
                together = [request]
                while self._asked and self._asked[0].number == request.number:
                    together.append(self._asked.popleft())
        if together:
            error = self._server.refusal(reply)
            for request in together:
                request.fail(error)
            if any(request.done is None for request in together):
                raise error
        elif all_back:
            self._come_back()

    def _come_back(self) -> None:
        with self._lock:
            lost, self._lost = self._lost, None
            self._delay = _FIRST_DELAY
        if lost is not None:
            logger.info(
                "layer 'redis' is back at %s after %.1f s, with %d subscriptions",
                self._server.shown,
                time.monotonic() - lost,
                len(self._names),
            )
            self._returned()


Owners = Callable[[Iterable[str]], "list[tuple[str, Subscriber]]"]

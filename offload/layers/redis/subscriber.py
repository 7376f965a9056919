"""One process's subscriptions on one Redis server: a connection, a thread that reads it, and its return after a loss.

Knows pub/sub channels and payloads, nothing of groups or layers. All of one read is delivered as one batch.

It does without redis-py's ``PubSub``, which does not tell what has been confirmed, nor which messages came together.

Order is what makes a subscription right (see ``offload.layers.redis.dialogue``): a message is read after the answer to
the subscription that lets it through.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from _thread import RLock
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import NoPermissionError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from offload.exceptions import LayerUnavailable, LayerUnreachable
from offload.layers.link.upstream import again
from offload.layers.redis.dialogue import ALL_BACK, PING, SUBSCRIBE, UNSUBSCRIBE, Dialogue, Request
from offload.layers.redis.gathering import gather, is_worth_waiting
from offload.layers.redis.owner import Owner
from offload.layers.redis.server import Refused, Server, give_way

logger = logging.getLogger("offload.layer")

_BATCH = 64  # messages delivered before others get a turn; by then joining has saved nearly all of the system calls
_SLOWEST_TICK = 1.0  # seconds
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 0.5

_MESSAGES = (b"message", b"smessage")
_CLOSED = "layer 'redis' was closed meanwhile"


class Subscriber:
    """Subscribes, and delivers what comes.

    Args:
        owner: refers to it, weakly: when it is gone, the subscriber ends.
        expects: whether this process has just sent what may come back as further messages.
        owners: of names, when they may be another subscriber's after a connection was lost: in a cluster.
        sharded: whether the server has channels of its own slots only, which are subscribed to by other commands
            (SSUBSCRIBE).
    """

    def __init__(
        self,
        server: Server,
        owner: weakref.ref[Owner],
        expects: Callable[[], bool],
        owners: Owners | None = None,
        sharded: bool = False,
    ) -> None:
        self._server = server
        self._owner = owner
        self._expects = expects
        self._cost = 0.0  # seconds that the last batch took to be delivered
        self._owners = owners
        self._timeout = server.timeout  # of a subscription, and of silence after which a connection counts as dead
        self._lock = RLock()
        self._names: set[str] = set()  # confirmed, and not given up since
        self._dialogue = Dialogue(sharded)
        self._writer: object = None  # who is writing
        self._connection: Any = None
        self._thread: threading.Thread | None = None
        self._reader: threading.Thread | None = None  # the same, from when it runs
        self._stop: threading.Event | None = None
        self._closed = False
        self._lost: float | None = None  # when the connection was lost that is not back yet
        self._reason = ""  # why it is not back, as last logged
        self._delay = _FIRST_DELAY

    def subscribe(self, name: str) -> None:
        """Returns when messages come. The same name not twice at a time. When it raises, call `unsubscribe`.

        Raises:
            LayerUnavailable: messages may come all the same, for a while.
        """
        self._server.check_thread()
        # This goes to the server and back even when an earlier `unsubscribe` has not been written yet: what was sent
        # before is then read before the answer, while nobody wants it.
        request = Request(SUBSCRIBE, name, threading.Event())
        try:
            with self._lock:
                if self._closed:
                    raise LayerUnavailable(_CLOSED)
                self._dialogue.notes.append(request)
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
            raise again(request.error)

    def unsubscribe(self, name: str) -> None:
        """Note that a name is no longer wanted; the reader's next look, or the next `subscribe`, tells the server.

        Nothing happens when it is not subscribed here: a node of a cluster would answer that its slot is elsewhere.
        """
        with self._lock:
            if name not in self._names:
                return
            self._names.discard(name)
            if self._connection is not None:
                self._dialogue.notes.append(Request(UNSUBSCRIBE, name))

    def adopt(self, names: Iterable[str], lost: float) -> None:
        """Go on with subscriptions that another one lost at this time. Neither waits nor raises."""
        with self._lock:
            if self._closed:
                return
            self._names.update(names)
            self._lost = lost if self._lost is None else self._lost
            if self._connection is not None:
                self._dialogue.notes += self._dialogue.restoring(names)
        self._ensure_thread()
        self._write()

    def renew(self) -> None:
        """Connect anew. Does not wait."""
        if (connection := self._connection) is not None:
            connection.disconnect()

    def close(self, *, wait: bool = True) -> None:
        """For good.

        Args:
            wait: for the thread's end.
        """
        with self._lock:
            self._closed = True
            self._names.clear()
            connection, thread = self._connection, self._thread
            if self._stop is not None:
                self._stop.set()
        self._fail(LayerUnavailable(_CLOSED))
        if connection is not None:
            connection.disconnect()
        if wait and thread is not None and thread.ident is not None and thread is not threading.current_thread():
            thread.join(self._timeout)

    def drop(self) -> None:
        """In a forked child, which has none of the parent's threads; greenlets end when they find it closed."""
        self._closed = True
        self._connection = None

    def _ensure_thread(self) -> None:
        thread = None
        try:
            with self._lock:
                if self._thread is not None:
                    return
                self._stop = threading.Event()
                thread = self._thread = threading.Thread(
                    target=self._run, args=(self._stop,), name="offload-redis-subscriber", daemon=True
                )
            # Not under the lock: starting waits for the thread.
            thread.start()
        except BaseException:
            with self._lock:
                # It may run all the same, now or some time.
                if thread is not None and self._reader is not thread:
                    self._thread = None
            raise

    def _give_up(self, request: Request) -> bool:
        """Returns False when it has been answered meanwhile."""
        with self._lock:
            if request.done is None or request.done.is_set():
                return False
            request.given_up = True
            if not self._dialogue.take_back(request) and self._connection is not None:
                # It is on its way, and will be confirmed some time.
                self._dialogue.notes.append(Request(UNSUBSCRIBE, request.name))
            return True

    # Writing: one thread at a time, whichever has something to write

    def _write(self) -> None:
        writer, connection = object(), self._connection
        # A signal may raise anything anywhere in here: nobody else could write again, or what was never sent would be
        # waited for, and all answers taken for others'.
        try:
            while True:
                with self._lock:
                    connection = self._connection
                    if connection is None or self._writer or not self._dialogue.notes:
                        return
                    if not connection.is_open:
                        return  # the notes wait for the next
                    self._writer = writer
                    commands = self._dialogue.take_notes()
                connection.write(commands)
                self._writer = None
        except RedisError:
            return  # the reader sees to the rest
        except BaseException:
            if self._writer is writer:
                connection.disconnect()
            raise
        finally:
            if self._writer is writer:
                self._writer = None

    # Reading: the thread

    def _run(self, stop: threading.Event) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # who started it was interrupted, and has not seen it run
            self._reader = self._thread
        try:
            # Reads return now and then, to look after silence and notes.
            pool = self._server.pool("subscriber", min(_SLOWEST_TICK, self._timeout / 4))
            while self._goes_on():
                if self._owners is not None and self._lost is not None and self._hand_on(self._owners, self._lost):
                    continue
                # A new one each time: who still holds the last one cannot write to this one what was meant for that.
                self._use(pool.make_connection())
                self._pause(stop)
        finally:
            with self._lock:
                # Otherwise it has ended by itself, and another may have been started.
                if ended := self._thread is threading.current_thread():
                    self._thread = None
            if ended:
                self._fail(LayerUnavailable(f"layer 'redis' gave up its connection to {self._server.shown}"))

    def _use(self, connection: Any) -> None:
        try:
            connection.connect()
        except Exception as error:
            if not isinstance(error, LayerUnavailable):
                logger.exception("connecting to %s failed", self._server.shown)
                error = LayerUnreachable(f"layer 'redis' cannot connect to {self._server.shown}")
            self._tell_why(error)
            self._fail(error)
            return
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

    def _goes_on(self) -> bool:
        """Whether anybody wants this thread; otherwise it has ended, and the next subscription starts another."""
        with self._lock:
            if self._owner() is None:
                self._closed = True
            if not self._closed and (self._names or self._dialogue.notes):
                return True
            self._thread = None
            self._lost = None
            return False

    def _pause(self, stop: threading.Event) -> None:
        """Before the next attempt: not all processes at the same moment."""
        if self._names and not self._closed:
            stop.wait(self._delay * random.uniform(0.5, 1.0))
            self._delay = min(2 * self._delay, _LONGEST_DELAY)

    def _fail(self, error: LayerUnavailable) -> None:
        """End all waits."""
        with self._lock:
            left = self._dialogue.end()
        for request in left:
            request.fail(error)

    def _tell_why(self, error: LayerUnavailable) -> None:
        """Why it is still not back, when it is the server that does not let it. That it is not there was logged."""
        if self._lost is not None and isinstance(error, Refused) and str(error) != self._reason:
            self._reason = str(error)
            logger.warning("%s; messages for %d subscriptions are still missed", error, len(self._names))

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
        return not self._names and not self._dialogue.notes

    def _restore(self, connection: Any) -> None:
        with self._lock:
            if self._closed:
                raise LayerUnavailable(_CLOSED)
            if self._lost is not None:
                self._dialogue.notes[:0] = self._dialogue.restoring(self._names)
            self._connection = connection
        self._write()

    def _note_loss(self, error: LayerUnavailable) -> None:
        with self._lock:
            self._connection = None
            if self._closed:
                return  # `close` has failed all
            asked = self._dialogue.lose()
            first = bool(self._names) and self._lost is None
            if first:
                self._lost = time.monotonic()
            reason = str(error).partition("; ")[0]
            if self._names and (owner := self._owner()) is not None:
                # Under the lock, so that none of them is given up meanwhile.
                owner.lost(self._names, reason)
        for request in asked:
            request.fail(error)
        if first:
            self._reason = str(error)
            logger.warning("%s; messages for %d subscriptions are missed until it is back", reason, len(self._names))
        else:
            self._tell_why(error)

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
                        self._dialogue.notes.append(Request(PING))
            if self._dialogue.notes:
                self._write()

    def _read_some(self, connection: Any) -> list[Any]:
        """The replies that have come, errors among them; none when none came in a tick."""
        try:
            replies: list[Any] = connection.replies(_BATCH)
        except RedisTimeoutError:
            return []
        if is_worth_waiting(self._cost):
            gather(connection, replies, _BATCH, self._cost, self._expects)
        return replies

    def _take(self, replies: list[Any]) -> None:
        batch: list[tuple[bytes, bytes]] = []
        started = time.monotonic()
        owner = self._owner()
        if owner is None:
            raise LayerUnavailable(_CLOSED)
        for reply in replies:
            if type(reply) is list and reply[0] in _MESSAGES:
                batch.append((reply[1], reply[2]))
                continue
            if batch:
                owner.arrived(batch)
                batch = []
            self._answered(reply, owner)
        if batch:
            owner.arrived(batch)
        self._cost = time.monotonic() - started
        # A socket that always has something to read would keep the loop for itself.
        give_way()

    def _answered(self, reply: Any, owner: Owner) -> None:
        if isinstance(reply, RedisError):
            self._refused(reply, owner)
            return
        with self._lock:
            if type(reply) is list and reply[0] == b"sunsubscribe" and not self._dialogue.ends(reply[1]):
                raise LayerUnavailable(f"layer 'redis' lost {self._server.shown}: slots were moved to another node")
            request = self._dialogue.answered()
            restored = False
            if request.command == SUBSCRIBE and not request.given_up:
                if request.done is None:
                    restored = request.name in self._names
                else:
                    self._names.add(request.name)
                    request.done.set()
        if restored:
            owner.restored(request.name)
        elif request.name == ALL_BACK:
            self._come_back(owner)

    def _refused(self, reply: RedisError, owner: Owner) -> None:
        """An error: for one command, which may have been for many names."""
        error = self._server.refusal(reply)
        with self._lock:
            requests = self._dialogue.refused()
            if requests[0].command == UNSUBSCRIBE:
                return  # there is no such subscription, since its slot was moved
            by_name = isinstance(reply, NoPermissionError) and "channel" in str(reply)
            lost = [request for request in requests if request.done is None]
            if by_name and len(requests) > 1:
                # One of them is forbidden, and the others must not suffer from that.
                self._dialogue.notes += self._dialogue.each_alone(requests, self._names)
                return
            forbidden = by_name and bool(lost) and lost[0].name in self._names
            if forbidden:
                self._names.discard(lost[0].name)
        for request in requests:
            request.fail(error)
        if forbidden:
            logger.warning("%s; the subscription of %s is given up", error, lost[0].name)
            owner.refused(lost[0].name)
        elif lost and not by_name:
            raise error

    def _come_back(self, owner: Owner) -> None:
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
            owner.returned()


Owners = Callable[[Iterable[str]], "list[tuple[str, Subscriber]]"]

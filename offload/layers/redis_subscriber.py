"""One process's subscriptions on one Redis server: a connection, a thread that reads it, and its return after a loss.

Knows pub/sub channels and payloads, nothing of groups or layers. All of one read is delivered as one batch.

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
from collections.abc import Callable
from typing import Any

from offload.exceptions import LayerUnavailable
from offload.layers.redis_address import RedisAddress
from offload.layers.redis_link import Link, ReplyError, give_way, pack, refused

logger = logging.getLogger("offload.layer")

_BATCH = 64  # messages delivered before others get a turn
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 1.0
_NAMES = 500  # most names in one command, so that nobody waits for thousands of others

_SUBSCRIBE, _UNSUBSCRIBE, _PING = "SUBSCRIBE", "UNSUBSCRIBE", "PING"
_ALL_BACK = "all-back"  # what a PING says that follows the subscriptions after a loss
_CLOSED = "layer 'redis' was closed meanwhile"


class _Request:
    """A command for one name that the server is to confirm."""

    __slots__ = ("command", "done", "error", "given_up", "name", "number")

    def __init__(self, command: str, name: str = "", done: threading.Event | None = None) -> None:
        self.command = command
        self.name = name
        self.done = done  # when somebody waits
        self.error: str | None = None
        self.given_up = False
        self.number = 0  # of the command that it was written with

    def fail(self, error: str) -> None:
        if self.done is not None:
            self.error = error
            self.done.set()


class Subscriber:
    """Subscribes, and delivers what comes.

    Args:
        connect: opens a connection whose reads return now and then; raises ``LayerUnavailable``.
        deliver: is called with a batch of pairs of pub/sub channel and payload; must neither wait nor raise.
        returned: called when a connection that was lost is back.
        timeout: seconds for a subscription, and of silence after which a connection counts as dead.
    """

    def __init__(
        self,
        address: RedisAddress,
        connect: Callable[[], Link],
        deliver: Callable[[list[tuple[bytes, bytes]]], None],
        returned: Callable[[], None],
        timeout: float,
    ) -> None:
        self._address = address
        self._connect = connect
        self._deliver = deliver
        self._returned = returned
        self._timeout = timeout
        self._lock = RLock()
        self._names: set[str] = set()  # confirmed, and not given up since
        self._notes: list[_Request] = []  # to be written
        self._asked: deque[_Request] = deque()  # written, to be confirmed
        self._commands = 0
        self._writing = False
        self._link: Link | None = None
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
            raise LayerUnavailable(f"{self._silence()}; the subscription was given up")
        if request.error is not None:
            raise LayerUnavailable(request.error)

    def unsubscribe(self, name: str) -> None:
        """Note that a name is no longer wanted; the reader's next look, or the next `subscribe`, tells the server."""
        with self._lock:
            self._names.discard(name)
            if self._link is not None:
                self._notes.append(_Request(_UNSUBSCRIBE, name))

    def close(self) -> None:
        """For good."""
        with self._lock:
            self._closed = True
            self._names.clear()
            link, thread = self._link, self._thread
            if self._stop is not None:
                self._stop.set()
        if link is not None:
            link.interrupt()
        if thread is not None and thread.ident is not None and thread is not threading.current_thread():
            thread.join(self._timeout)

    def drop(self) -> None:
        """In a forked child, which has none of the parent's threads."""
        if self._link is not None:
            self._link.drop()

    def _silence(self) -> str:
        return f"layer 'redis' got no answer from {self._address.shown} within {self._timeout:g} s"

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
            elif self._link is not None:
                # It is on its way, and will be confirmed some time.
                self._notes.append(_Request(_UNSUBSCRIBE, request.name))
            return True

    # Writing: one thread at a time, whichever has something to write

    def _write(self) -> None:
        while True:
            with self._lock:
                link = self._link
                if link is None or self._writing or not self._notes:
                    return
                self._writing = True
                data = self._encode()
            try:
                link.send(data)
            except LayerUnavailable:
                link.interrupt()  # the reader sees to the rest
            except BaseException:
                link.interrupt()  # half a command may be out
                raise
            finally:
                self._writing = False

    def _encode(self) -> bytes:
        """Under the lock: the notes as commands, neighbours of a kind in one."""
        notes, self._notes = self._notes, []
        self._asked.extend(notes)
        data: list[bytes] = []
        start = 0
        while start < len(notes):
            command = notes[start].command
            end = start + 1
            while end < len(notes) and notes[end].command == command != _PING and end - start < _NAMES:
                end += 1
            self._commands += 1
            for note in notes[start:end]:
                note.number = self._commands
            data.append(pack(command, *(note.name for note in notes[start:end] if note.name)))
            start = end
        return b"".join(data)

    # Reading: the thread

    def _run(self, stop: threading.Event) -> None:
        while self._goes_on():
            try:
                link = self._connect()
            except LayerUnavailable as error:
                self._fail(str(error))
                self._pause(stop)
                continue
            try:
                self._restore(link)
                self._read(link)
            except LayerUnavailable as error:
                self._note_loss(link, str(error))
            except Exception:
                # Our bug, or a server that answers what nobody asked: all is set up anew.
                logger.exception("reading from %s failed", self._address.shown)
                self._note_loss(link, f"layer 'redis' gave up its connection to {self._address.shown}")
            finally:
                link.close()
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
            self._fail(_CLOSED)
        return False

    def _pause(self, stop: threading.Event) -> None:
        """Before the next attempt: not all processes at the same moment."""
        if self._names and not self._closed:
            stop.wait(self._delay * random.uniform(0.5, 1.0))
            self._delay = min(2 * self._delay, _LONGEST_DELAY)

    def _fail(self, reason: str) -> None:
        """End the waits for what is not written yet."""
        with self._lock:
            notes, self._notes = self._notes, []
        for note in notes:
            note.fail(reason)

    def _restore(self, link: Link) -> None:
        with self._lock:
            if self._closed:
                raise LayerUnavailable(_CLOSED)
            if self._lost is not None:
                # The answer to the PING tells that all are back.
                self._notes[:0] = [*(_Request(_SUBSCRIBE, name) for name in self._names), _Request(_PING, _ALL_BACK)]
            self._link = link
        self._write()

    def _note_loss(self, link: Link, reason: str) -> None:
        with self._lock:
            self._link = None
            asked, self._asked = self._asked, deque()
            # Gone with the connection; what is still to be subscribed waits for the next.
            self._notes = [note for note in self._notes if note.done is not None]
            if self._closed:
                return
            again = self._lost is not None
            if self._names and not again:
                self._lost = time.monotonic()
        for request in asked:
            request.fail(reason)
        if self._lost is not None and not again:
            logger.warning(
                "%s; messages for %d subscriptions are missed until it is back",
                reason.partition("; ")[0],
                len(self._names),
            )

    def _read(self, link: Link) -> None:
        heard = time.monotonic()
        pinged = False
        while not self._closed:
            replies = link.read()
            if replies:
                heard, pinged = time.monotonic(), False
                self._take(replies)
            else:
                silent = time.monotonic() - heard
                if silent >= self._timeout:
                    raise LayerUnavailable(self._silence())
                if silent >= self._timeout / 2 and not pinged:
                    pinged = True
                    with self._lock:
                        self._notes.append(_Request(_PING))
            if self._notes:
                self._write()

    def _take(self, replies: list[Any]) -> None:
        batch: list[tuple[bytes, bytes]] = []
        for reply in replies:
            if type(reply) is list and reply[0] == b"message":
                batch.append((reply[1], reply[2]))
                if len(batch) < _BATCH:
                    continue
            if batch:
                self._deliver(batch)
                batch = []
                # A socket that always has something to read would keep the loop for itself.
                give_way()
            if type(reply) is not list or reply[0] != b"message":
                self._answered(reply)
        if batch:
            self._deliver(batch)
            give_way()

    def _answered(self, reply: Any) -> None:
        with self._lock:
            request = self._asked.popleft()
            if not isinstance(reply, ReplyError):
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
            error = refused(self._address, reply)
            for request in together:
                request.fail(str(error))
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
                self._address.shown,
                time.monotonic() - lost,
                len(self._names),
            )
            self._returned()

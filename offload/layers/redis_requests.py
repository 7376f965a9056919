"""What processes say to each other's inboxes: messages for their channels, requests for memberships, and answers.

The forms, in bytes: ``m<channel>\\n<payload>``; ``a`` (add) or ``d`` (discard), then
``<id>\\n<process>\\n<group>\\n<channel>``; ``r<id>\\n<error, or nothing>``.
Knows no server: it is given what publishes.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from _thread import RLock
from collections.abc import Callable

from offload.exceptions import LayerUnavailable
from offload.layers.redis_gone import GoneProcesses

logger = logging.getLogger("offload.layer")

ADD, DISCARD = b"a", b"d"

SILENCE = 2.0
"""Seconds within which a living process hears again after its server's return, or after it lost its connection."""

_CLOSED = "layer 'redis' was closed meanwhile"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25


def message_frame(channel: str, payload: bytes) -> bytes:
    return b"m%b\n%b" % (channel.encode(), payload)


class _Question:
    __slots__ = ("answered", "channel", "error")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.answered = threading.Event()
        self.error: LayerUnavailable | None = None

    def answer(self, error: str = "") -> None:
        """What is raised; nothing when it was done."""
        if error:
            self.error = LayerUnavailable(error)
        self.answered.set()


class Requests:
    """Asks other processes, and does what they ask, one after the other.

    Args:
        publish: to a process's inbox; returns how many were counted that listen.
        is_heard_elsewhere: whether a process of which none was counted listens all the same, or may.
        deliver, add, discard: the layer's: ``deliver_payload``, ``add_local`` (which waits), ``discard_local``.
        timeout: seconds to wait for an answer.
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], int],
        is_heard_elsewhere: Callable[[str], bool],
        deliver: Callable[[str, bytes, bool], None],
        add: Callable[[str, str], None],
        discard: Callable[[str, str], None],
        timeout: float,
    ) -> None:
        self._publish = publish
        self._is_heard_elsewhere = is_heard_elsewhere
        self._deliver = deliver
        self._add = add
        self._discard = discard
        self._timeout = timeout
        self._lock = RLock()
        self._numbers = itertools.count()
        self._open: dict[bytes, _Question] = {}
        self._gone = GoneProcesses()
        self._todo: queue.SimpleQueue[tuple[bytes, bytes] | None] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, kind: bytes, process: str, group: str, channel: str, asker: str) -> None:
        """Returns when the other process has done it, or is gone.

        A process at whose inbox nobody listens may have lost its connection only: it is gone when that stays so for
        `SILENCE` seconds, but no longer than the timeout.

        Raises:
            LayerUnavailable: no answer in time, or it could not do it.
        """
        number = b"%d" % next(self._numbers)
        question = _Question(channel)
        self._open[number] = question
        try:
            frame = b"%b%b\n%b" % (kind, number, "\n".join((asker, group, channel)).encode())
            if not self._reaches(process, frame, question):
                return
            if not question.answered.wait(self._timeout):
                raise LayerUnavailable(
                    f"the process that owns channel {channel!r} did not answer within {self._timeout:g} s;"
                    f" it is unknown whether group {group!r} has it"
                )
            if question.error is not None:
                raise question.error
        finally:
            self._open.pop(number, None)

    def take(self, frame: bytes, more: bool) -> None:
        """Something came to this process's inbox. Neither waits nor raises."""
        kind, (head, _, rest) = frame[:1], frame[1:].partition(b"\n")
        if kind == b"m":
            self._deliver(head.decode(errors="replace"), rest, more)
        elif kind == b"r":
            question = self._open.get(head)
            if question is None:
                return
            reason = rest.decode(errors="replace")
            question.answer(reason and f"the process that owns channel {question.channel!r} failed: {reason}")
        elif kind in (ADD, DISCARD):
            self._later(kind + head, rest)
        else:
            logger.warning("lost a message to this process's inbox: unknown kind %r", kind)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            todo = self._todo
        if todo is not None:
            todo.put(None)
        for question in list(self._open.values()):
            question.answer(_CLOSED)

    def _reaches(self, process: str, frame: bytes, question: _Question) -> bool:
        """Say it until somebody hears it, or this is closed. Returns False when the process is gone."""
        found_silent = None
        pause = _FIRST_PAUSE
        while not self._publish(process, frame) and not self._is_heard_elsewhere(process):
            now = time.monotonic()
            if found_silent is None:
                found_silent = now
            left = found_silent + min(SILENCE, self._timeout) - now
            if left <= 0:
                self._gone.add(process)
            if process in self._gone:
                return False
            if question.answered.wait(min(pause, left)):
                return True
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._gone.forget(process)
        return True

    def _later(self, head: bytes, rest: bytes) -> None:
        """Adding waits for the reader that calls this. In the order asked: a discard may follow an add."""
        with self._lock:
            if self._closed:
                return
            if self._todo is None:
                self._todo = queue.SimpleQueue()
            self._todo.put((head, rest))
            if self._thread is not None:
                return
            thread = self._thread = threading.Thread(target=self._serve, name="offload-redis-requests", daemon=True)
        thread.start()

    def _serve(self) -> None:
        todo = self._todo
        assert todo is not None
        while (request := todo.get()) is not None:
            head, rest = request
            try:
                asker, group, channel = rest.decode().split("\n")
            except ValueError:
                logger.warning("lost a request to this process's inbox: it has no known form")
                continue
            self._gone.forget(asker)
            error = ""
            try:
                (self._add if head[:1] == ADD else self._discard)(group, channel)
            except LayerUnavailable as failure:
                error = str(failure)
            except Exception as failure:
                logger.exception("request for group %s failed", group)
                error = f"{type(failure).__name__} was raised there"
            try:
                self._publish(asker, b"r%b\n%b" % (head[1:], error.encode()))
            except LayerUnavailable as failure:
                logger.warning("could not answer a request for group %s: %s", group, failure)

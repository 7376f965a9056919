"""What processes say to each other's inboxes: messages for their channels, requests for memberships, and answers.

The forms, in bytes: ``m<channel>\\n<payload>``; ``a`` (add) or ``d`` (discard), then
``<id>\\n<process>\\n<group>\\n<channel>``; ``r<id>,<id>...\\n<error, or nothing>``; ``l``: look for what was left.
With encryption keys the latter are sealed whole, for the process they are sent to: nobody else can make one up.

A process that lost its connection misses requests and answers. Requests that nobody heard for a while are left in a
queue, where it looks for them when it is back; whoever waits for an answer asks again when its own connection is back.
Doing a request twice does no harm, in the order in which they were made.

Nothing waits here for the server but who asks, and the lanes: a request is carried out when its subscription is in
force, and answered together with others of the same process. Requests that nobody waits for any more are dropped.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable

from offload.exceptions import ChannelFull, LayerUnavailable
from offload.layers.backend import Backend
from offload.layers.local.gone import GoneProcesses
from offload.layers.local.lanes import Lanes
from offload.layers.local.memberships import Memberships
from offload.layers.words.codec import Codec, UndecodableMessage
from offload.layers.words.seal import PROCESS

logger = logging.getLogger("offload.layer")

INBOX_TOPIC = "inbox:"
ADD, DISCARD = b"a", b"d"
SILENCE = 2.0
"""Seconds within which a living process hears again after its server's return, or after it lost its connection."""
LEFT_SECONDS, MOST_LEFT = 3600.0, 1000
"""How long requests are left for a process that nobody hears, and how many."""

_LOOK = b"l"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25


def message_frame(channel: str, payload: bytes) -> bytes:
    return b"m%b\n%b" % (channel.encode(), payload)


def message_of(frame: bytes) -> tuple[str, bytes] | None:
    """The channel and payload of a frame that is a message."""
    if not frame.startswith(b"m"):
        return None
    head, _, payload = frame[1:].partition(b"\n")
    return head.decode(errors="replace"), payload


class _Question:
    """
    Attributes:
        channel: whose membership it is about.
        news: set when it is answered, or is to be asked again.
        answered: whether it is.
        error: what went wrong.
    """

    __slots__ = ("answered", "channel", "error", "news")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.news = threading.Event()
        self.answered = False
        self.error: LayerUnavailable | None = None

    def answer(self, error: str = "") -> None:
        """What is raised; nothing when it was done."""
        if error:
            self.error = LayerUnavailable(error)
        self.answered = True
        self.news.set()


class Inbox:
    """Asks other processes, and does what they ask.

    Args:
        process: this process's token.
        backend: publishes, and keeps what is left.
        codec: seals.
        memberships: of this process.
        prepare: called before a channel is added: what was made and never attached is kept from then on.
        lost: told when a frame is lost that came here.
    """

    def __init__(
        self,
        process: str,
        backend: Backend,
        codec: Codec,
        memberships: Memberships,
        prepare: Callable[[str], object],
        lost: Callable[[str], None],
    ) -> None:
        self._process = process
        self._backend = backend
        self._codec = codec
        self._memberships = memberships
        self._prepare = prepare
        self._lost = lost
        # Not from 0: what was asked before `close` may be answered to whoever asks after it.
        self._numbers = itertools.count(int.from_bytes(os.urandom(6), "big"))
        self._open: dict[bytes, _Question] = {}
        self._gone = GoneProcesses()
        self._lanes: Lanes[tuple[bytes, str]] = Lanes(self._work)
        self._closed = False

    def ask(self, kind: bytes, process: str, group: str, channel: str) -> None:
        """Returns when the other process has done it, or is gone. This process's inbox is open.

        A process at whose inbox nobody listens may have lost its connection only. When that stays so for `SILENCE`
        seconds, but no longer than the timeout, it counts as gone; should it come back, it does it then.

        Raises:
            LayerUnavailable: no answer in time, or it could not do it.
        """
        number = b"%d" % next(self._numbers)
        question = _Question(channel)
        self._open[number] = question
        timeout = self._backend.timeout
        try:
            frame = b"%b%b\n%b" % (kind, number, "\n".join((self._process, group, channel)).encode())
            frame = self._codec.seal(frame, PROCESS, process)
            deadline: float | None = None
            while not question.answered:
                if not self._reaches(process, frame, question):
                    return
                deadline = deadline or time.monotonic() + timeout
                if not question.news.wait(max(0.0, deadline - time.monotonic())):
                    raise LayerUnavailable(
                        f"the process that owns channel {channel!r} did not answer within {timeout:g} s;"
                        f" it is unknown whether group {group!r} has it"
                    )
                # Should it be answered from now on, that is seen above.
                question.news.clear()
            if question.error is not None:
                raise question.error
        finally:
            self._open.pop(number, None)

    def take(self, frame: bytes) -> None:
        """Something came that is no message. Neither waits nor raises."""
        try:
            opened = self._codec.unseal(frame, PROCESS, self._process)
        except UndecodableMessage as error:
            self._lost(str(error))
            return
        kind, (head, _, rest) = opened[:1], opened[1:].partition(b"\n")
        if kind == b"r":
            self._answered(head.split(b","), rest.decode(errors="replace"))
        elif kind in (ADD, DISCARD):
            try:
                asker, group, channel = rest.decode().split("\n")
            except ValueError:
                self._lost("it has no known form")
                return
            self._gone.forget(asker)
            self._carry_out(kind, asker, head, group, channel)
        elif kind == _LOOK:
            self.look()
        else:
            self._lost(f"unknown kind {kind!r}")

    def returned(self) -> None:
        """This process hears again, and may have missed something. Does not wait."""
        for question in list(self._open.values()):
            # In the thread that waits: what it asks next must not overtake this.
            question.news.set()
        self.look()

    def look(self) -> None:
        """Look for what was left. Does not wait."""
        self._lanes.put(self._process, (_LOOK, ""))

    def close(self, reason: str) -> None:
        self._closed = True
        self._lanes.close()
        for question in list(self._open.values()):
            question.answer(reason)

    # Asking

    def _reaches(self, process: str, frame: bytes, question: _Question) -> bool:
        """Say it until somebody hears it, or this is closed. Returns False when the process is gone."""
        topic = INBOX_TOPIC + process
        found_silent = None
        pause = _FIRST_PAUSE
        while not self._backend.publish(topic, frame):
            now = time.monotonic()
            if found_silent is None:
                found_silent = now
            left = found_silent + min(SILENCE, self._backend.timeout) - now
            if left <= 0:
                self._gone.add(process)
            if process in self._gone:
                if not self._leave(process, frame):
                    return False
                break
            if question.news.wait(min(pause, left)):
                if question.answered:
                    break
                question.news.clear()
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._gone.forget(process)
        return True

    def _leave(self, process: str, frame: bytes) -> bool:
        """Leave a request for a process that nobody hears. Returns whether it is heard now, and so looks for it."""
        queue = _left_for(process)
        try:
            self._backend.push(queue, frame, LEFT_SECONDS, MOST_LEFT)
        except ChannelFull:
            # The latest count.
            self._backend.take([queue], 0)
            self._backend.push(queue, frame, LEFT_SECONDS, MOST_LEFT)
        return self._backend.publish(INBOX_TOPIC + process, self._codec.seal(_LOOK, PROCESS, process)) > 0

    def _answered(self, numbers: list[bytes], error: str) -> None:
        for number in numbers:
            question = self._open.get(number)
            if question is not None:
                reason = f"the process that owns channel {question.channel!r} failed: {error}" if error else ""
                question.answer(reason)

    # Being asked

    def _carry_out(self, kind: bytes, asker: str, number: bytes, group: str, channel: str) -> None:
        if kind == DISCARD:
            self._memberships.discard(group, channel)
            self._lanes.put(asker, (number, ""))
            return
        came = time.monotonic()

        def told(error: LayerUnavailable | None) -> bool:
            reason = "" if error is None else str(error)
            timeout = self._backend.timeout
            if time.monotonic() - came >= timeout:
                # Who asked has been told that it is unknown, and may have asked for the opposite elsewhere.
                reason = f"it came to the request for group {group!r} too late, after more than {timeout:g} s"
            self._lanes.put(asker, (number, reason))
            return not reason

        self._prepare(channel)
        self._memberships.add_soon(group, channel, told)

    # In a lane: each other process has one for its answers, this process has one for what was left

    def _work(self, process: str, items: list[tuple[bytes, str]]) -> None:
        try:
            if process == self._process:
                self._fetch()
            else:
                self._give_answers(process, items)
        except LayerUnavailable as error:
            if self._closed:
                return
            what = "look for requests that were left for this process" if process == self._process else "answer one"
            logger.warning("could not %s: %s", what, error)

    def _fetch(self) -> None:
        while (found := self._backend.take([_left_for(self._process)], 0)) is not None:
            self.take(found[1])

    def _give_answers(self, asker: str, answers: list[tuple[bytes, str]]) -> None:
        done = b",".join(number for number, error in answers if not error)
        frames = [b"r%b\n" % done] if done else []
        frames += [b"r%b\n%b" % (number, error.encode()) for number, error in answers if error]
        for frame in frames:
            self._backend.publish(INBOX_TOPIC + asker, self._codec.seal(frame, PROCESS, asker))


def _left_for(process: str) -> str:
    # No channel has such a name.
    return f"left:{process}"

"""What processes say to each other's inboxes: messages for their channels, requests for memberships, and answers.

The forms, in bytes: ``m<channel>\\n<payload>``; ``a`` (add) or ``d`` (discard), then
``<id>\\n<process>\\n<group>\\n<channel>``; ``r<id>\\n<error, or nothing>``.
With encryption keys the latter three are sealed whole, for the process they are sent to: nobody else can make one
up. Knows no server: it is given what publishes.

A process that lost its connection misses requests and answers. Requests that nobody heard for a while are left where it
looks for them when it is back; whoever waits for an answer asks again when its own connection is back. Doing a request
twice does no harm, in the order in which they were made.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable

from offload.exceptions import LayerUnavailable
from offload.layers.redis.gone import GoneProcesses
from offload.layers.redis.lanes import Lanes

logger = logging.getLogger("offload.layer")

ADD, DISCARD = b"a", b"d"

SILENCE = 2.0
"""Seconds within which a living process hears again after its server's return, or after it lost its connection."""

_CLOSED = "layer 'redis' was closed meanwhile"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25


def message_frame(channel: str, payload: bytes) -> bytes:
    return b"m%b\n%b" % (channel.encode(), payload)


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


class Requests:
    """Asks other processes, and does what they ask.

    Args:
        publish: to a process's inbox; returns how many were counted that listen.
        seal, unseal: the layer's: for a process, if there are keys; of this process, None for what it refused.
        is_heard_elsewhere: whether a process of which none was counted listens all the same, or may.
        leave: for a process that nobody hears, until it is back; unless it is heard now, of which it returns how often.
        fetch: what was left for this process, once.
        deliver, add, discard: the layer's: ``deliver_payload``, ``add_local`` (which waits), ``discard_local``.
        place_of_group, place_of_process: which server has a group, or a process's inbox; they neither wait nor raise.
        timeout: seconds to wait for an answer, and after which others do not wait for ours any more.
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], int],
        seal: Callable[[str, bytes], bytes],
        unseal: Callable[[bytes], bytes | None],
        is_heard_elsewhere: Callable[[str], bool],
        leave: Callable[[str, bytes], int],
        fetch: Callable[[], list[bytes]],
        deliver: Callable[[str, bytes, bool], None],
        add: Callable[[str, str], None],
        discard: Callable[[str, str], None],
        place_of_group: Callable[[str], str],
        place_of_process: Callable[[str], str],
        timeout: float,
    ) -> None:
        self._publish = publish
        self._seal = seal
        self._unseal = unseal
        self._is_heard_elsewhere = is_heard_elsewhere
        self._leave = leave
        self._fetch = fetch
        self._deliver = deliver
        self._add = add
        self._discard = discard
        self._place_of_group = place_of_group
        self._place_of_process = place_of_process
        self._timeout = timeout
        # Not from 0: what was asked before `close` may be answered to whoever asks after it.
        self._numbers = itertools.count(secrets.randbits(48))
        self._open: dict[bytes, _Question] = {}
        self._gone = GoneProcesses()
        self._lanes = Lanes()

    def ask(self, kind: bytes, process: str, group: str, channel: str, asker: str) -> None:
        """Returns when the other process has done it, or is gone.

        A process at whose inbox nobody listens may have lost its connection only. When that stays so for `SILENCE`
        seconds, but no longer than the timeout, it counts as gone; should it come back, it does it then.

        Raises:
            LayerUnavailable: no answer in time, or it could not do it.
        """
        number = b"%d" % next(self._numbers)
        question = _Question(channel)
        self._open[number] = question
        try:
            frame = b"%b%b\n%b" % (kind, number, "\n".join((asker, group, channel)).encode())
            frame = self._seal(process, frame)
            deadline: float | None = None
            while not question.answered:
                if not self._reaches(process, frame, question):
                    return
                deadline = deadline or time.monotonic() + self._timeout
                if not question.news.wait(max(0.0, deadline - time.monotonic())):
                    raise LayerUnavailable(
                        f"the process that owns channel {channel!r} did not answer within {self._timeout:g} s;"
                        f" it is unknown whether group {group!r} has it"
                    )
                # Should it be answered from now on, that is seen above.
                question.news.clear()
            if question.error is not None:
                raise question.error
        finally:
            self._open.pop(number, None)

    def take(self, frame: bytes, more: bool) -> None:
        """Something came to this process's inbox. Neither waits nor raises."""
        if frame.startswith(b"m"):
            # The payload is sealed for its channel.
            head, _, rest = frame[1:].partition(b"\n")
            self._deliver(head.decode(errors="replace"), rest, more)
            return
        opened = self._unseal(frame)
        if opened is None:
            return
        kind, (head, _, rest) = opened[:1], opened[1:].partition(b"\n")
        if kind == b"r":
            question = self._open.get(head)
            if question is None:
                return
            reason = rest.decode(errors="replace")
            question.answer(reason and f"the process that owns channel {question.channel!r} failed: {reason}")
        elif kind in (ADD, DISCARD):
            self._take_request(kind, head, rest)
        else:
            logger.warning("lost a message to this process's inbox: unknown kind %r", kind)

    def returned(self, process: str) -> None:
        """This process hears again, and may have missed something. Does not wait."""
        for question in list(self._open.values()):
            # In the thread that waits: what it asks next must not overtake this.
            question.news.set()
        self._lanes.put(self._place_of_process(process), self._take_what_was_left)

    def close(self) -> None:
        self._lanes.close()
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

    def _take_what_was_left(self) -> None:
        try:
            frames = self._fetch()
        except LayerUnavailable as error:
            logger.warning("could not look for requests that were left for this process: %s", error)
            return
        for frame in frames:
            self.take(frame, False)

    def _take_request(self, kind: bytes, number: bytes, rest: bytes) -> None:
        """Adding waits for the reader that calls this, and for the group's server: in the order asked, since a discard
        may follow an add, but not behind groups of other servers."""
        try:
            asker, group, channel = rest.decode().split("\n")
        except ValueError:
            logger.warning("lost a request to this process's inbox: it has no known form")
            return
        self._gone.forget(asker)
        place = self._place_of_group(group)
        came = time.monotonic()

        def carry_out() -> None:
            self._answer(place, asker, number, group, self._carry_out(kind, group, channel, came))

        self._lanes.put(place, carry_out)

    def _carry_out(self, kind: bytes, group: str, channel: str, came: float) -> str:
        """Returns what went wrong, or nothing."""
        if time.monotonic() - came >= self._timeout:
            # Who asked has been told that it is unknown, and may have asked for the opposite elsewhere.
            return f"it came to the request for group {group!r} too late, after more than {self._timeout:g} s"
        try:
            (self._add if kind == ADD else self._discard)(group, channel)
        except LayerUnavailable as error:
            return str(error)
        except Exception as error:
            logger.exception("request for group %s failed", group)
            return f"{type(error).__name__} was raised there"
        return ""

    def _answer(self, place: str, asker: str, number: bytes, group: str, error: str) -> None:
        def publish() -> None:
            try:
                self._publish(asker, self._seal(asker, b"r%b\n%b" % (number, error.encode())))
            except LayerUnavailable as failure:
                logger.warning("could not answer a request for group %s: %s", group, failure)

        where = self._place_of_process(asker)
        if where == place:
            publish()
        else:
            self._lanes.put(where, publish)

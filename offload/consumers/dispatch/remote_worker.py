"""The remote dispatch, in a worker: runs the consumers of WebSockets whose sockets other processes own."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator

from offload.consumers.channel import Channel
from offload.consumers.dispatch.local import BoundConsumers, Dispatch
from offload.consumers.dispatch.turns import (
    ANNOUNCE_SECONDS,
    DENIED,
    FAILED,
    RAN,
    UNAVAILABLE,
    Ended,
    Note,
    announcement,
    report,
)
from offload.consumers.routing import CONNECT, DISCONNECT, RECEIVE
from offload.exceptions import DenyConnection, LayerUnavailable, OffloadError
from offload.interfaces import DECIDES_KEY, Content, Layer
from offload.observe.log_lines import SafeLogger

log = SafeLogger("offload.consumer")

REPORT_TRIES = 10
REPORT_PAUSE_SECONDS = 0.5
"""How often a report is tried while the layer is away, and the pause in between."""

REPEATS = 3
"""How many announcements say what has ended: an owner may have been connecting anew."""
LAST_SECONDS = 6.0
"""How long a worker that ends tries to say what has ended: a layer that is started anew is back by then."""
MOST_TURNS = 5000
"""In one announcement, which is some 25 KB then."""
MOST_UNTOLD = 100_000
"""Turns that wait to be told to one owner. While the layer is away no messages come, so it takes more than that only if
one of several shards is away, which has that owner's inbox."""

_UNTOLD = "the owner of a socket cannot be told that its consumer has run: %s"


class DecidingChannel(Channel):
    """The reply channel as a connect consumer has it: what it says decides over the handshake."""

    __slots__ = ()

    def send(self, content: Content, immediately: bool = True, delay: float = 0.0) -> None:
        """See `Channel.send`."""
        decides = isinstance(content, dict) and not delay
        super().send({**content, DECIDES_KEY: True} if decides else content, delay=delay)


class _Round:
    """What ended between two announcements, by what was reported, so that a turn is one number."""

    __slots__ = ("ended", "size", "told")

    def __init__(self) -> None:
        self.ended: dict[tuple[str, bool], list[int]] = {}
        self.size = 0
        self.told = 0


class _Lately:
    """What has ended lately of one owner's turns."""

    __slots__ = ("_rounds", "_untold")

    def __init__(self) -> None:
        self._rounds = [_Round()]
        self._untold = 0

    def add(self, turn: int, outcome: str, saved: bool) -> None:
        if self._untold >= MOST_UNTOLD:
            # Its owner will take it for lost.
            return
        self._untold += 1
        last = self._rounds[-1]
        last.size += 1
        last.ended.setdefault((outcome, saved), []).append(turn)

    def begin(self) -> list[_Round]:
        """An announcement is made of what this returns; what ends from now on is for the next."""
        if self._rounds[-1].size:
            self._rounds.append(_Round())
        return self._rounds[:-1]

    def told(self, rounds: list[_Round]) -> bool:
        """It has been made. Returns whether nothing is left to be repeated."""
        for each in rounds:
            if not each.told:
                self._untold -= each.size
            each.told += 1
        self._rounds = [each for each in self._rounds if each.told < REPEATS]
        return len(self._rounds) == 1 and not self._rounds[0].size


def _parts(rounds: list[_Round]) -> Iterator[list[Ended]]:
    """What ended, as much as one announcement may tell at a time."""
    part: list[Ended] = []
    room = MOST_TURNS
    for each in rounds:
        for (outcome, saved), turns in each.ended.items():
            start = 0
            while start < len(turns):
                some = turns[start : start + room]
                part.append((outcome, saved, some))
                start += len(some)
                room -= len(some)
                if not room:
                    yield part
                    part, room = [], MOST_TURNS
    if part:
        yield part


class WorkerTurns:
    """The turns that one worker has in hand.

    Args:
        dispatch: runs consumers here.
        layer: where messages come from, and reports go to.
    """

    def __init__(self, dispatch: Dispatch, layer: Layer) -> None:
        self._dispatch = dispatch
        self._layer = layer
        self._in_hand: set[Note] = set()
        self._ended: defaultdict[str, _Lately] = defaultdict(_Lately)
        # When the layer was last found away: owners may have been connecting anew since.
        self._failed = -math.inf

    def run(self, channel: str, content: Content) -> None:
        """Run the consumer for one message of a WebSocket, and report to its owner.

        Args:
            channel: ``websocket.connect``, ``websocket.receive`` or ``websocket.disconnect``.
            content: the message, as its owner sent it.
        """
        note = Note.take_from(content)
        reply, path = content.get("reply_channel"), content.get("path")
        if not isinstance(reply, str) or not isinstance(path, str):
            log.error("a message on %s is dropped: it has no reply_channel or no path", channel)
            return
        kind = DecidingChannel if channel == CONNECT else Channel
        consumers = BoundConsumers(self._dispatch, kind(reply, channel_layer=self._layer))
        consumers.has_session = note.saved
        consumers.latency = note.latency
        outcome = FAILED
        if note.turn is not None:
            self._in_hand.add(note)
        try:
            outcome = self._outcome(consumers, channel, content)
        finally:
            # Also when the consumer raised what is no Exception.
            if note.turn is not None:
                if channel != DISCONNECT:
                    self._report(note.reports, note.turn, outcome, consumers.has_session)
                # Nobody waits for the end of a disconnect consumer, so the next announcement is early enough.
                self._ended[note.reports].add(note.turn, outcome, consumers.has_session)
            self._in_hand.discard(note)

    def announce(self) -> None:
        """Tell the owners which turns go on, and once more which have ended."""
        running: dict[str, list[int]] = defaultdict(list)
        for note in self._in_hand:
            assert note.turn is not None
            running[note.reports].append(note.turn)
        for reports in running.keys() | self._ended.keys():
            try:
                self._announce(reports, running.get(reports, []))
            except LayerUnavailable as error:
                # Nor have those after it been told anything, so it is no round for them.
                log.warning("the owners of sockets cannot be told that their consumers run: %s", error)
                self.failed()
                return
            except OffloadError as error:
                # A message that no server sent names no channel for reports.
                log.warning("nobody hears at %s: %s", ascii(reports), error)
                self._ended.pop(reports, None)

    def _announce(self, reports: str, running: list[int]) -> None:
        lately = self._ended.get(reports)
        rounds = [] if lately is None else lately.begin()
        for part in [*_parts(rounds)] or [[]]:
            self._layer.send(reports, announcement(running, part))
            running = []
        if lately is not None and lately.told(rounds):
            del self._ended[reports]

    def failed(self) -> None:
        """The layer was found away."""
        self._failed = time.monotonic()

    def finish(self, deadline: float) -> None:
        """This worker ends: say what the owners have not been told yet.

        Args:
            deadline: on the monotonic clock; sooner when the layer stays away.
        """
        deadline = min(deadline, time.monotonic() + LAST_SECONDS)
        while True:
            self.announce()
            now = time.monotonic()
            # Who has been connected all the while has heard it now.
            if not self._ended or now - self._failed > REPEATS * ANNOUNCE_SECONDS or now + ANNOUNCE_SECONDS > deadline:
                return
            time.sleep(ANNOUNCE_SECONDS)

    def _outcome(self, consumers: BoundConsumers, channel: str, content: Content) -> str:
        if channel == RECEIVE:
            consumers.receive(content)
        elif channel != CONNECT:
            consumers.disconnect(content)
        elif not self._dispatch.router.accepts_websocket(content):
            log.error(
                "no WebSocket route matches %s here, so it is refused; does this worker have the servers' routing?",
                ascii(content["path"]),
            )
            return DENIED
        else:
            try:
                consumers.connect(content)
            except DenyConnection as error:
                log.info("the connect consumer for %s refused it: %r", ascii(content["path"]), str(error))
                return DENIED
            except LayerUnavailable:
                return UNAVAILABLE
            except Exception:  # noqa: BLE001 -- it is in the log, with its traceback
                return FAILED
        return RAN

    def _report(self, reports: str, turn: int, outcome: str, saved: bool) -> None:
        content = report(turn, outcome, saved)
        for tried in range(REPORT_TRIES):
            if tried:
                time.sleep(REPORT_PAUSE_SECONDS)
            try:
                self._layer.send(reports, content)
                break
            except LayerUnavailable as error:
                self.failed()
                failure: OffloadError = error
            except OffloadError as error:
                log.error(_UNTOLD, error)
                return
        else:
            log.error(_UNTOLD, failure)

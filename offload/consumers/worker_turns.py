"""The dispatch through the layer, in a worker: runs the consumers of WebSockets whose sockets other processes own."""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque

from offload.consumers.channel import Channel
from offload.consumers.dispatch import BoundConsumers, Dispatch
from offload.consumers.routing import CONNECT, RECEIVE
from offload.consumers.turns import DENIED, FAILED, RAN, UNAVAILABLE, Note, announcement, report
from offload.exceptions import DenyConnection, LayerUnavailable, OffloadError
from offload.interfaces import DECIDES_KEY, Content, Layer

log = logging.getLogger("offload.consumer")

REPORT_TRIES = 10
REPORT_PAUSE_SECONDS = 0.5
"""How often a report is tried while the layer is away, and the pause in between."""

REPEATS = 3
"""How often an announcement says again what was reported: an owner may have been connecting anew."""
MOST_REPEATED = 1000
"""For one owner. It waits for no more turns at a time than it has greenlets, so these are most of what it can miss."""

_UNTOLD = "the owner of a socket cannot be told that its consumer has run: %s"


class DecidingChannel(Channel):
    """The reply channel as a connect consumer has it: what it says decides over the handshake."""

    __slots__ = ()

    def send(self, content: Content, immediately: bool = True) -> None:
        """See `Channel.send`."""
        super().send({**content, DECIDES_KEY: True} if isinstance(content, dict) else content)


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
        # What was reported to each owner, with the round of announcements in which it was.
        self._ended: defaultdict[str, deque[tuple[int, list[int | str | bool]]]] = defaultdict(
            lambda: deque(maxlen=MOST_REPEATED)
        )
        self._round = 0

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
        consumers.session_saved = note.saved
        consumers.latency = note.latency
        outcome = FAILED
        if note.turn is not None:
            self._in_hand.add(note)
        try:
            outcome = self._outcome(consumers, channel, content)
        finally:
            # Also when the consumer raised what is no Exception.
            if note.turn is not None:
                self._report(note.reports, note.turn, outcome, consumers.session_saved)
            self._in_hand.discard(note)

    def announce(self) -> None:
        """Tell the owners that the turns in hand go on, and once more which have ended."""
        turns: dict[str, list[int]] = defaultdict(list)
        for note in self._in_hand:
            assert note.turn is not None
            turns[note.reports].append(note.turn)
        ended = self._lately_ended()
        for reports in turns.keys() | ended.keys():
            try:
                self._layer.send(reports, announcement(turns.get(reports, []), ended.get(reports, [])))
            except LayerUnavailable as error:
                # Nor have those after it been told anything, so this round is not counted.
                log.warning("the owners of sockets cannot be told that their consumers run: %s", error)
                return
            except OffloadError as error:
                # A message that no server sent names no channel for reports.
                log.warning("nobody hears at %s: %s", ascii(reports), error)
        self._round += 1

    def _lately_ended(self) -> dict[str, list[list[int | str | bool]]]:
        for reports, reported in list(self._ended.items()):
            while reported and reported[0][0] <= self._round - REPEATS:
                reported.popleft()
            if not reported:
                del self._ended[reports]
        return {reports: [item for _, item in reported] for reports, reported in self._ended.items()}

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
            except DenyConnection:
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
                failure: OffloadError = error
            except OffloadError as error:
                log.error(_UNTOLD, error)
                return
        else:
            log.error(_UNTOLD, failure)
        self._ended[reports].append((self._round, [turn, outcome, saved]))

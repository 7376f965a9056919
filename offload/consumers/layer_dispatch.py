"""The dispatch through the layer, in the process that owns the sockets: the consumers run in worker processes.

Each message is put on its named channel, and the greenlet that brought it waits until a worker reports that the
consumer has run: only then the connection's next message follows. Knows the routing by names only.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
import time
from dataclasses import dataclass

from offload.consumers.postponed import Postponed
from offload.consumers.routing import CONNECT, DISCONNECT, RECEIVE, Router
from offload.consumers.turns import DENIED, FAILED, RAN, REPORTS_PREFIX, UNAVAILABLE, Note, Turn
from offload.exceptions import (
    ChannelFull,
    DenyConnection,
    LayerUnavailable,
    MessageTooLarge,
    OffloadError,
    WorkersUnavailable,
)
from offload.interfaces import Content, Delivery, Layer
from offload.protocol.websocket import ABNORMAL, INTERNAL_ERROR, TOO_BIG, TRY_AGAIN_LATER

log = logging.getLogger("offload.consumer")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 0.5
"""Between two tries to put a message on a full channel."""


@dataclass
class DispatchCounters:
    """Counts since the process began.

    Attributes:
        turns: messages that were given to the workers.
        full: tries that met a full channel.
        too_busy: messages given up because their channel stayed full.
        silent: messages given up because no worker gave a sign of life.
        unavailable: messages given up because the layer could not be reached.
        dropped: later messages of connections that are closing for one of these reasons.
        postponed: disconnect messages that had to wait for the layer, or for an earlier message.
        lost: disconnect messages that found no way to the workers at all.
    """

    turns: int = 0
    full: int = 0
    too_busy: int = 0
    silent: int = 0
    unavailable: int = 0
    dropped: int = 0
    postponed: int = 0
    lost: int = 0


class LayerDispatch:
    """Has consumers run by the workers of a layer.

    Args:
        router: the checked routing, by names.
        layer: where the workers are.
        patience: seconds that a message waits for a worker's sign of life.
    """

    def __init__(self, router: Router, layer: Layer, patience: float) -> None:
        self.router = router
        self.layer = layer
        self.patience = patience
        self.counters = DispatchCounters()
        self.postponed = Postponed(self.send_disconnect, self._is_settled, self.forget, self._lose)
        # When the layer was last found away: whoever was not heard meanwhile may live.
        self._failed = -math.inf
        self._turns: dict[int, Turn] = {}
        self._numbers = itertools.count(1)
        self._reports = layer.new_channel(REPORTS_PREFIX)
        layer.attach(self._reports, self._hear)

    def bind(self, content: Content) -> LayerConsumers | None:
        """The consumers of one WebSocket, or None when no route wants this handshake."""
        if not self.router.accepts_websocket(content):
            return None
        return LayerConsumers(self, content["reply_channel"])

    def stop(self, deadline: float) -> None:
        """Send what was postponed until then (on the monotonic clock), or never."""
        waiting = len(self.postponed)
        if waiting:
            log.info("%d disconnect messages wait to be sent before this process ends", waiting)
        self.postponed.stop(deadline)

    def begin(self, content: Content, saved: bool, latency: float | None) -> Turn:
        """A turn for a message, noted in its content."""
        turn = Turn(next(self._numbers), content["path"], saved)
        Note(turn.number, self._reports, saved, latency).put_into(content)
        self._turns[turn.number] = turn
        self.counters.turns += 1
        return turn

    def forget(self, turn: Turn) -> None:
        """Expect no report."""
        self._turns.pop(turn.number, None)

    def send_patiently(self, channel: str, content: Content) -> None:
        """Put a message on its channel, and wait for a place there.

        Raises:
            WorkersUnavailable: there was none in time.
            LayerUnavailable, MessageTooLarge: as they say.
        """
        deadline = time.monotonic() + self.patience
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                self.layer.send(channel, content)
                return
            except ChannelFull as error:
                self.counters.full += 1
                if time.monotonic() + pause > deadline:
                    self.counters.too_busy += 1
                    raise WorkersUnavailable(
                        f"the workers do not keep up: {error}, and no place was free within {self.patience:g} s "
                        "(--dispatch-timeout); run more of: offload worker APP"
                    ) from error
            except LayerUnavailable:
                self._failed = time.monotonic()
                raise
            # Not all together again.
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def send_disconnect(self, content: Content, turn: Turn | None) -> None:
        """Send a disconnect message whose connection's last turn, where one is named, has ended or is overdue."""
        if turn is not None:
            Note(saved=turn.saved).put_into(content)
        try:
            self.layer.send(DISCONNECT, content)
        except LayerUnavailable:
            self._failed = time.monotonic()
            raise

    def _is_settled(self, turn: Turn) -> bool:
        if turn.outcome is not None:
            return True
        if turn.heard is not None and time.monotonic() - self._failed <= self.patience:
            # The layer was silent, so that the worker's silence says nothing.
            return False
        # A message that nobody took has left its queue by then, and who took it at the last moment has said so.
        return turn.seconds_left(self.layer.expiry + self.patience, self.patience) <= 0

    def _lose(self, content: Content, why: str) -> None:
        self.counters.lost += 1
        log.error("the disconnect consumer for %s does not run: %s", content.get("path"), why)

    def _hear(self, delivery: Delivery) -> None:
        content = delivery.content
        running = content.get("running")
        if isinstance(running, list):
            now = time.monotonic()
            for number in running:
                turn = self._turns.get(number)
                if turn is not None:
                    turn.heard = now
            for number, outcome, saved in content.get("ended", ()):
                self._end(number, outcome, saved)
            return
        self._end(content["turn"], content["outcome"], content["saved"])

    def _end(self, number: int, outcome: str, saved: bool) -> None:
        turn = self._turns.pop(number, None)
        if turn is not None:
            turn.end(outcome, saved)


class LayerConsumers:
    """One WebSocket's consumers, run by workers. The gateway calls one method at a time, in order."""

    __slots__ = ("_dispatch", "_gave_up", "_open_turn", "latency", "reply_channel", "saved")

    def __init__(self, dispatch: LayerDispatch, reply_channel: str) -> None:
        self._dispatch = dispatch
        # A turn of which nobody knows yet how it ended; nothing may follow it before that is known.
        self._open_turn: Turn | None = None
        self._gave_up = False
        self.reply_channel = reply_channel
        self.saved = False
        self.latency: float | None = None

    def connect(self, content: Content) -> None:
        """Have the connect consumer run, and say what it decided.

        Raises:
            DenyConnection: it refused.
            WorkersUnavailable, LayerUnavailable: it could not be asked.
            OffloadError: it failed.
        """
        try:
            outcome = self._run(CONNECT, content)
        except MessageTooLarge as error:
            log.error("the connect message for %s cannot be sent: %s", content["path"], error)
            raise
        if outcome == RAN:
            return
        if outcome == DENIED:
            raise DenyConnection
        if outcome == UNAVAILABLE:
            raise LayerUnavailable("the connect consumer could not reach the layer; the worker's log tells more")
        log.error("the connect consumer for %s failed; the worker's log has its traceback", content["path"])
        raise OffloadError("the connect consumer failed")

    def receive(self, content: Content) -> None:
        """Have the receive consumer run. Where that cannot be, the connection closes."""
        if self._gave_up or self._open_turn is not None:
            # Open, where the consumer accepted by hand and was not heard of again: the gateway is closing then.
            self._dispatch.counters.dropped += 1
            return
        try:
            self._run(RECEIVE, content)
        except MessageTooLarge as error:
            self._give_up(TOO_BIG, content, error)
        except (WorkersUnavailable, LayerUnavailable) as error:
            turn = self._open_turn
            is_lost = turn is not None and turn.heard is not None
            self._give_up(INTERNAL_ERROR if is_lost else TRY_AGAIN_LATER, content, error)
        except BaseException as error:
            # The consumer may run, and nobody waits for it any more.
            self._give_up(INTERNAL_ERROR, content, f"the wait for its consumer was ended by {error!r}")
            raise

    def disconnect(self, content: Content) -> None:
        """Have the disconnect consumer run, and the connection's session dropped; nothing waits for that."""
        dispatch, turn = self._dispatch, self._open_turn
        if turn is None:
            Note(saved=self.saved).put_into(content)
            try:
                dispatch.send_disconnect(content, None)
                return
            except (ChannelFull, LayerUnavailable) as error:
                log.warning("the disconnect message for %s waits: %s", content["path"], error)
        dispatch.counters.postponed += 1
        dispatch.postponed.add(content, turn)

    def end(self) -> None:
        """The handshake was refused. A connect consumer that runs all the same is followed by its disconnect."""
        turn = self._open_turn
        if turn is not None:
            content: Content = {"reply_channel": self.reply_channel, "path": turn.path, "order": 1, "code": ABNORMAL}
            self._dispatch.postponed.add(content, turn, only_after=RAN)
        elif self.saved:
            try:
                self._dispatch.layer.session_delete(self.reply_channel)
            except LayerUnavailable as error:
                log.warning("the session of %s stays until it expires: %s", self.reply_channel, error)

    def _run(self, channel: str, content: Content) -> str:
        """Give a message to the workers, and wait for the outcome."""
        dispatch = self._dispatch
        # Before it is sent, and until more is known: this greenlet may be killed in between.
        self._open_turn = turn = dispatch.begin(content, self.saved, self.latency)
        try:
            dispatch.send_patiently(channel, content)
        except LayerUnavailable:
            # It may have been sent all the same.
            dispatch.counters.unavailable += 1
            raise
        except (WorkersUnavailable, MessageTooLarge):
            self._open_turn = None
            dispatch.forget(turn)
            raise
        turn.sent = time.monotonic()
        if turn.wait(dispatch.patience):
            self._open_turn = None
            self.saved = turn.saved
            return turn.outcome or FAILED
        dispatch.counters.silent += 1
        if turn.heard is not None:
            raise WorkersUnavailable(
                f"the worker that ran its consumer is gone; nothing was heard of it for {dispatch.patience:g} s"
            )
        raise WorkersUnavailable(
            f"no worker took a message on {channel} within {dispatch.patience:g} s (--dispatch-timeout); "
            "start workers by: offload worker APP"
        )

    def _give_up(self, code: int, content: Content, why: OffloadError | str) -> None:
        self._gave_up = True
        log.error("closing the WebSocket at %s with %d: %s", content["path"], code, why)
        # The receiver is in this process, so that this reaches no server and cannot fail for one that is gone.
        self._dispatch.layer.send(self.reply_channel, {"close": code})

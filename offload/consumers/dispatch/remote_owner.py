"""The remote dispatch, in the process that owns the sockets: the consumers run in worker processes.

Each message is put on its named channel, and its greenlet waits until a worker reports that the consumer has run: only
then the connection's next message follows. Knows the routing by names only.
"""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, fields

from offload.consumers.dispatch.full_channel import FullChannel
from offload.consumers.dispatch.last_outage import Outage
from offload.consumers.dispatch.postponed import KEEP_SECONDS, Postponed
from offload.consumers.dispatch.turns import DENIED, FAILED, RAN, REPORTS_PREFIX, UNAVAILABLE, Note, Turn
from offload.consumers.routing import CONNECT, DISCONNECT, HTTP_DISCONNECT, HTTP_REQUEST, RECEIVE, Router
from offload.consumers.sessions import drop_session, renew_session
from offload.exceptions import (
    ChannelFull,
    DenyConnection,
    LayerUnavailable,
    LayerUnreachable,
    MessageTooLarge,
    OffloadError,
    WorkersUnavailable,
)
from offload.interfaces import Client, Content, Delivery, Layer
from offload.observe.log_lines import SafeLogger, path_text
from offload.protocol.websocket.frames import ABNORMAL, INTERNAL_ERROR, TOO_BIG, TRY_AGAIN_LATER

log = SafeLogger("offload.consumer")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.02, 0.5
"""Between two tries to put a message on a channel that is full, or cannot be reached."""


TELL_SECONDS = 60.0
"""What was given up or postponed is summed up once in this time, at most."""

_TOLD = ("too_busy", "silent", "unavailable", "postponed", "lost")


class RemoteDispatch:
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
        self.postponed = Postponed(self)
        self.turns: dict[int, Turn] = {}
        # Of disconnect messages that were sent, the oldest first: nobody waits for them, but their loss is counted.
        self._left: dict[int, Turn] = {}
        # The messages whose end has not come: whose they are, their channels, and their places in their connection.
        self.in_hand: dict[int, tuple[RemoteConsumers, str, int]] = {}
        self.outage = Outage(layer, self._look)
        self._numbers = itertools.count(1)
        self._places: defaultdict[str, FullChannel] = defaultdict(FullChannel)
        self._reports = layer.new_channel(REPORTS_PREFIX)
        layer.attach(self._reports, self._hear)

    @property
    def is_idle(self) -> bool:
        """Whether the end of each message has come."""
        return not (self.turns or self._left)

    def bind(self, content: Content) -> RemoteConsumers | None:
        """The consumers of one WebSocket, or None when no route wants this handshake."""
        if not self.router.accepts_websocket(content):
            return None
        return RemoteConsumers(self, content["reply_channel"])

    def bind_request(self, content: Content) -> RemoteRequest | None:
        """The consumers of one request that is answered by messages, or None when no route wants it."""
        return None if self.router.find(HTTP_REQUEST, content) is None else RemoteRequest(self.layer, self.router)

    def statistics(self) -> dict[str, float]:
        """What was counted, by name, for `offload.statistics`."""
        return {f"dispatch.{name}": count for name, count in self.counters.as_dict().items()}

    def stop(self, deadline: float) -> None:
        """Send what was postponed until then (on the monotonic clock), or never."""
        for consumers, channel, order in [*self.in_hand.values()]:
            consumers.hand_over(channel, order + 1)
        waiting = len(self.postponed)
        if waiting:
            log.info("%d disconnect messages wait to be sent before this process ends", waiting)
        self.postponed.stop(deadline, self.patience)
        self.outage.stop()
        self._look()
        self.counters.stop()

    def begin(self, content: Content, saved: bool, latency: float | None) -> Turn:
        """A turn for a message, noted in its content."""
        turn = Turn(next(self._numbers), content["path"], saved)
        Note(turn.number, self._reports, saved, latency).put_into(content)
        self.turns[turn.number] = turn
        return turn

    def forget(self, turn: Turn) -> None:
        """Expect no report."""
        self.turns.pop(turn.number, None)

    def send_patiently(self, channel: str, content: Content) -> LayerUnavailable | None:
        """Put a message on its channel; where that is full, or cannot be reached, wait until it can be done.

        Returns:
            None, or why it is unknown whether it was done.

        Raises:
            WorkersUnavailable, LayerUnreachable: it could not be done in time.
            MessageTooLarge: as it says.
        """
        place = self._places[channel]
        try:
            return self._send_or_wait(channel, content, place)
        finally:
            place.let_on()

    def _send_or_wait(self, channel: str, content: Content, place: FullChannel) -> LayerUnavailable | None:
        deadline = time.monotonic() + self.patience
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                self.layer.send(channel, content)
                return None
            except ChannelFull as error:
                self.counters.full += 1
                if time.monotonic() + pause > deadline:
                    self.counters.give_up("too_busy")
                    raise WorkersUnavailable(
                        f"the workers do not keep up: {error}, and no place was free within {self.patience:g} s "
                        "(--dispatch-timeout); run more of: offload worker APP"
                    ) from error
                place.wait(pause, deadline)
            except LayerUnreachable:
                self.counters.unreachable += 1
                self.outage.found()
                if time.monotonic() + pause > deadline:
                    self.counters.give_up("unavailable")
                    raise
                # Not all together again.
                time.sleep(pause * random.uniform(0.5, 1.0))
            except LayerUnavailable as error:
                # Not again: a consumer must not run twice.
                self.counters.in_doubt += 1
                self.outage.found()
                return error
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def send_disconnect(self, content: Content, after: Turn | None) -> Turn | None:
        """Send a disconnect message.

        Args:
            content: the message.
            after: its connection's last turn, where one is named; it has ended or is overdue.

        Returns:
            None, or the message's own turn where it is unknown whether it was sent.

        Raises:
            ChannelFull, LayerUnreachable, MessageTooLarge: it was not sent.
        """
        # Known before it is sent: it may have run by the time that the layer is found to have failed.
        # A worker that is gone may have left a session, and said nothing of it.
        turn = self.begin(content, after is not None and (after.saved or after.outcome is None), None)
        try:
            self.layer.send(DISCONNECT, content)
        except ChannelFull:
            self.counters.full += 1
            self.forget(turn)
            raise
        except LayerUnreachable:
            self.counters.unreachable += 1
            self.forget(turn)
            self.outage.found()
            raise
        except LayerUnavailable as error:
            self.counters.in_doubt += 1
            self.outage.found()
            turn.sent = time.monotonic()
            log.warning(
                "it is unknown whether the disconnect message for %s was sent: %s", path_text(content["path"]), error
            )
            return turn
        except BaseException:
            self.forget(turn)
            raise
        turn.sent = time.monotonic()
        self._left[turn.number] = turn
        self.forget(turn)
        self.outage.watch()
        return None

    def _look(self) -> bool:
        """Once a second: give up disconnect messages of which nothing has come back. Returns whether anybody waits."""
        while self._left:
            number, turn = next(iter(self._left.items()))
            if not self.is_settled(turn):
                break
            self._left.pop(number, None)
            if turn.outcome is None:
                gone = "no worker has said that it ran" if turn.heard is None else "the worker that ran it is gone"
                self.lose(turn.path, gone, True)
        return not self.is_idle

    def wait(self, turn: Turn, deadline: float = math.inf) -> bool:
        """Wait until a turn has ended, while there are signs of life. Returns whether it has."""
        return turn.wait(self.patience, self.outage, self.layer.expiry + self.patience, deadline)

    def is_settled(self, turn: Turn) -> bool:
        """Whether a turn has ended, or never will."""
        if turn.outcome is not None:
            return True
        # A message that nobody took has left its queue by then, and who took it at the last moment has said so.
        gone = self.layer.expiry + self.patience
        return turn.seconds_left(gone, self.patience, self.outage, gone + KEEP_SECONDS) <= 0

    def lose(self, path: str, why: str, in_doubt: bool) -> None:
        """Count, and log, a disconnect message that is given up."""
        outcome = "may not have run" if in_doubt else "does not run"
        log.error("the disconnect consumer for %s %s: %s", path_text(path), outcome, why)
        self.counters.give_up("lost")

    def end_refused(self, content: Content, turn: Turn) -> None:
        """A connect consumer that ran late has refused, or failed, or its worker is gone: no disconnect follows."""
        if turn.saved or turn.outcome is None:
            drop_session(self.layer, content["reply_channel"])

    def _hear(self, delivery: Delivery) -> None:
        content = delivery.content
        running = content.get("running")
        if isinstance(running, list):
            now = time.monotonic()
            for number in running:
                turn = self.turns.get(number) or self._left.get(number)
                if turn is not None:
                    turn.heard = now
            for outcome, saved, numbers in content.get("ended", ()):
                for number in numbers:
                    self._end(number, outcome, saved)
            return
        self._end(content["turn"], content["outcome"], content["saved"])

    def _end(self, number: int, outcome: str, saved: bool) -> None:
        turn = self.turns.pop(number, None) or self._left.pop(number, None)
        if turn is not None:
            turn.end(outcome, saved)


class RemoteRequest:
    """The consumers of one request that is answered by messages, run by workers. Nobody waits for their end."""

    __slots__ = ("_layer", "_router")

    def __init__(self, layer: Layer, router: Router) -> None:
        self._layer = layer
        self._router = router

    def request(self, content: Content) -> None:
        """Give the request to the workers.

        Raises:
            ChannelFull, LayerUnavailable, MessageTooLarge: as they say.
        """
        self._layer.send(HTTP_REQUEST, content)

    def disconnect(self, content: Content) -> None:
        """Tell the workers that its client has left, if any consumer wants to know."""
        if self._router.find(HTTP_DISCONNECT, content) is None:
            return
        try:
            self._layer.send(HTTP_DISCONNECT, content)
        except (ChannelFull, LayerUnavailable) as error:
            log.error("no worker hears that a request's client has left %s: %s", ascii(content["path"]), error)


class RemoteConsumers:
    """One WebSocket's consumers, run by workers. The gateway calls one method at a time, in order."""

    __slots__ = ("_dispatch", "_gave_up", "_is_over", "_open_turn", "client", "latency", "reply_channel", "saved")

    def __init__(self, dispatch: RemoteDispatch, reply_channel: str) -> None:
        self._dispatch = dispatch
        # A turn of which nobody knows yet how it ended; nothing may follow it before that is known.
        self._open_turn: Turn | None = None
        self._gave_up = False
        # Whether its disconnect message is with those that go out as the process ends.
        self._is_over = False
        self.reply_channel = reply_channel
        self.saved = False
        self.latency: float | None = None
        # Not asked: the consumers are elsewhere.
        self.client: Client | None = None

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
            log.error("the connect message for %s cannot be sent: %s", path_text(content["path"]), error)
            raise
        if outcome == RAN:
            return
        if outcome == DENIED:
            raise DenyConnection
        if outcome == UNAVAILABLE:
            raise LayerUnavailable("the connect consumer could not reach the layer; the worker's log tells more")
        log.error("the connect consumer for %s failed; the worker's log has its traceback", path_text(content["path"]))
        raise OffloadError("the connect consumer failed")

    def receive(self, content: Content) -> None:
        """Have the receive consumer run. Where that cannot be, the connection closes."""
        if self._gave_up or self._is_over or self._open_turn is not None:
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
        if self._is_over:
            return
        dispatch, after, own = self._dispatch, self._open_turn, None
        why: object = "it is unknown how its last consumer has ended"
        if after is None:
            Note(saved=self.saved).put_into(content)
            try:
                own = dispatch.send_disconnect(content, None)
                if own is None:
                    return
                why = "it is unknown whether it was sent"
            except (ChannelFull, LayerUnreachable) as error:
                why = error
        dispatch.counters.postpone(content["path"], why)
        dispatch.postponed.add(content, after, own=own)

    def end(self) -> None:
        """The handshake was refused. A connect consumer that runs all the same is followed by its disconnect."""
        if self._is_over:
            return
        if self._open_turn is not None:
            self._follow(self._open_turn, CONNECT, 1)
        elif self.saved:
            drop_session(self._dispatch.layer, self.reply_channel)

    @property
    def has_session(self) -> bool:
        """See `WebSocketConsumers`."""
        return self.saved

    def renew(self) -> None:
        """See `WebSocketConsumers`."""
        renew_session(self._dispatch.layer, self.reply_channel)

    def hand_over(self, channel: str, order: int) -> None:
        """The process ends while this connection's message is with the workers: nobody will be there to send its
        disconnect message when that one has ended.

        Args:
            channel: that message's.
            order: the disconnect message's place in the connection.
        """
        self._is_over = True
        if self._open_turn is not None:
            self._dispatch.counters.postponed += 1
            self._follow(self._open_turn, channel, order)

    def _follow(self, turn: Turn, channel: str, order: int) -> None:
        """A message of which nobody knows yet how it ends is followed by a disconnect message."""
        content: Content = {"reply_channel": self.reply_channel, "path": turn.path, "order": order, "code": ABNORMAL}
        # A connect consumer may refuse, and is followed by nothing then.
        self._dispatch.postponed.add(content, turn, only_after=RAN if channel == CONNECT else None)

    def _run(self, channel: str, content: Content) -> str:
        """Give a message to the workers, and wait for the outcome."""
        dispatch = self._dispatch
        dispatch.counters.turns += 1
        # Before it is sent, and until more is known: this greenlet may be killed in between.
        self._open_turn = turn = dispatch.begin(content, self.saved, self.latency)
        dispatch.in_hand[turn.number] = (self, channel, content["order"])
        try:
            return self._wait_for(turn, channel, content)
        finally:
            del dispatch.in_hand[turn.number]

    def _wait_for(self, turn: Turn, channel: str, content: Content) -> str:
        dispatch = self._dispatch
        try:
            doubt = dispatch.send_patiently(channel, content)
        except OffloadError:
            # It was not sent.
            self._open_turn = None
            dispatch.forget(turn)
            raise
        turn.sent = time.monotonic()
        if dispatch.wait(turn):
            self._open_turn = None
            self.saved = turn.saved
            return turn.outcome or FAILED
        dispatch.counters.give_up("silent")
        if turn.heard is not None:
            raise WorkersUnavailable(
                f"the worker that ran its consumer is gone; nothing was heard of it for {dispatch.patience:g} s"
            )
        if doubt is not None:
            raise WorkersUnavailable(
                f"the layer failed as its message was sent, and no worker has said within {dispatch.patience:g} s that "
                f"it came (--dispatch-timeout): {doubt}"
            )
        raise WorkersUnavailable(
            f"no worker took a message on {channel} within {dispatch.patience:g} s (--dispatch-timeout); "
            "start workers by: offload worker APP"
        )

    def _give_up(self, code: int, content: Content, why: OffloadError | str) -> None:
        self._gave_up = True
        log.error("closing the WebSocket at %s with %d: %s", path_text(content["path"]), code, why)
        # The receiver is in this process, so that this reaches no server and cannot fail for one that is gone.
        self._dispatch.layer.send(self.reply_channel, {"close": code})


@dataclass
class DispatchCounters:
    """Counts since the process began.

    Attributes:
        turns: messages that were given to the workers, and whose end has not come.
        full: tries that met a full channel.
        unreachable: tries that found the layer away, so that nothing was sent.
        in_doubt: messages at which the layer failed so that nobody knew whether they were sent.
        too_busy: messages given up because their channel stayed full.
        silent: messages given up because no worker gave a sign of life.
        unavailable: messages given up because the layer stayed away.
        dropped: later messages of connections that are closing for one of these reasons.
        postponed: disconnect messages that had to wait for the layer, or for an earlier message.
        lost: disconnect messages that found no way to the workers, or of which no worker has said that it ran.
    """

    turns: int = 0
    full: int = 0
    unreachable: int = 0
    in_doubt: int = 0
    too_busy: int = 0
    silent: int = 0
    unavailable: int = 0
    dropped: int = 0
    postponed: int = 0
    lost: int = 0

    def __post_init__(self) -> None:
        self._told = dict.fromkeys(_TOLD, 0)
        self._timer: threading.Timer | None = None

    def give_up(self, counter: str) -> None:
        """Count a message that was given up. Each has its own line in the log; those of a minute have their sum."""
        setattr(self, counter, getattr(self, counter) + 1)
        self._tell_later()

    def postpone(self, path: str, why: object) -> None:
        """Count a disconnect message that could not be sent at once. The first has its own line in the log; it is often
        so for all clients at the same time, so that the others of that minute have their sum alone.

        Args:
            path: its connection's.
            why: it could not.
        """
        if self.postponed == self._told["postponed"]:
            log.warning("the disconnect message for %s waits, as others may: %s", path_text(path), why)
        self.postponed += 1
        self._tell_later()

    def _tell_later(self) -> None:
        if self._timer is None:
            self._timer = timer = threading.Timer(TELL_SECONDS, self._tell)
            timer.daemon = True
            timer.start()

    def stop(self) -> None:
        """The process ends: say what there was."""
        if self._timer is not None:
            self._timer.cancel()
        log.info("messages for workers: %s", ", ".join(f"{name} {count}" for name, count in self.as_dict().items()))

    def _tell(self) -> None:
        self._timer = None
        counts = self.as_dict()
        grown = {name: counts[name] - told for name, told in self._told.items() if counts[name] > told}
        self._told = {name: counts[name] for name in _TOLD}
        log.warning(
            "messages for workers given up, or postponed, within %g s: %s",
            TELL_SECONDS,
            ", ".join(f"{name} {count}" for name, count in grown.items()),
        )

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

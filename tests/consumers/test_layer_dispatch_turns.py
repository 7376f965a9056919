"""The dispatch through a layer, both sides in one process: late reports, counters, sessions, foreign messages."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from offload import Channel, DenyConnection, Message, route, route_class
from offload.consumers import configuration
from offload.consumers.dispatch import Dispatch
from offload.consumers.layer_dispatch import LayerConsumers, LayerDispatch
from offload.consumers.postponed import LOOK_SECONDS
from offload.consumers.routing import CONNECT, DISCONNECT, RECEIVE, Router
from offload.consumers.sessions import ChannelSession, channel_session
from offload.consumers.turns import Turn
from offload.consumers.worker_turns import REPEATS, WorkerTurns
from offload.exceptions import ConfigurationError, LayerUnavailable, OffloadError, WorkersUnavailable
from offload.interfaces import DECIDES_KEY, Content, Delivery
from offload.layers.memory import MemoryLayer, MemoryServer
from tests.redis_server import until
from tests.serving import DEADLINE

PATIENCE, EXPIRY = 1.0, 30.0


class AwayLayer(MemoryLayer):
    """A layer whose server may be away.

    Attributes:
        away: how many further calls find it so.
        unheard: how many further messages to processes get lost on their way.
        interrupted: how many further senders are interrupted when their message has left.
        gate: what calls wait for, so that the server seems to hang.
        waits: set when a call does.
    """

    away = 0
    unheard = 0
    interrupted = 0
    gate: threading.Event | None = None

    def __init__(self, server: MemoryServer, **settings: Any) -> None:
        super().__init__(server, **settings)
        self.waits = threading.Event()

    def _look(self) -> None:
        if self.gate is not None:
            self.waits.set()
            self.gate.wait(DEADLINE)
        if self.away:
            self.away -= 1
            raise LayerUnavailable("layer 'memory' is away")

    def _send(self, channel: str, payload: bytes) -> None:
        self._look()
        super()._send(channel, payload)
        if self.interrupted:
            self.interrupted -= 1
            raise KeyboardInterrupt

    def _send_to_process(self, process: str, channel: str, payload: bytes) -> None:
        self._look()
        if self.unheard:
            self.unheard -= 1
            return
        super()._send_to_process(process, channel, payload)


class Pair:
    """An owner of sockets and a worker, each with a layer object on the same server."""

    def __init__(self, **settings: Any) -> None:
        server = MemoryServer()
        self.owner = AwayLayer(server, **{"expiry": EXPIRY, **settings})
        self.worker = AwayLayer(server, **{"expiry": EXPIRY, **settings})
        configuration.configure(self.worker)
        self.ran: list[str] = []
        self.act: Callable[[Message], None] = lambda message: None
        entries = [route(channel, self._consume) for channel in (CONNECT, RECEIVE, DISCONNECT)]
        self.dispatch = LayerDispatch(Router(entries), self.owner, PATIENCE)
        self.turns = WorkerTurns(Dispatch(Router(entries), self.worker), self.worker)
        self.name = self.owner.new_channel("websocket.send")
        self.replies: list[Content] = []
        self.owner.attach(self.name, self._reply)
        bound = self.dispatch.bind(self.content())
        assert bound is not None
        self.consumers: LayerConsumers = bound

    def _consume(self, message: Message) -> None:
        self.ran.append(message.channel_name)
        self.act(message)

    def _reply(self, delivery: Delivery) -> None:
        self.replies.append(delivery.content)

    def content(self, **more: Any) -> Content:
        return {"reply_channel": self.name, "path": "/", "order": 0, **more}

    def work(self, channel: str, timeout: float = DEADLINE) -> None:
        """As a worker does: take one message, and run its consumer."""
        taken = self.worker.receive([channel], timeout)
        assert taken is not None, f"nothing on {channel}"
        self.turns.run(*taken)

    def beside(self, function: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=function)
        thread.start()
        return thread

    def settled(self) -> bool:
        return not self.dispatch.postponed and not self.dispatch._turns


@pytest.fixture
def pair() -> Iterator[Pair]:
    configuration.reset()
    yield Pair()
    configuration.reset()


def connect(pair: Pair) -> None:
    worker = pair.beside(lambda: pair.work(CONNECT))
    pair.consumers.connect(pair.content())
    worker.join(DEADLINE)


def test_one_message_is_with_the_workers_at_a_time(pair: Pair) -> None:
    connect(pair)
    owner = pair.beside(lambda: pair.consumers.receive(pair.content(text="one")))
    pair.work(RECEIVE)
    owner.join(DEADLINE)
    pair.consumers.disconnect(pair.content(code=1000))
    pair.work(DISCONNECT)
    assert pair.ran == [CONNECT, RECEIVE, DISCONNECT]
    assert pair.dispatch.counters.turns == 2
    assert pair.settled()


def test_what_the_connect_consumer_says_is_marked_and_nothing_else(pair: Pair) -> None:
    pair.act = lambda message: message.reply_channel.send({"text": message.channel_name})  # type: ignore[union-attr]
    connect(pair)
    owner = pair.beside(lambda: pair.consumers.receive(pair.content(text="one")))
    pair.work(RECEIVE)
    owner.join(DEADLINE)
    assert pair.replies == [{"text": CONNECT, DECIDES_KEY: True}, {"text": RECEIVE}]


def test_a_connect_consumer_that_runs_too_late_is_followed_by_its_disconnect(pair: Pair) -> None:
    with pytest.raises(WorkersUnavailable, match=r"no worker took a message on websocket\.connect within 1 s"):
        pair.consumers.connect(pair.content())
    pair.consumers.end()
    pair.work(CONNECT)
    pair.work(DISCONNECT)
    assert pair.ran == [CONNECT, DISCONNECT]
    assert pair.dispatch.counters.silent == 1
    assert pair.settled()


def test_a_connect_consumer_that_refuses_too_late_is_followed_by_nothing(pair: Pair) -> None:
    def deny(message: Message) -> None:
        raise DenyConnection

    pair.act = deny
    with pytest.raises(WorkersUnavailable):
        pair.consumers.connect(pair.content())
    pair.consumers.end()
    pair.work(CONNECT)
    until(pair.settled, "the end of the turn")
    assert pair.worker.receive([DISCONNECT], 0) is None


def test_a_connect_message_that_nobody_takes_leaves_nothing() -> None:
    configuration.reset()
    pair = Pair(expiry=0.2)
    with pytest.raises(WorkersUnavailable):
        pair.consumers.connect(pair.content())
    pair.consumers.end()
    until(pair.settled, "the message's expiry")
    assert pair.worker.receive([CONNECT, DISCONNECT], 0) is None
    configuration.reset()


def test_a_disconnect_waits_for_the_message_before_it(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    connect(pair)
    pair.consumers.receive(pair.content(text="one"))
    assert pair.replies == [{"close": 1013}]
    assert "closing the WebSocket at / with 1013: no worker took a message on websocket.receive" in caplog.text
    # What came behind it is dropped.
    pair.consumers.receive(pair.content(text="two"))
    pair.consumers.disconnect(pair.content(code=1013))
    assert pair.worker.receive([DISCONNECT], 0) is None
    pair.work(RECEIVE)
    pair.work(DISCONNECT)
    assert pair.ran == [CONNECT, RECEIVE, DISCONNECT]
    counters = pair.dispatch.counters
    assert (counters.silent, counters.dropped, counters.postponed, counters.lost) == (1, 1, 1, 0)


def test_a_turn_in_hand_is_waited_for_while_it_is_announced(pair: Pair) -> None:
    connect(pair)
    announced = threading.Event()

    def act(message: Message) -> None:
        # For longer than it would be waited for in silence.
        for _ in range(8):
            pair.turns.announce()
            announced.wait(PATIENCE / 4)

    pair.act = act
    worker = pair.beside(lambda: pair.work(RECEIVE))
    pair.consumers.receive(pair.content(text="one"))
    worker.join(DEADLINE)
    assert pair.replies == []
    assert pair.dispatch.counters.silent == 0


def test_a_worker_that_falls_silent_closes_with_1011(pair: Pair) -> None:
    connect(pair)
    gone = threading.Event()

    def act(message: Message) -> None:
        pair.turns.announce()
        gone.wait(DEADLINE)

    pair.act = act
    worker = pair.beside(lambda: pair.work(RECEIVE))
    pair.consumers.receive(pair.content(text="one"))
    assert pair.replies == [{"close": 1011}]
    gone.set()
    worker.join(DEADLINE)


def test_a_full_channel_is_waited_for_and_then_closes_with_1013(caplog: pytest.LogCaptureFixture) -> None:
    configuration.reset()
    pair = Pair(channel_capacity={RECEIVE: 1})
    connect(pair)
    pair.worker.send(RECEIVE, {"text": "somebody else's"})
    pair.consumers.receive(pair.content(text="one"))
    assert pair.replies == [{"close": 1013}]
    assert "the workers do not keep up: channel 'websocket.receive' holds 1 messages" in caplog.text
    counters = pair.dispatch.counters
    assert counters.full > 2
    assert (counters.too_busy, counters.silent) == (1, 0)
    # It was never sent, so nothing need be waited for.
    pair.consumers.disconnect(pair.content(code=1013))
    pair.work(DISCONNECT)
    assert pair.ran == [CONNECT, DISCONNECT]
    configuration.reset()


def test_a_layer_that_is_away_closes_with_1013(pair: Pair) -> None:
    connect(pair)
    pair.owner.away = 1
    pair.consumers.receive(pair.content(text="one"))
    assert pair.replies == [{"close": 1013}]
    assert pair.dispatch.counters.unavailable == 1


def test_a_disconnect_waits_for_a_layer_that_is_away(pair: Pair) -> None:
    connect(pair)
    pair.owner.away = 3
    pair.consumers.disconnect(pair.content(code=1001))
    pair.work(DISCONNECT)
    assert pair.ran == [CONNECT, DISCONNECT]
    until(pair.settled, "the end of what was postponed")
    assert pair.dispatch.counters.postponed == 1


def test_a_disconnect_is_given_up_in_time_however_many_wait(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offload.consumers.postponed.KEEP_SECONDS", 0.0)
    connect(pair)
    pair.owner.away = 1000
    for _ in range(3):
        pair.consumers.disconnect(pair.content(code=1001))
    until(lambda: pair.dispatch.counters.lost == 3, "the end of their time")
    # None of them was tried again, which may take as long as the layer's timeout each time.
    assert pair.owner.away == 997
    until(pair.settled, "the end of what was postponed")


def test_a_disconnect_waits_for_a_worker_that_could_not_be_heard_while_the_layer_was_away(pair: Pair) -> None:
    connect(pair)
    gone = threading.Event()

    def act(message: Message) -> None:
        if message.channel_name == RECEIVE:
            pair.turns.announce()
            gone.wait(DEADLINE)

    pair.act = act
    worker = pair.beside(lambda: pair.work(RECEIVE))
    pair.consumers.receive(pair.content(text="one"))
    assert pair.replies == [{"close": 1011}]
    pair.owner.away = 1
    pair.consumers.disconnect(pair.content(code=1011))
    until(lambda: not pair.owner.away, "a try that finds the layer away")
    # For longer than until the next look, but not for as long as a worker may be silent.
    assert pair.worker.receive([DISCONNECT], 2 * LOOK_SECONDS) is None
    pair.turns.announce()
    gone.set()
    worker.join(DEADLINE)
    pair.work(DISCONNECT)
    assert pair.ran == [CONNECT, RECEIVE, DISCONNECT]
    until(pair.settled, "the end of what was postponed")


def test_what_follows_a_connect_consumer_that_may_run_yet_is_dropped(pair: Pair) -> None:
    with pytest.raises(WorkersUnavailable):
        pair.consumers.connect(pair.content())
    # As after an acceptance by hand: the gateway closes, and what the client had sent comes all the same.
    pair.consumers.receive(pair.content(text="one"))
    pair.consumers.disconnect(pair.content(code=1013))
    assert pair.worker.receive([RECEIVE], 0) is None
    assert pair.dispatch.counters.dropped == 1
    pair.work(CONNECT)
    pair.work(DISCONNECT)
    assert pair.ran == [CONNECT, DISCONNECT]


@pytest.mark.parametrize("when", ["sending", "waiting"])
def test_nothing_overtakes_a_message_whose_wait_was_ended_by_force(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    def interrupt(turn: Turn, patience: float) -> bool:
        raise KeyboardInterrupt

    connect(pair)
    if when == "sending":
        pair.owner.interrupted = 1
    else:
        monkeypatch.setattr(Turn, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pair.consumers.receive(pair.content(text="one"))
    assert pair.replies == [{"close": 1011}]
    assert "with 1011: the wait for its consumer was ended by KeyboardInterrupt()" in caplog.text
    pair.consumers.receive(pair.content(text="two"))
    pair.consumers.disconnect(pair.content(code=1011))
    assert pair.worker.receive([DISCONNECT], 0) is None
    pair.work(RECEIVE)
    pair.work(DISCONNECT)
    assert pair.ran == [CONNECT, RECEIVE, DISCONNECT]
    until(pair.settled, "the end of what was postponed")


def soon() -> float:
    return time.monotonic() + DEADLINE


def test_a_process_that_ends_sends_what_was_postponed(pair: Pair) -> None:
    connect(pair)
    pair.consumers.receive(pair.content(text="one"))
    pair.consumers.disconnect(pair.content(code=1001))
    pair.dispatch.stop(soon())
    pair.work(DISCONNECT)
    assert pair.dispatch.counters.lost == 0


def test_a_process_that_ends_says_what_is_lost(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    connect(pair)
    pair.owner.away = 1000
    for _ in range(2):
        pair.consumers.disconnect(pair.content(code=1001))
    pair.dispatch.stop(soon())
    assert pair.dispatch.counters.lost == 2
    assert caplog.text.count("the disconnect consumer for / does not run: layer 'memory' is away") == 2
    # Of one that comes later, too.
    pair.consumers.disconnect(pair.content(code=1001))
    assert pair.dispatch.counters.lost == 3
    assert "the disconnect consumer for / does not run: the process has ended" in caplog.text


def test_a_process_that_ends_waits_for_places_on_a_full_channel() -> None:
    configuration.reset()
    pair = Pair(channel_capacity={DISCONNECT: 1})
    connect(pair)
    for _ in range(5):
        pair.consumers.disconnect(pair.content(code=1001))
    assert pair.dispatch.counters.postponed == 4
    owner = pair.beside(lambda: pair.dispatch.stop(soon()))
    for _ in range(5):
        pair.work(DISCONNECT)
    owner.join(DEADLINE)
    assert pair.ran == [CONNECT, *[DISCONNECT] * 5]
    assert pair.dispatch.counters.lost == 0
    assert pair.settled()
    configuration.reset()


def test_a_process_that_ends_waits_for_a_place_for_as_long_as_it_may(caplog: pytest.LogCaptureFixture) -> None:
    configuration.reset()
    pair = Pair(channel_capacity={DISCONNECT: 1})
    connect(pair)
    for _ in range(3):
        pair.consumers.disconnect(pair.content(code=1001))
    pair.dispatch.stop(time.monotonic() + 0.1)
    assert pair.dispatch.counters.lost == 2
    assert caplog.text.count("does not run: channel 'websocket.disconnect' holds 1 messages") == 2
    configuration.reset()


def test_a_message_that_cannot_be_sent_does_not_keep_the_others(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    connect(pair)
    postponed = pair.dispatch.postponed
    postponed.add(pair.content(code=1001, more="x" * pair.owner.settings.max_size), None)
    postponed.add(pair.content(code=1001), None)
    pair.dispatch.stop(soon())
    pair.work(DISCONNECT)
    assert pair.dispatch.counters.lost == 1
    assert "the disconnect consumer for / does not run: message" in caplog.text


@pytest.mark.parametrize("answers", [True, False])
def test_a_message_that_is_being_sent_when_the_process_ends_is_waited_for(
    pair: Pair, caplog: pytest.LogCaptureFixture, answers: bool
) -> None:
    connect(pair)
    pair.owner.away = 1
    pair.consumers.disconnect(pair.content(code=1001))
    pair.owner.gate = gate = threading.Event()
    assert pair.owner.waits.wait(DEADLINE)
    owner = pair.beside(lambda: pair.dispatch.stop(soon() if answers else time.monotonic()))
    if answers:
        gate.set()
    owner.join(DEADLINE)
    assert not owner.is_alive()
    lost = "the disconnect consumer for / does not run: the process ends before the layer has answered"
    assert caplog.text.count(lost) == pair.dispatch.counters.lost == (0 if answers else 1)
    gate.set()
    pair.work(DISCONNECT)


def test_a_report_that_gets_lost_is_repeated(pair: Pair) -> None:
    connect(pair)
    pair.worker.unheard = 1

    def work() -> None:
        pair.work(RECEIVE)
        pair.turns.announce()

    worker = pair.beside(work)
    pair.consumers.receive(pair.content(text="one"))
    worker.join(DEADLINE)
    assert pair.replies == []
    assert pair.dispatch.counters.silent == 0
    # And not for ever.
    for _ in range(REPEATS):
        pair.turns.announce()
    sent = pair.worker.statistics()["sent"]
    pair.turns.announce()
    assert pair.worker.statistics()["sent"] == sent


def test_a_round_of_announcements_that_finds_the_layer_away_does_not_count(pair: Pair) -> None:
    connect(pair)
    pair.worker.away = REPEATS
    for _ in range(REPEATS):
        pair.turns.announce()
    sent = pair.worker.statistics()["sent"]
    for _ in range(REPEATS + 1):
        pair.turns.announce()
    assert pair.worker.statistics()["sent"] == sent + REPEATS


def test_a_bounded_number_of_reports_is_repeated(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offload.consumers.worker_turns.MOST_REPEATED", 2)
    heard: list[Content] = []
    reports = pair.owner.new_channel("reports")
    pair.owner.attach(reports, lambda delivery: heard.append(delivery.content))
    for number in range(4):
        pair.turns.run(RECEIVE, pair.content(text="one", __turn__=number, __reports__=reports))
    heard.clear()
    pair.turns.announce()
    assert heard == [{"running": [], "ended": [[2, "ran", False], [3, "ran", False]]}]


def test_a_report_is_tried_again_while_the_layer_is_away(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offload.consumers.worker_turns.REPORT_PAUSE_SECONDS", 0.01)
    pair.worker.away = 3
    connect(pair)
    assert pair.worker.away == 0
    assert pair.ran == [CONNECT]


def test_the_session_of_a_refused_handshake_is_dropped(pair: Pair) -> None:
    @channel_session
    def keep_and_deny(message: Message) -> None:
        message.channel_session["kept"] = True
        raise DenyConnection

    pair.act = keep_and_deny
    with pytest.raises(DenyConnection):
        connect(pair)
    assert dict(ChannelSession(pair.worker, pair.name)) == {"kept": True}
    pair.consumers.end()
    assert dict(ChannelSession(pair.worker, pair.name)) == {}


def test_a_failed_connect_consumer_is_told_on_both_sides(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    def fail(message: Message) -> None:
        raise ValueError("as wanted")

    pair.act = fail
    with pytest.raises(OffloadError, match="the connect consumer failed"):
        connect(pair)
    assert "ValueError: as wanted" in caplog.text
    assert "the connect consumer for / failed; the worker's log has its traceback" in caplog.text


def test_a_layer_that_a_connect_consumer_cannot_reach_is_unavailable(pair: Pair) -> None:
    def fail(message: Message) -> None:
        raise LayerUnavailable("away")

    pair.act = fail
    with pytest.raises(LayerUnavailable, match="the connect consumer could not reach the layer"):
        connect(pair)


def test_messages_that_no_owner_sent_are_run_or_dropped(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    pair.turns.run(RECEIVE, pair.content(text="by hand"))
    assert pair.ran == [RECEIVE]
    pair.turns.run(RECEIVE, {"text": "from nobody"})
    assert "a message on websocket.receive is dropped: it has no reply_channel or no path" in caplog.text

    def announce(message: Message) -> None:
        pair.turns.announce()
        assert sorted(message) == ["order", "path", "reply_channel", "text"]

    pair.act = announce
    pair.turns.run(RECEIVE, pair.content(text="wrong", __turn__=1, __reports__="no name!", __latency__="x"))
    assert "nobody hears at 'no name!'" in caplog.text
    assert "the owner of a socket cannot be told that its consumer has run" in caplog.text
    assert pair.ran == [RECEIVE, RECEIVE]


def test_a_worker_without_the_route_refuses_and_says_so(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.turns = WorkerTurns(
        Dispatch(Router([route(CONNECT, pair._consume, path="^/else$")]), pair.worker), pair.worker
    )
    with pytest.raises(DenyConnection):
        connect(pair)
    assert "no WebSocket route matches '/' here, so it is refused" in caplog.text


def test_a_routing_by_names_imports_no_consumer() -> None:
    router = Router(
        [
            route(CONNECT, "nowhere.to.be.found", path="^/a$"),
            route_class("nowhere.Class", path="^/b$"),
            route("jobs", "nowhere.job"),
        ],
        imports=False,
    )
    assert router.accepts_websocket({"path": "/a"})
    assert router.accepts_websocket({"path": "/b"})
    assert not router.accepts_websocket({"path": "/c"})
    found = router.match("jobs", {})
    assert found is not None
    with pytest.raises(OffloadError, match=r"'nowhere\.job' is not imported here; it runs in workers"):
        found[0](None)
    with pytest.raises(ConfigurationError, match=r"write it as package\.module\.name"):
        Router([route("jobs", "job")], imports=False)
    with pytest.raises(ConfigurationError, match="there is no module 'nowhere'"):
        Router([route("jobs", "nowhere.job")])


def test_a_deciding_channel_is_stored_as_a_plain_one(pair: Pair) -> None:
    import pickle

    pair.act = lambda message: pair.ran.append(type(pickle.loads(pickle.dumps(message.reply_channel))).__name__)
    connect(pair)
    assert pair.ran == [CONNECT, Channel.__name__]

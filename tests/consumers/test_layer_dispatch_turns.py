"""The dispatch through a layer, both sides in one process: late reports, counters, sessions, foreign messages."""

from __future__ import annotations

import logging
import threading

import pytest

from offload import Channel, DenyConnection, Message, route, route_class
from offload.consumers import configuration
from offload.consumers.dispatch import Dispatch
from offload.consumers.routing import CONNECT, DISCONNECT, RECEIVE, Router
from offload.consumers.sessions import ChannelSession, channel_session
from offload.consumers.worker_turns import REPEATS, WorkerTurns
from offload.exceptions import ConfigurationError, LayerUnavailable, OffloadError, WorkersUnavailable
from offload.interfaces import DECIDES_KEY, Content
from tests.consumers.pair import PATIENCE, Pair, connect
from tests.redis_server import until
from tests.serving import DEADLINE


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

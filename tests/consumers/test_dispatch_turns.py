"""The dispatch through a layer, both sides in one process: late reports, counters, sessions, foreign messages."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from offload import Channel, DenyConnection, Message, route, route_class
from offload.consumers import configuration
from offload.consumers.dispatch.local import Dispatch
from offload.consumers.dispatch.remote_worker import REPEATS, WorkerTurns
from offload.consumers.routing import CONNECT, DISCONNECT, RECEIVE, Router
from offload.consumers.sessions import ChannelSession, channel_session
from offload.exceptions import ConfigurationError, LayerUnavailable, OffloadError, WorkersUnavailable
from offload.interfaces import DECIDES_KEY, Content
from tests.consumers.pair import PATIENCE, Pair, connect
from tests.redis_server import until
from tests.serving import DEADLINE


def connect_late(pair: Pair) -> None:
    """The connect consumer runs when its client has been answered 503."""
    with pytest.raises(WorkersUnavailable):
        pair.consumers.connect(pair.content())
    pair.consumers.end()
    pair.work(CONNECT)
    until(pair.settled, "the end of the turn")


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
    connect_late(pair)
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


def test_many_that_wait_for_a_full_channel_try_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(capacity=5)
    pair.dispatch.patience = DEADLINE
    send, tried = pair.owner.send, []

    def note_and_send(channel: str, content: Content) -> None:
        tried.append(content["n"])
        send(channel, content)

    monkeypatch.setattr(pair.owner, "send", note_and_send)
    threads = [
        pair.beside(lambda number=number: pair.dispatch.send_patiently("jobs", {"n": number}))  # type: ignore[misc]
        for number in range(100)
    ]
    until(lambda: pair.dispatch.counters.full >= 95, "all of them to have met the full channel")
    tried.clear()
    until(lambda: len(tried) >= 20, "those who try now and then")
    assert len(set(tried)) <= 8, "four, and those that were about to"
    for _ in threads:
        assert pair.worker.receive(["jobs"], DEADLINE) is not None
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert pair.worker.receive(["jobs"], 0) is None


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


def listen(pair: Pair) -> tuple[str, list[Content]]:
    """Another owner's channel for reports, and what comes there."""
    heard: list[Content] = []
    reports = pair.owner.new_channel("reports")
    pair.owner.attach(reports, lambda delivery: heard.append(delivery.content))
    return reports, heard


def ended(heard: list[Content]) -> list[int]:
    """The turns that were said to have ended, and empties what was heard."""
    numbers = [number for content in heard for _, _, some in content.get("ended", ()) for number in some]
    heard.clear()
    return numbers


def test_all_that_ended_is_repeated_in_parts(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offload.consumers.dispatch.remote_worker.MOST_TURNS", 3)
    reports, heard = listen(pair)

    def run(numbers: range) -> None:
        for number in numbers:
            pair.turns.run(RECEIVE, pair.content(text="one", __turn__=number, __reports__=reports))
        heard.clear()

    run(range(4))
    pair.turns.announce()
    assert heard == [
        {"running": [], "ended": [["ran", False, [0, 1, 2]]]},
        {"running": [], "ended": [["ran", False, [3]]]},
    ]
    run(range(4, 6))
    pair.turns.announce()
    assert ended(heard) == [0, 1, 2, 3, 4, 5]
    pair.turns.announce()
    assert ended(heard) == [0, 1, 2, 3, 4, 5]
    pair.turns.announce()
    assert ended(heard) == [4, 5]
    pair.turns.announce()
    assert heard == []


def test_the_end_of_disconnect_consumers_is_announced_together(pair: Pair) -> None:
    reports, heard = listen(pair)
    for number in range(1000):
        pair.turns.run(DISCONNECT, pair.content(code=1001, __turn__=number, __reports__=reports))
    # Nobody waits for it, so there is no report for each.
    assert heard == []
    pair.turns.announce()
    assert heard == [{"running": [], "ended": [["ran", False, list(range(1000))]]}]


def test_what_waits_to_be_told_to_an_owner_out_of_reach_is_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offload.consumers.dispatch.remote_worker.MOST_UNTOLD", 3)
    reports, heard = listen(pair)
    pair.worker.away = 1
    for number in range(5):
        pair.turns.run(DISCONNECT, pair.content(code=1001, __turn__=number, __reports__=reports))
    pair.turns.announce()
    pair.turns.announce()
    assert ended(heard) == [0, 1, 2]
    pair.turns.run(DISCONNECT, pair.content(code=1001, __turn__=5, __reports__=reports))
    pair.turns.announce()
    assert ended(heard) == [0, 1, 2, 5]


def test_a_worker_that_ends_tells_what_has_ended(pair: Pair) -> None:
    reports, heard = listen(pair)
    pair.turns.run(DISCONNECT, pair.content(code=1001, __turn__=1, __reports__=reports))
    pair.turns.finish(time.monotonic() + DEADLINE)
    assert ended(heard) == [1]


def test_a_worker_that_ends_tells_it_again_where_an_owner_may_have_been_connecting_anew(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offload.consumers.dispatch.remote_worker.ANNOUNCE_SECONDS", 0.05)
    reports, heard = listen(pair)
    pair.turns.run(DISCONNECT, pair.content(code=1001, __turn__=1, __reports__=reports))
    pair.turns.failed()
    pair.worker.away = 1
    pair.turns.finish(time.monotonic() + DEADLINE)
    assert ended(heard) == [1] * REPEATS
    # And no longer than it may.
    pair.turns.run(DISCONNECT, pair.content(code=1001, __turn__=2, __reports__=reports))
    pair.turns.failed()
    pair.turns.finish(time.monotonic())
    assert ended(heard) == [2]


def test_a_report_is_tried_again_while_the_layer_is_away(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offload.consumers.dispatch.remote_worker.REPORT_PAUSE_SECONDS", 0.01)
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


@pytest.mark.parametrize("error", [DenyConnection, ValueError])
def test_the_session_of_a_connect_consumer_that_refuses_too_late_is_dropped(pair: Pair, error: type[Exception]) -> None:
    @channel_session
    def keep_and_refuse(message: Message) -> None:
        message.channel_session["kept"] = True
        raise error

    pair.act = keep_and_refuse
    connect_late(pair)
    assert pair.owner.session_load(pair.name) is None
    assert pair.worker.receive([DISCONNECT], 0) is None


def test_the_session_of_a_connect_consumer_that_died_is_dropped() -> None:
    configuration.reset()
    pair = Pair(expiry=0.2)
    with pytest.raises(WorkersUnavailable):
        pair.consumers.connect(pair.content())
    ChannelSession(pair.worker, pair.name).save()
    pair.consumers.end()
    until(pair.settled, "the message's expiry")
    assert pair.owner.session_load(pair.name) is None
    configuration.reset()


def disconnect(pair: Pair) -> None:
    pair.consumers.disconnect(pair.content(code=1000))
    pair.work(DISCONNECT)


@pytest.mark.parametrize("channel", [CONNECT, RECEIVE, DISCONNECT])
def test_a_session_that_its_consumer_saved_ends_with_the_connection(pair: Pair, channel: str) -> None:
    @channel_session
    def save(message: Message) -> None:
        if message.channel_name == channel:
            message.channel_session["kept"] = True
            message.channel_session.save()

    pair.act = save
    connect(pair)
    worker = pair.beside(lambda: pair.work(RECEIVE))
    pair.consumers.receive(pair.content(text="one"))
    worker.join(DEADLINE)
    disconnect(pair)
    assert pair.ran == [CONNECT, RECEIVE, DISCONNECT]
    assert pair.owner.session_load(pair.name) is None


def test_a_session_that_another_process_saved_ends_with_a_connection_that_uses_it(pair: Pair) -> None:
    @channel_session
    def use(message: Message) -> None: ...

    pair.act = use
    connect(pair)
    pair.act = lambda message: None
    ChannelSession(pair.owner, pair.name).save()
    disconnect(pair)
    assert pair.owner.session_load(pair.name) is None


def test_a_connection_without_session_costs_no_command_at_its_end(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[str] = []
    monkeypatch.setattr(pair.worker, "session_delete", deleted.append)
    connect(pair)
    disconnect(pair)
    assert (pair.ran, deleted) == ([CONNECT, DISCONNECT], [])


def test_a_session_that_a_dead_worker_saved_ends_with_the_connection(pair: Pair) -> None:
    connect(pair)
    gone = threading.Event()

    @channel_session
    def save_and_stay_silent(message: Message) -> None:
        if message.channel_name == RECEIVE:
            message.channel_session["kept"] = True
            message.channel_session.save()
            pair.turns.announce()
            gone.wait(DEADLINE)

    pair.act = save_and_stay_silent
    worker = pair.beside(lambda: pair.work(RECEIVE))
    pair.consumers.receive(pair.content(text="one"))
    assert pair.owner.session_load(pair.name) == {"kept": True}
    pair.act = lambda message: None
    disconnect(pair)
    assert pair.owner.session_load(pair.name) is None
    gone.set()
    worker.join(DEADLINE)


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
    pair.turns = WorkerTurns(Dispatch(Router([route(CONNECT, pair.consume, path="^/else$")]), pair.worker), pair.worker)
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
    found = router.find("jobs", {})
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

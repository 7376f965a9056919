"""The dispatch through a layer that goes away: nothing is sent twice, and its outage costs nobody the connection."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from offload import Message
from offload.consumers import configuration
from offload.consumers.dispatch import last_outage as outage
from offload.consumers.dispatch.last_outage import Outage
from offload.consumers.routing import CONNECT, DISCONNECT, RECEIVE
from offload.exceptions import LayerUnreachable, WorkersUnavailable
from tests.consumers.pair import PATIENCE, AwayLayer, Pair, connect
from tests.redis_server import until
from tests.serving import DEADLINE


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the layer is there is asked often."""
    monkeypatch.setattr(outage, "ASK_SECONDS", 0.05)


def test_a_message_waits_for_a_layer_that_is_away(pair: Pair) -> None:
    connect(pair)
    pair.owner.away = 4
    worker = pair.beside(lambda: pair.work(RECEIVE))
    pair.consumers.receive(pair.content(text="one"))
    worker.join(DEADLINE)
    assert pair.ran == [CONNECT, RECEIVE]
    assert pair.replies == []
    counters = pair.dispatch.counters
    assert (counters.unreachable, counters.unavailable, counters.in_doubt) == (4, 0, 0)


def test_a_layer_that_stays_away_closes_with_1013(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    connect(pair)
    pair.owner.away = 1_000_000
    started = time.monotonic()
    pair.consumers.receive(pair.content(text="one"))
    assert PATIENCE / 2 < time.monotonic() - started < PATIENCE + 1
    assert pair.replies == [{"close": 1013}]
    assert "closing the WebSocket at / with 1013: layer 'memory' is away" in caplog.text
    assert pair.dispatch.counters.unavailable == 1
    # It was certainly not sent, so nothing need be waited for but the layer.
    pair.owner.away = 0
    pair.consumers.disconnect(pair.content(code=1013))
    pair.work(DISCONNECT)
    assert pair.ran == [CONNECT, DISCONNECT]


def test_a_layer_that_stays_away_refuses_the_handshake(pair: Pair) -> None:
    pair.owner.away = 1_000_000
    with pytest.raises(LayerUnreachable):
        pair.consumers.connect(pair.content())
    pair.consumers.end()
    assert pair.settled()


@pytest.mark.parametrize("channel", [CONNECT, RECEIVE])
def test_a_message_that_may_have_been_sent_is_not_sent_again(pair: Pair, channel: str) -> None:
    if channel == RECEIVE:
        connect(pair)
    pair.owner.in_doubt = 1
    worker = pair.beside(lambda: pair.work(channel))
    content = pair.content(text="one")
    (pair.consumers.receive if channel == RECEIVE else pair.consumers.connect)(content)
    worker.join(DEADLINE)
    assert pair.ran[-1] == channel
    assert pair.ran.count(channel) == 1
    assert pair.worker.receive([channel], 0) is None
    assert pair.replies == []
    assert pair.settled()
    assert (pair.dispatch.counters.in_doubt, pair.dispatch.counters.silent) == (1, 0)


def test_a_message_that_was_not_sent_closes_with_1013_and_the_log_says_why(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    connect(pair)
    pair.owner.in_doubt, pair.owner.swallows = 1, True
    pair.consumers.receive(pair.content(text="one"))
    assert pair.replies == [{"close": 1013}]
    assert (
        "closing the WebSocket at / with 1013: the layer failed as its message was sent, and no worker has said within "
        "1 s that it came (--dispatch-timeout): layer 'memory' has failed" in caplog.text
    )


def test_a_connect_message_that_was_not_sent_is_answered_in_time(pair: Pair) -> None:
    pair.owner.in_doubt, pair.owner.swallows = 1, True
    with pytest.raises(WorkersUnavailable, match="the layer failed as its message was sent"):
        pair.consumers.connect(pair.content())


def test_the_outage_of_the_layer_costs_no_patience(pair: Pair) -> None:
    connect(pair)
    pair.owner.absent = True
    ended = threading.Event()

    def receive() -> None:
        pair.consumers.receive(pair.content(text="one"))
        ended.set()

    owner = pair.beside(receive)
    # For longer than it would wait, were the layer there: nobody can be heard meanwhile.
    assert not ended.wait(2.5 * PATIENCE)
    pair.owner.absent = False
    pair.work(RECEIVE)
    owner.join(DEADLINE)
    assert pair.replies == []
    assert pair.ran == [CONNECT, RECEIVE]


def test_the_outage_of_the_layer_is_waited_for_no_longer_than_a_message_can_last() -> None:
    configuration.reset()
    pair = Pair(expiry=0.5)
    connect(pair)
    pair.owner.absent = True
    started = time.monotonic()
    pair.consumers.receive(pair.content(text="one"))
    assert 0.5 + PATIENCE <= time.monotonic() - started < 0.5 + PATIENCE + 1
    assert pair.replies == [{"close": 1013}]
    pair.owner.absent = False
    configuration.reset()


def test_a_layer_that_does_not_answer_counts_as_away_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "LONG_SECONDS", 0.0)
    asked, answers = threading.Event(), threading.Event()

    class Frozen(AwayLayer):
        def check(self) -> None:
            asked.set()
            answers.wait(DEADLINE)

    pair = Pair()
    awaited = [True]
    seen = Outage(Frozen(pair.server), lambda: awaited[0])
    assert not seen.is_likely
    assert seen.until < 0
    seen.watch()
    assert asked.wait(DEADLINE)
    assert seen.is_likely
    assert time.monotonic() - seen.until < DEADLINE
    answers.set()
    until(lambda: not seen.is_likely, "the answer")
    ended = seen.until
    assert time.monotonic() - ended < DEADLINE
    # It is asked no longer than somebody waits.
    awaited[0] = False
    until(lambda: not seen.is_watching, "the end of the asking")
    seen.found()
    until(lambda: not seen.is_likely, "that it is there")
    assert seen.until > ended
    seen.stop()
    configuration.reset()


# Disconnect messages.


def test_a_disconnect_that_may_have_been_sent_runs_once(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    connect(pair)
    pair.owner.in_doubt = 1
    pair.consumers.disconnect(pair.content(code=1001))
    assert "it is unknown whether the disconnect message for / was sent: layer 'memory' has failed" in caplog.text
    pair.work(DISCONNECT)
    pair.turns.announce()
    until(pair.settled, "the end of what was postponed")
    assert pair.worker.receive([DISCONNECT], 0) is None
    assert pair.ran == [CONNECT, DISCONNECT]
    counters = pair.dispatch.counters
    assert (counters.in_doubt, counters.postponed, counters.lost) == (1, 1, 0)


@pytest.fixture
def brief() -> Pair:
    """A pair whose messages do not last."""
    configuration.reset()
    return Pair(expiry=0.3)


def test_a_disconnect_that_was_not_sent_is_sent_when_nobody_can_have_it(brief: Pair) -> None:
    connect(brief)
    brief.owner.in_doubt, brief.owner.swallows = 1, True
    started = time.monotonic()
    brief.consumers.disconnect(brief.content(code=1001))
    brief.work(DISCONNECT)
    assert time.monotonic() - started >= 0.3 + PATIENCE
    until(brief.settled, "the end of what was postponed")
    assert brief.ran == [CONNECT, DISCONNECT]
    configuration.reset()


def test_the_outage_of_the_layer_is_no_sign_that_nobody_has_a_disconnect(brief: Pair) -> None:
    connect(brief)
    brief.owner.in_doubt = 1
    brief.consumers.disconnect(brief.content(code=1001))
    brief.owner.absent = True
    brief.work(DISCONNECT)
    assert brief.worker.receive([DISCONNECT], 2 * (0.3 + PATIENCE)) is None
    brief.owner.absent = False
    brief.turns.announce()
    until(brief.settled, "the end of what was postponed")
    assert brief.ran == [CONNECT, DISCONNECT]
    configuration.reset()


def test_a_disconnect_that_takes_long_is_waited_for(brief: Pair) -> None:
    connect(brief)
    brief.owner.in_doubt = 1
    brief.consumers.disconnect(brief.content(code=1001))

    def act(message: Message) -> None:
        for _ in range(8):
            brief.turns.announce()
            assert brief.worker.receive([DISCONNECT], PATIENCE / 4) is None

    brief.act = act
    brief.work(DISCONNECT)
    brief.turns.announce()
    until(brief.settled, "the end of what was postponed")
    assert brief.ran == [CONNECT, DISCONNECT]
    configuration.reset()


def test_a_disconnect_whose_worker_was_killed_is_lost_and_not_run_again(
    brief: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    connect(brief)
    brief.owner.in_doubt = 1
    brief.consumers.disconnect(brief.content(code=1001))

    def die(message: Message) -> None:
        brief.turns.announce()
        raise SystemExit

    brief.act = die
    with pytest.raises(SystemExit):
        brief.work(DISCONNECT)
    # It announces nothing more.
    until(lambda: brief.dispatch.counters.lost == 1, "the end of its time")
    assert brief.settled()
    assert "the disconnect consumer for / may not have run: the worker that ran it is gone" in caplog.text
    assert brief.worker.receive([DISCONNECT], 0) is None
    configuration.reset()


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_process_that_ends_waits_for_word_of_a_disconnect_in_doubt(
    pair: Pair, caplog: pytest.LogCaptureFixture, is_heard: bool
) -> None:
    connect(pair)
    pair.owner.in_doubt = 2
    pair.consumers.disconnect(pair.content(code=1001))
    # Another fails as the process ends.
    pair.dispatch.postponed.add(pair.content(code=1001), None)

    def work() -> None:
        for _ in range(2):
            pair.work(DISCONNECT)
        pair.turns.announce()

    worker = pair.beside(work) if is_heard else None
    pair.dispatch.stop(time.monotonic() + DEADLINE)
    assert pair.dispatch.counters.lost == (0 if is_heard else 2)
    lost = "the disconnect consumer for / may not have run: the process ends before anything was heard of it"
    assert caplog.text.count(lost) == (0 if is_heard else 2)
    if worker is not None:
        worker.join(DEADLINE)
    else:
        work()
    assert pair.ran == [CONNECT, DISCONNECT, DISCONNECT]
    assert pair.settled()


@pytest.mark.parametrize("is_taken", [True, False])
def test_a_disconnect_that_gets_lost_on_its_way_is_counted(
    brief: Pair, caplog: pytest.LogCaptureFixture, is_taken: bool
) -> None:
    connect(brief)
    for _ in range(2):
        brief.consumers.disconnect(brief.content(code=1001))
    brief.work(DISCONNECT)
    brief.turns.announce()

    def die(message: Message) -> None:
        brief.turns.announce()
        raise SystemExit

    if is_taken:
        brief.act = die
        with pytest.raises(SystemExit):
            brief.work(DISCONNECT)
    else:
        brief.worker.flush()
    until(lambda: brief.dispatch.counters.lost == 1, "the end of its time")
    why = "the worker that ran it is gone" if is_taken else "no worker has said that it ran"
    assert f"the disconnect consumer for / may not have run: {why}" in caplog.text
    # Nothing is waited for any more.
    until(lambda: not brief.dispatch.outage.is_watching, "the end of the asking")
    assert brief.dispatch.is_idle
    assert brief.dispatch.counters.lost == 1
    configuration.reset()


# What an operator sees.


def test_what_was_given_up_is_summed_up_once_in_a_while(
    pair: Pair, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("offload.consumers.dispatch.remote_owner.TELL_SECONDS", 0.3)
    counters = pair.dispatch.counters

    def sums() -> list[str]:
        said = "messages for workers given up, or postponed, within 0.3 s: "
        return [text.partition(said)[2] for text in caplog.messages if said in text]

    for _ in range(3):
        counters.give_up("silent")
    counters.give_up("lost")
    for _ in range(3):
        counters.postpone("/", "it is full")
    until(lambda: sums() == ["silent 3, postponed 3, lost 1"], "the first sum")
    counters.postpone("/other", "it is away")
    counters.give_up("too_busy")
    until(lambda: sums() == ["silent 3, postponed 3, lost 1", "too_busy 1, postponed 1"], "the second sum")
    assert [text for text in caplog.messages if "waits" in text] == [
        "the disconnect message for / waits, as others may: it is full",
        "the disconnect message for /other waits, as others may: it is away",
    ]
    counters.give_up("unavailable")
    pair.dispatch.stop(time.monotonic())
    assert caplog.messages[-1] == (
        "messages for workers: turns 0, full 0, unreachable 0, in_doubt 0, too_busy 1, silent 3, unavailable 1, "
        "dropped 0, postponed 4, lost 1"
    )

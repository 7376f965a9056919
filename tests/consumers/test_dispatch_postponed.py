"""The dispatch through a layer: disconnect messages, which nothing may lose or overtake, also when the process ends."""

from __future__ import annotations

import threading
import time

import pytest

from offload import Message
from offload.consumers import configuration
from offload.consumers.dispatch.postponed import LOOK_SECONDS
from offload.consumers.dispatch.turns import Turn
from offload.consumers.routing import CONNECT, DISCONNECT, RECEIVE
from offload.exceptions import DenyConnection, OffloadError, WorkersUnavailable
from tests.consumers.pair import Pair, connect
from tests.redis_server import until
from tests.serving import DEADLINE


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


def test_a_disconnect_waits_for_a_layer_that_is_away(pair: Pair) -> None:
    connect(pair)
    pair.owner.away = 3
    pair.consumers.disconnect(pair.content(code=1001))
    pair.work(DISCONNECT)
    assert pair.ran == [CONNECT, DISCONNECT]
    until(pair.settled, "the end of what was postponed")
    assert pair.dispatch.counters.postponed == 1


def test_a_disconnect_is_given_up_in_time_however_many_wait(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offload.consumers.dispatch.postponed.KEEP_SECONDS", 0.0)
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
    def interrupt(*arguments: object) -> bool:
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


def test_a_process_that_ends_waits_for_a_layer_that_comes_back(pair: Pair) -> None:
    connect(pair)
    pair.owner.away = 5
    for _ in range(2):
        pair.consumers.disconnect(pair.content(code=1001))
    pair.dispatch.stop(soon())
    for _ in range(2):
        pair.work(DISCONNECT)
    assert pair.dispatch.counters.lost == 0


def test_a_process_that_ends_says_what_is_lost(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    connect(pair)
    pair.owner.away = 1_000_000
    for _ in range(2):
        pair.consumers.disconnect(pair.content(code=1001))
    pair.dispatch.stop(soon())
    assert pair.dispatch.counters.lost == 2
    assert caplog.text.count("the disconnect consumer for / does not run: layer 'memory' is away") == 2
    # Of one that comes later, too.
    pair.consumers.disconnect(pair.content(code=1001))
    assert pair.dispatch.counters.lost == 3
    assert "the disconnect consumer for / does not run: the process has ended" in caplog.text


def test_a_process_that_ends_waits_for_places_on_a_full_channel(caplog: pytest.LogCaptureFixture) -> None:
    configuration.reset()
    pair = Pair(channel_capacity={DISCONNECT: 1})
    connect(pair)
    for _ in range(5):
        pair.consumers.disconnect(pair.content(code=1001))
    counters = pair.dispatch.counters
    assert counters.postponed == 4
    # Each has met it once, and some have again meanwhile.
    assert counters.full >= 4
    # A line for each would be thousands when a server with as many sockets reloads.
    assert caplog.text.count("the disconnect message for / waits, as others may: channel 'websocket.disconnect'") == 1
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


class InHand:
    """A message whose consumer runs, for as long as the test likes, as the process ends."""

    def __init__(self, pair: Pair, channel: str, error: Exception | None = None) -> None:
        self.pair = pair
        self._began, self._gate = threading.Event(), threading.Event()
        self._error = error
        pair.act = self._act
        self.worker = pair.beside(lambda: pair.work(channel))
        self.owner = pair.beside(self._connect if channel == CONNECT else self._receive)
        assert self._began.wait(DEADLINE)

    def _act(self, message: Message) -> None:
        if message.channel_name != DISCONNECT:
            self._began.set()
            self._gate.wait(DEADLINE)
            if self._error is not None:
                raise self._error

    def _connect(self) -> None:
        # As the gateway does.
        try:
            self.pair.consumers.connect(self.pair.content())
        except OffloadError:
            self.pair.consumers.end()
        else:
            self.pair.consumers.disconnect(self.pair.content(code=1006))

    def _receive(self) -> None:
        self.pair.consumers.receive(self.pair.content(text="one", order=4))
        self.pair.consumers.disconnect(self.pair.content(code=1006, order=5))

    def end(self) -> None:
        self._gate.set()
        for thread in (self.worker, self.owner):
            thread.join(DEADLINE)
            assert not thread.is_alive()


def test_a_process_that_ends_sends_the_disconnect_of_a_connection_whose_consumer_runs(pair: Pair) -> None:
    connect(pair)
    in_hand = InHand(pair, RECEIVE)
    pair.dispatch.stop(soon())
    taken = pair.worker.receive([DISCONNECT], DEADLINE)
    assert taken is not None
    assert (taken[1]["order"], taken[1]["code"]) == (5, 1006)
    in_hand.end()
    # Not once more, by the one who waited for that consumer.
    assert pair.worker.receive([DISCONNECT], 0) is None
    assert pair.dispatch.counters.lost == 0


@pytest.mark.parametrize(("error", "disconnects"), [(None, 1), (DenyConnection(), 0), (ValueError(), 0)])
def test_a_process_that_ends_waits_for_what_a_connect_consumer_decides(
    pair: Pair, error: Exception | None, disconnects: int
) -> None:
    pair.dispatch.patience = DEADLINE
    in_hand = InHand(pair, CONNECT, error)
    stopping = pair.beside(lambda: pair.dispatch.stop(soon()))
    until(lambda: pair.dispatch.counters.postponed == 1, "the end's beginning")
    assert pair.worker.receive([DISCONNECT], 0) is None
    in_hand.end()
    stopping.join(DEADLINE)
    for _ in range(disconnects):
        pair.work(DISCONNECT)
    assert pair.worker.receive([DISCONNECT], 0) is None
    assert pair.dispatch.counters.lost == 0
    assert pair.settled()


def test_a_process_that_ends_says_which_connect_consumer_has_not(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    in_hand = InHand(pair, CONNECT)
    pair.dispatch.stop(time.monotonic() + 0.1)
    assert pair.dispatch.counters.lost == 1
    why = "the process ends before the message ahead of it is known to have ended"
    assert f"the disconnect consumer for / may not have run: {why}" in caplog.text
    in_hand.end()

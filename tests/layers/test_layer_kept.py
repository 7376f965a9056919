"""Channels of this process that are received from: what is counted, what ends a wait, what is forgotten."""

import threading

import pytest

from offload.exceptions import LayerUnavailable
from offload.layers.memory import MemoryLayer, MemoryServer
from tests.redis_server import until

PATIENCE = 10.0


@pytest.fixture
def layer():
    layer = MemoryLayer(capacity=2)
    yield layer
    layer.close()


def counted(layer):
    statistics = layer.statistics()
    return statistics["received"], statistics["lost"], statistics["expired"]


@pytest.mark.parametrize("by_another", [False, True])
def test_message_counts_as_received_when_it_was(by_another):
    server = MemoryServer()
    layer = MemoryLayer(server, capacity=2)
    sender = MemoryLayer(server) if by_another else layer
    own = layer.new_channel("own")
    for number in range(5):
        sender.send(own, {"n": number})
    assert counted(layer) == (0, 3, 0)
    layer.group_add("group", own)
    assert layer.receive([own], 0) == (own, {"n": 0})
    sender.group_send("group", {"n": 5})
    assert counted(layer) == (1, 3, 0)
    assert [layer.receive([own], 0)[1]["n"] for _ in range(2)] == [1, 5]
    assert counted(layer) == (3, 3, 0)
    layer.close()
    assert counted(layer) == (3, 3, 0)
    own = layer.new_channel("own")
    sender.send(own, {})
    assert layer.receive([own], 0) == (own, {})
    assert counted(layer) == (4, 3, 0)


@pytest.mark.parametrize("others", [[], ["queue"]])
def test_close_ends_a_wait_for_an_own_channel(layer, others):
    own = layer.new_channel("own")
    assert layer.receive([own, *others], 0) is None
    ended = []

    def wait():
        try:
            layer.receive([own, *others], None)
        except LayerUnavailable as error:
            ended.append(str(error))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    waiting = layer.backend.broker if others else layer.kept
    until(lambda: waiting.waiting, "the receive to wait")
    layer.close()
    thread.join(PATIENCE)
    assert ended == ["the layer was closed meanwhile"]


def test_channels_made_for_one_answer_do_not_pile_up(layer):
    used = [layer.new_channel("used") for _ in range(4)]
    assert layer.receive(used, 0) is None
    waiting, full, member, idle = used
    layer.send(full, {"n": 1})
    layer.group_add("group", member)
    found = []
    thread = threading.Thread(target=lambda: found.append(layer.receive([waiting], PATIENCE)))
    thread.start()
    until(lambda: layer.kept.waiting, "the receive to wait")
    for _ in range(12_000):
        answer = layer.new_channel("answer")
        layer.send(answer, {})
        assert layer.receive([answer], 0) == (answer, {})
    assert len(layer.subscriptions) <= 10_000
    # Those that are in use are still there.
    layer.send(waiting, {"n": 2})
    thread.join(PATIENCE)
    assert found == [(waiting, {"n": 2})]
    assert layer.receive([full], 0) == (full, {"n": 1})
    layer.group_send("group", {"n": 3})
    assert layer.receive([member], 0) == (member, {"n": 3})
    assert layer.subscriptions.receiver(idle) is None


@pytest.mark.parametrize("by_another", [False, True])
def test_latest_ten_thousand_names_keep_messages_and_what_others_lose_is_counted(by_another, caplog):
    server = MemoryServer()
    layer = MemoryLayer(server)
    sender = MemoryLayer(server) if by_another else layer
    names = [layer.new_channel("answer") for _ in range(10_001)]
    for name in (names[0], names[1], names[-1]):
        sender.send(name, {"to": name})
    assert [layer.receive([name], 0) for name in (names[1], names[-1])] == [
        (name, {"to": name}) for name in (names[1], names[-1])
    ]
    assert layer.statistics()["lost"] == 1
    assert caplog.messages == [f"lost a message: channel {names[0]} was not received from for 10000 newer ones"]
    # One that has ended is no loss.
    layer.detach(names[0])
    sender.send(names[0], {})
    assert layer.statistics()["lost"] == 1


def test_receive_from_own_and_named_channels_together_asks_the_server_once_and_is_woken_at_once():
    server = MemoryServer()
    layer, sender = MemoryLayer(server), MemoryLayer(server)
    own = layer.new_channel("own")
    taken = []
    take = layer.backend.take
    layer.backend.take = lambda *arguments: (taken.append(arguments), take(*arguments))[1]
    found = []
    thread = threading.Thread(target=lambda: found.append(layer.receive([own, "named"], PATIENCE)))
    thread.start()
    until(lambda: layer.backend.broker.waiting, "the receive to wait")
    # Long enough for one that looks now and then.
    thread.join(0.3)
    assert len(taken) == 1
    sender.send(own, {"n": 1})
    thread.join(PATIENCE)
    assert found == [(own, {"n": 1})]
    assert len(taken) == 2
    sender.send("named", {"n": 2})
    assert layer.receive([own, "named"], PATIENCE) == ("named", {"n": 2})
    until(lambda: server.broker("").waiting == 0, "the end of all waits")
    with server.broker("").exclusive() as (broker, _):
        assert broker.statistics()["pending"] == 0
    layer.close()

"""Memberships that processes make for each other's channels on Redis, also while one of them is away for a moment."""

import threading
import time

import pytest

from offload.exceptions import LayerUnavailable
from offload.layers.redis_gone import GoneProcesses
from tests.layers.redis_receiver import PATIENCE, Receiver, joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import shared_redis_server  # noqa: F401  # a fixture

GONE = "reply.{}!0123456789abcdef"


def cut_off(server):
    """As a failover does, or a full output buffer: those who subscribe come back by themselves, a moment later."""
    server.run("CLIENT", "KILL", "TYPE", "pubsub")


@pytest.fixture
def pair(shared_redis_server, redis_layers):  # noqa: F811
    """Who owns channels, and another one, whose inbox is open."""
    owner, other = redis_layers(shared_redis_server.url), redis_layers(shared_redis_server.url)
    other.open_inbox()
    return owner, other


def test_add_waits_for_a_process_whose_connection_was_lost(shared_redis_server, pair):  # noqa: F811
    owner, other = pair
    receiver = joined(owner, "before")
    for number in range(5):
        cut_off(shared_redis_server)
        other.group_add(f"room-{number}", receiver.channel)
        other.group_send(f"room-{number}", {"n": number})
        assert receiver.next() == {"n": number}


def test_discard_waits_for_a_process_whose_connection_was_lost(shared_redis_server, pair):  # noqa: F811
    owner, other = pair
    receiver = joined(owner, "room", "marker")
    for _ in range(5):
        cut_off(shared_redis_server)
        other.group_discard("room", receiver.channel)
        assert not owner.subscriptions.has_members("room")
        owner.group_add("room", receiver.channel)


def test_process_that_stays_silent_is_gone_and_is_not_waited_for_again(pair):
    _, other = pair
    before = time.monotonic()
    other.group_add("room", GONE.format("gone"))
    assert time.monotonic() - before >= 2.0
    before = time.monotonic()
    for number in range(20):
        other.group_add(f"room-{number}", GONE.format("gone"))
        other.group_discard(f"room-{number}", GONE.format("gone"))
    assert time.monotonic() - before < 1.5


def test_process_that_was_taken_for_gone_is_waited_for_again_once_it_was_heard(
    shared_redis_server,  # noqa: F811
    redis_layers,  # noqa: F811
):
    owner = redis_layers(shared_redis_server.url)
    other = redis_layers(shared_redis_server.url, timeout=1)
    other.open_inbox()
    # Nobody can tell a process that never listened from one that no longer does.
    other.group_add("room", GONE.format(owner.process))
    receiver = joined(owner)
    other.group_add("room", receiver.channel)
    cut_off(shared_redis_server)
    other.group_add("late", receiver.channel)
    other.group_send("late", {"n": 1})
    assert receiver.next() == {"n": 1}


def test_process_that_asks_is_no_longer_taken_for_gone(shared_redis_server, redis_layers):  # noqa: F811
    owner = redis_layers(shared_redis_server.url)
    other = redis_layers(shared_redis_server.url, timeout=1)
    others_channel = Receiver(other).channel
    other.group_add("room", GONE.format(owner.process))
    receiver = joined(owner)
    owner.group_add("room", others_channel)
    cut_off(shared_redis_server)
    other.group_add("late", receiver.channel)
    other.group_send("late", {"n": 1})
    assert receiver.next() == {"n": 1}


def test_wait_for_a_silent_process_is_no_longer_than_the_timeout(shared_redis_server, redis_layers):  # noqa: F811
    other = redis_layers(shared_redis_server.url, timeout=0.1)
    other.open_inbox()
    before = time.monotonic()
    other.group_add("room", GONE.format("elsewhere"))
    assert 0.1 <= time.monotonic() - before < 1.5


def test_close_ends_the_wait_for_an_answer(shared_redis_server, redis_layers):  # noqa: F811
    other = redis_layers(shared_redis_server.url, timeout=60.0)
    ended = []

    def add():
        try:
            other.group_add("room", GONE.format("mute"))
        except LayerUnavailable as error:
            ended.append(error)

    with shared_redis_server.connection() as mute:
        mute.run("SUBSCRIBE", "inbox:mute")
        asking = threading.Thread(target=add)
        asking.start()
        assert mute.read()[0] == b"message"
        other.check()  # behind the question, on the same connection
        other.close()
        asking.join(PATIENCE)
    assert len(ended) == 1


def test_gone_processes_are_kept_for_a_minute_and_are_bounded():
    now = 0.0
    gone = GoneProcesses(lambda: now)
    gone.add("a")
    assert "a" in gone
    now = 59.0
    assert "a" in gone
    now = 60.0
    assert "a" not in gone
    for number in range(1001):
        gone.add(str(number))
    assert "0" not in gone
    assert "1" in gone
    gone.forget("1")
    assert "1" not in gone

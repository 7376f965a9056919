"""Subscriptions on Redis that are refused, interrupted, or end with their layer."""

import gc
import sys
import threading
import time
import weakref

import pytest

from offload.exceptions import LayerUnavailable
from offload.layers.redis import RedisLayer
from tests.layers.redis_receiver import Receiver, joined, redis_layers  # noqa: F401  # a fixture
from tests.layers.test_redis_killed import run_beside
from tests.redis_server import redis_server, until  # noqa: F401  # a fixture

PATIENCE = 10.0

FORBIDDEN = "o permissions to access"  # as every version says it


def allow(server, *channels):
    """What the user may subscribe to; connections that have more are cut."""
    rights = ["on", ">secret", "~*", "resetchannels", *(f"&{channel}" for channel in channels), "+@all"]
    assert server.run("ACL", "SETUSER", "site", *rights) == b"OK"
    return server.url.replace("redis://", "redis://site:secret@")


def in_thread(call, *arguments):
    """Its thread, and what it raised."""
    raised = []

    def run():
        try:
            call(*arguments)
        except LayerUnavailable as error:
            raised.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def is_waiting(thread):
    """Whether the innermost function of Python's that it runs waits for something."""
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and frame.f_code.co_name in ("result", "wait")


# Refused


def test_forbidden_group_fails_nobody_who_shares_its_command(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(allow(redis_server, "inbox:*", "group:open-*"))
    receiver = Receiver(layer)
    # They leave together.
    redis_server.freeze()
    groups = ["open-1", "private", "open-2"]
    adds = [in_thread(layer.group_add, group, receiver.channel) for group in groups]
    until(lambda: all(map(layer.subscriptions.has_members, groups)), "all of them to wait")
    redis_server.thaw()
    for thread, _ in adds:
        thread.join(PATIENCE)
    (_, first), (_, second), (_, third) = adds
    assert first == third == []
    assert len(second) == 1
    assert FORBIDDEN in second[0]
    for group in ("open-1", "open-2"):
        layer.group_send(group, {"group": group})
        assert receiver.next() == {"group": group}


def test_group_that_became_forbidden_silences_no_other(redis_server, redis_layers, caplog):  # noqa: F811
    layer = redis_layers(allow(redis_server, "inbox:*", "group:*"))
    other = redis_layers(redis_server.url)
    receiver = joined(layer, "open", "private", "also-open")
    allow(redis_server, "inbox:*", "group:*open")
    until(lambda: layer.statistics()["reconnects"] == 1, "the subscriber to be back")
    assert "the subscription of group:private is given up" in caplog.text
    for group in ("open", "also-open"):
        other.group_send(group, {"group": group})
        assert receiver.next() == {"group": group}
    other.send(receiver.channel, {"n": 1})
    assert receiver.next() == {"n": 1}
    with pytest.raises(LayerUnavailable, match=FORBIDDEN):
        layer.group_add("private", Receiver(layer).channel)
    allow(redis_server, "inbox:*", "group:*")
    layer.group_add("private", receiver.channel)
    other.group_send("private", {"n": 2})
    assert receiver.next() == {"n": 2}


def test_reason_why_a_subscriber_does_not_come_back_is_logged_once(redis_server, redis_layers, caplog):  # noqa: F811
    layer = redis_layers(allow(redis_server, "*"))
    receiver = joined(layer, "group")
    redis_server.run("ACL", "SETUSER", "site", "off")
    with redis_server.connection() as client:

        def attempts():
            stats = client.run("INFO", "stats").decode()
            return int(stats.partition("total_connections_received:")[2].partition("\r")[0])

        before = attempts()
        assert client.run("CLIENT", "KILL", "TYPE", "pubsub") == 1
        until(lambda: attempts() >= before + 3, "several attempts")
    assert caplog.text.count("are still missed") == 1
    assert "messages for 2 subscriptions are still missed" in caplog.text
    allow(redis_server, "*")
    until(lambda: layer.statistics()["reconnects"] == 1, "the subscriber to be back")
    layer.group_send("group", {"n": 1})
    assert receiver.next() == {"n": 1}


# Interrupted


def test_killed_add_leaves_no_subscription(redis_server):  # noqa: F811
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, sys
from offload.layers.redis import RedisLayer
from redis import Redis
layer = RedisLayer(sys.argv[1], timeout=10)
channel = layer.new_channel("reply")
layer.attach(channel, lambda delivery: None)
layer.group_add("warm", channel)
killed = 0
with gevent.Timeout(20):
    # At every turn of the loop: before it is sent, on its way, and after the answer.
    for turns in range(30):
        add = gevent.spawn(layer.group_add, f"room-{turns}", channel)
        for _ in range(turns):
            gevent.sleep(0)
        killed += not add.ready()
        add.kill()
        if isinstance(add.value, gevent.GreenletExit):
            assert not layer.subscriptions.has_members(f"room-{turns}")
        layer.group_discard(f"room-{turns}", channel)
    assert killed > 3
    layer.group_add("next", channel)  # tells what was given up before
with Redis.from_url(sys.argv[1]) as client:
    assert sorted(client.pubsub_channels("group:*")) == [b"group:next", b"group:warm"]
layer.close()
"""
    run_beside(redis_server, program)


# The end


def test_close_ends_an_add_that_is_under_way(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url, timeout=20)
    receiver = joined(layer, "warm")
    redis_server.freeze()
    thread, raised = in_thread(layer.group_add, "room", receiver.channel)
    until(lambda: is_waiting(thread), "the add to wait")
    start = time.monotonic()
    layer.close()
    thread.join(PATIENCE)
    assert raised == ["layer 'redis' was closed meanwhile"]
    assert time.monotonic() - start < 5
    redis_server.thaw()


def test_close_ends_an_add_that_waits_for_a_return(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url, timeout=20)
    receiver, late = joined(layer, "group"), Receiver(layer)
    redis_server.kill()
    thread, raised = in_thread(layer.group_add, "new", receiver.channel)
    thread.join(PATIENCE)
    assert len(raised) == 1
    thread, raised = in_thread(layer.group_add, "group", late.channel)
    until(lambda: is_waiting(thread), "the add to wait")
    layer.close()
    thread.join(PATIENCE)
    assert raised == ["layer 'redis' was closed meanwhile"]


def _threads():
    return [thread for thread in threading.enumerate() if thread.name == "offload-redis-subscriber"]


@pytest.mark.parametrize("number", [1, 2])
def test_layer_that_is_dropped_gives_back_its_threads_and_connections(number, redis_server):  # noqa: F811
    def use():
        layer = RedisLayer([redis_server.url.replace("/0", f"/{shard}") for shard in range(number)])
        receiver = joined(layer, *(f"room-{number}" for number in range(10)))
        layer.group_send("room-3", {"n": 3})
        assert receiver.next() == {"n": 3}
        until(lambda: len(_threads()) == 2 * number, "a writer and a reader for each")
        return weakref.ref(layer)

    def is_gone():
        gc.collect()
        return used() is None

    used = use()
    until(is_gone, "the layer to go")
    until(lambda: not _threads(), "the threads to end")
    until(lambda: b"name=offload-" not in redis_server.run("CLIENT", "LIST"), "the connections to be closed")


def test_server_that_has_no_possible_name_is_unreachable_and_ends_no_thread_for_good(redis_layers, caplog):  # noqa: F811
    layer = redis_layers("redis://a..b:6379/0", timeout=5)
    for _ in range(2):
        start = time.monotonic()
        with pytest.raises(LayerUnavailable) as caught:
            layer.new_channel("inbox")
        assert str(caught.value).startswith("layer 'redis' cannot reach redis://a..b:6379/0: ")
        assert time.monotonic() - start < 2

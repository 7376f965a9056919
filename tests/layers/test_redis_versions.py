"""Clusters without sharded pub/sub, as they are before Redis 7: messages go by plain pub/sub, and all else is the same.

The conformance suite runs on a real one too (``test_redis_conformance.py``); these need the system's Redis only.
"""

import logging

import pytest

from offload.exceptions import LayerUnavailable
from tests.layers.redis_receiver import joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import RedisCluster, until

WITHOUT = {"rename_command": ("SSUBSCRIBE", "")}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"), **WITHOUT)
    yield cluster
    cluster.kill()


def test_groups_and_reply_channels_cross_by_plain_messages(cluster, redis_layers, caplog):  # noqa: F811
    caplog.set_level(logging.WARNING, "offload.layer")
    layer, other = redis_layers(cluster.url), redis_layers(cluster.url)
    rooms = [f"room-{number}" for number in range(20)]
    receiver = joined(layer, *rooms)
    for room in rooms:
        other.group_send(room, {"room": room})
        assert receiver.next() == {"room": room}
    other.send(receiver.channel, {"n": 1})
    assert receiver.next() == {"n": 1}
    assert [node.run("PUBSUB", "SHARDCHANNELS", "*") for node in cluster.nodes] == [[], [], []]
    assert {record.getMessage().partition(": ")[2].partition(" ")[2] for record in caplog.records} == {
        "has no sharded pub/sub, which Redis 7 brought; every message to a group goes to all nodes of " + cluster.url
    }
    assert len(caplog.records) == 2  # one for each layer


def test_member_is_added_by_another_process_after_its_slot_moved(cluster, redis_layers):  # noqa: F811
    layer, other = redis_layers(cluster.url), redis_layers(cluster.url)
    receiver = joined(layer)
    inbox = f"inbox:{layer.process}"
    source = cluster.owner(inbox)
    target = next(node for node in cluster.nodes if node is not source)
    slot, name = str(source.run("CLUSTER", "KEYSLOT", inbox)), target.run("CLUSTER", "MYID")
    for node in (target, source, *cluster.nodes):
        assert node.run("CLUSTER", "SETSLOT", slot, "NODE", name) == b"OK"
    # Nobody is subscribed at the slot's new place; the message reaches the old one all the same.
    other.group_add("late", receiver.channel)
    other.group_send("late", {"n": 1})
    assert receiver.next() == {"n": 1}
    other.group_add("late", "reply.gone!0123456789abcdef")


def test_group_follows_its_node_into_the_grave(tmp_path, redis_layers):  # noqa: F811
    cluster = RedisCluster(tmp_path, replicas=1, **WITHOUT)
    try:
        layer, other = (redis_layers(cluster.url, timeout=2) for _ in range(2))
        receiver = joined(layer, "news")
        other.group_send("news", {"n": 1})
        assert receiver.next() == {"n": 1}
        owner = cluster.owner("group:news")
        owner.kill()
        until(lambda: cluster.owner("group:news") is not owner, "another master", 30)
        until(lambda: layer.statistics()["reconnects"] >= 1, "the subscriber to be back", 30)
        until(lambda: sends(other), "the sender to find the other master", 30)
        receiver.until({"n": 2})
    finally:
        cluster.kill()


def sends(layer):
    try:
        layer.group_send("news", {"n": 2})
    except LayerUnavailable:
        return False
    return True


def test_one_old_node_makes_all_processes_use_plain_messages(tmp_path, redis_layers, caplog):  # noqa: F811
    cluster = RedisCluster(tmp_path, first=WITHOUT)
    try:
        layer, other = redis_layers(cluster.url), redis_layers(cluster.url)
        for number in range(20):
            receiver = joined(layer, f"room-{number}")
            other.group_send(f"room-{number}", {"n": number})
            assert receiver.next() == {"n": number}
    finally:
        cluster.kill()
    assert caplog.text.count(f"127.0.0.1:{cluster.nodes[0].port} has no sharded pub/sub") == 2


def test_lost_node_fails_nothing_that_lives_elsewhere(tmp_path, redis_layers):  # noqa: F811
    cluster = RedisCluster(tmp_path, **WITHOUT)
    try:
        lost = cluster.owner("group:lost")
        layer, other = (redis_layers(cluster.url, timeout=1, connect_timeout=0.5) for _ in range(2))
        while cluster.owner(f"inbox:{layer.process}") is lost or cluster.owner(f"inbox:{other.process}") is lost:
            layer, other = (redis_layers(cluster.url, timeout=1, connect_timeout=0.5) for _ in range(2))
        rooms = [name for name in map("room-{}".format, range(20)) if cluster.owner(f"group:{name}") is not lost]
        receiver = joined(layer, rooms[0])
        gone = next(
            name
            for name in map("reply.{:016x}!0123456789abcdef".format, range(1000))
            if cluster.owner(f"inbox:{name[6:22]}") is not lost
        )
        other.check()
        lost.kill()
        other.send(receiver.channel, {"n": 1})
        other.group_send(rooms[0], {"n": 2})
        other.group_add(rooms[1], receiver.channel)
        other.group_send(rooms[1], {"n": 3})
        assert [receiver.next()["n"] for _ in range(3)] == [1, 2, 3]
        # Nobody reads this, and nobody need know.
        other.send(gone, {})
        with pytest.raises(LayerUnavailable, match="did not answer within 1 s"):
            other.group_add(rooms[1], gone)  # it may be subscribed at the node that does not answer
    finally:
        cluster.kill()

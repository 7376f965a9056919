"""Groups of named channels on a cluster, whose queues are on all its nodes: one command to each, and none is missed or
reached twice while slots move. On every version that the machine has."""

import pytest

from tests.layers.redis_receiver import (
    duties,
    idle_takers,
    redis_layers,  # noqa: F401  # a fixture
    threads_of_layers,
)
from tests.redis_server import OTHER_PROGRAMS, RedisCluster, require_other_program, require_redis, until

CHANNELS = [f"queue-{number}" for number in range(40)]


@pytest.fixture(scope="module", params=["system", *OTHER_PROGRAMS])
def cluster(request, tmp_path_factory):
    program = require_redis() if request.param == "system" else require_other_program(request.param)
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"), program=program)
    yield cluster
    cluster.kill()


@pytest.fixture
def crowd(cluster, redis_layers):  # noqa: F811
    """A layer with a group of many named channels, which knows where the slots are and the nodes the scripts."""
    layer = redis_layers(cluster.url, timeout=15, channel_capacity={"queue-0": 2})
    layer.flush()
    for channel in CHANNELS:
        layer.group_add("crowd", channel)
    layer.group_send("crowd", {"n": 1})
    assert contents(layer) == {channel: [1] for channel in CHANNELS}
    return layer


def contents(layer):
    """What waits on each channel; takes it."""
    found = {channel: [] for channel in CHANNELS}
    while (message := layer.receive(CHANNELS, 0)) is not None:
        found[message[0]].append(message[1]["n"])
    return found


def about_to_move(cluster, channel):
    """A channel's slot, the node that has it, and another."""
    source = cluster.owner(f"channel:{channel}")
    target = next(node for node in cluster.nodes if node is not source)
    return str(source.run("CLUSTER", "KEYSLOT", f"channel:{channel}")), source, target


def test_group_send_costs_each_node_one_command_for_its_queues(cluster, crowd):
    home = cluster.owner("group:crowd")
    for node in cluster.nodes:
        node.run("CONFIG", "RESETSTAT")
    crowd.group_send("crowd", {"n": 2})
    # The group's own node publishes, and tells who the members are.
    assert [node.calls()["evalsha"] for node in cluster.nodes] == [1 + (node is home) for node in cluster.nodes]
    assert contents(crowd) == {channel: [2] for channel in CHANNELS}


def test_full_queue_is_passed_over_on_its_node(crowd):
    for number in range(2, 6):
        crowd.group_send("crowd", {"n": number})
    assert crowd.statistics()["full"] == 2
    assert contents(crowd) == {"queue-0": [2, 3], **{channel: [2, 3, 4, 5] for channel in CHANNELS[1:]}}


def test_queue_whose_slot_has_moved_is_reached_once(cluster, crowd):
    slot, source, target = about_to_move(cluster, "queue-1")
    name = target.run("CLUSTER", "MYID")
    for node in (target, source, *cluster.nodes):
        assert node.run("CLUSTER", "SETSLOT", slot, "NODE", name) == b"OK"
    crowd.group_send("crowd", {"n": 2})
    assert target.run("LLEN", "channel:queue-1") == 1
    assert contents(crowd) == {channel: [2] for channel in CHANNELS}
    crowd.group_send("crowd", {"n": 3})
    assert contents(crowd) == {channel: [3] for channel in CHANNELS}


def test_queue_whose_slot_is_being_moved_is_reached_once(cluster, crowd):
    slot, source, target = about_to_move(cluster, "queue-2")
    there, here = target.run("CLUSTER", "MYID"), source.run("CLUSTER", "MYID")
    assert target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", here) == b"OK"
    assert source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", there) == b"OK"
    crowd.group_send("crowd", {"n": 2})
    # A queue that is not at the old place is looked for, and made, at the new one.
    assert target.run("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
    for node in (target, source, *cluster.nodes):
        assert node.run("CLUSTER", "SETSLOT", slot, "NODE", there) == b"OK"
    assert contents(crowd) == {channel: [2] for channel in CHANNELS}


def test_idle_takers_hold_two_connections_to_each_node(cluster, redis_layers):  # noqa: F811
    layer = redis_layers(cluster.url, timeout=15)
    layer.flush()
    until(lambda: not [name for name in threads_of_layers() if "commands" not in name], "earlier layers to end")
    with idle_takers(layer, 4, CHANNELS):
        until(lambda: all("subscriber" in duties(node) for node in cluster.nodes), "all to be watched")
        assert [duties(node) for node in cluster.nodes] == [["commands", "subscriber"]] * 3
        assert len(threads_of_layers()) <= 4 * 3 + 1  # writers and readers; who asks for the slots

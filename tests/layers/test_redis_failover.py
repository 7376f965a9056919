"""The Redis layer when the master changes, behind Sentinel and in a Cluster: under load, and what was lost is counted.

``pytest -rP`` shows the counts.
"""

import gc
import itertools
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from offload.exceptions import LayerUnavailable
from offload.layers.addresses.urls import layer_from_url
from offload.layers.redis import RedisLayer
from tests.layers.redis_receiver import Receiver, joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import RedisCluster, SentinelSet, redis_server, running_redis, until  # noqa: F401  # a fixture

logger = logging.getLogger("offload.layer.tests")

PATIENCE = 30.0
TIMEOUT = 2.0


class Load:
    """Sends numbered messages to a group, one after the other, and counts what became of them."""

    def __init__(self, layer, group):
        self.layer = layer
        self.group = group
        self.sent = []
        self.failed = 0
        self.longest = 0.0
        self.raised = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        number = 0
        while not self._end.is_set():
            number += 1
            start = time.monotonic()
            try:
                self.layer.group_send(self.group, {"n": number})
                self.sent.append(number)
            except LayerUnavailable:
                self.failed += 1
            except BaseException as error:
                self.raised = error
                raise
            self.longest = max(self.longest, time.monotonic() - start)
            self._end.wait(0.002)

    def stop(self):
        self._end.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert self.raised is None


class Member:
    """Counts what reaches a group's member."""

    def __init__(self, layer, group):
        self.numbers = []
        self.channel = layer.new_channel("reply")
        layer.attach(self.channel, lambda delivery: self.numbers.append(delivery.content["n"]))
        layer.group_add(group, self.channel)


def fail_over(layers, fail, moved, caplog, stalls):
    """Under load: the member gets messages again by itself, and all that it missed is known."""
    caplog.set_level(logging.INFO, "offload.layer")
    layer, sender = layers
    member = Member(layer, "news")
    load = Load(sender, "news")
    try:
        until(lambda: len(member.numbers) >= 50, "messages before", PATIENCE)
        fail()
        until(moved, "another master", PATIENCE)
        back, stalled = time.monotonic(), stalls.seconds
        until(lambda: layer.statistics()["reconnects"] >= 1, "the subscriber to be back", PATIENCE)
        seen = len(member.numbers)
        until(lambda: len(member.numbers) > seen, "messages after", PATIENCE)
        resumed = time.monotonic() - back - (stalls.seconds - stalled)
        before = len(load.sent)
        until(lambda: len(load.sent) > before + 50, "the sender to go on", PATIENCE)
    finally:
        load.stop()
    until(lambda: load.sent[-1] in member.numbers, "the last message", PATIENCE)
    assert resumed < 2 + TIMEOUT
    assert load.longest < 3 * TIMEOUT + stalls.seconds
    # In order, none twice.
    assert member.numbers == sorted(set(member.numbers))
    # What raised is counted by the sender; what Redis took while nobody was subscribed there lies in one gap.
    assert sender.statistics()["lost"] == load.failed
    missed = sorted(set(load.sent) - set(member.numbers))
    assert not missed or missed[-1] - missed[0] <= len(missed) + load.failed
    text = caplog.text
    assert "are missed until it is back" in text
    assert "is back at" in text
    logger.info("sent %d, raised %d, missed %d, resumed in %.2f s", len(load.sent), load.failed, len(missed), resumed)


@pytest.fixture
def sentinel_set(tmp_path):
    servers = SentinelSet(tmp_path)
    yield servers
    servers.kill()


@pytest.fixture
def replicated_cluster(tmp_path):
    cluster = RedisCluster(tmp_path, replicas=1)
    yield cluster
    cluster.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.kill()


# Sentinel


def test_sentinel_failover_under_load(sentinel_set, redis_layers, caplog, stalls):  # noqa: F811
    layers = [redis_layers(sentinel_set.url, timeout=TIMEOUT) for _ in range(2)]
    first, second = sentinel_set.servers
    fail_over(layers, first.kill, second.is_master, caplog, stalls)
    layers[0].send("queue", {"n": 1})
    assert second.run("LLEN", "channel:queue") == 1
    assert layers[1].receive(["queue"], PATIENCE) == ("queue", {"n": 1})


def test_ordered_failover_moves_connections_of_a_master_that_lives_on(sentinel_set, redis_layers):  # noqa: F811
    layer, other = (redis_layers(sentinel_set.url, timeout=TIMEOUT) for _ in range(2))
    receiver = joined(layer, "news")
    other.check()
    second = sentinel_set.servers[1]
    assert sentinel_set.sentinels[0].run("SENTINEL", "FAILOVER", sentinel_set.service) == b"OK"
    until(second.is_master, "another master", PATIENCE)
    until(lambda: layer.statistics()["reconnects"] >= 1, "the subscriber to be back", PATIENCE)

    def arrives():
        try:
            other.group_send("news", {"n": 1})
        except LayerUnavailable:
            return False
        return second.run("PUBSUB", "NUMSUB", "group:news") == [b"group:news", 1]

    until(arrives, "the group at the new master", PATIENCE)
    other.group_send("news", {"n": 2})
    receiver.until({"n": 2})


def test_service_that_no_sentinel_knows_is_named(sentinel_set, redis_layers):  # noqa: F811
    url = sentinel_set.url.replace("mymaster", "theirs")
    with pytest.raises(LayerUnavailable) as caught:
        redis_layers(url).check()
    assert f"cannot reach {url}: no master found for 'theirs'" in str(caught.value)


def test_sentinels_may_have_a_password_of_their_own(tmp_path, redis_server, redis_layers):  # noqa: F811
    with running_redis(tmp_path / "sentinel", sentinel=True, requirepass="hunter2") as sentinel:
        with sentinel.connection() as client:
            assert client.run("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", str(redis_server.port), "1") == b"OK"
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/0?service=mymaster"
        layer = layer_from_url(f"{url}&sentinel_password=hunter2")
        layer.send("queue", {})
        assert redis_server.run("LLEN", "channel:queue") == 1
        layer.close()
        with pytest.raises(LayerUnavailable) as caught:
            redis_layers(url).check()
        assert f"cannot reach {url}: no master found for 'mymaster'; 127.0.0.1:{sentinel.port}: " in str(caught.value)
        assert "authentication required" in str(caught.value).lower()


# Cluster


def test_cluster_loses_a_node_under_load(replicated_cluster, redis_layers, caplog, stalls):  # noqa: F811
    layers = [redis_layers(replicated_cluster.url, timeout=TIMEOUT) for _ in range(2)]
    owner = replicated_cluster.owner("group:news")
    # The inbox and the other groups live on, or move as well.
    others = joined(layers[0], *(f"room-{number}" for number in range(10)))
    fail_over(layers, owner.kill, lambda: replicated_cluster.owner("group:news") is not owner, caplog, stalls)
    for number in range(10):
        layers[1].group_send(f"room-{number}", {"n": number})
        others.until({"n": number})


def move_slot(cluster, key, source, target):
    """Give a slot to another node, without its keys."""
    slot = str(source.run("CLUSTER", "KEYSLOT", key))
    for held in source.run("CLUSTER", "GETKEYSINSLOT", slot, "1000"):
        source.run("DEL", held)
    name = target.run("CLUSTER", "MYID")
    for node in (target, source, *cluster.nodes):
        assert node.run("CLUSTER", "SETSLOT", slot, "NODE", name) == b"OK"


def test_group_follows_its_slot_to_another_node(cluster, redis_layers):  # noqa: F811
    layer, other = redis_layers(cluster.url), redis_layers(cluster.url)
    receiver = joined(layer, "moving", "staying")
    other.group_send("moving", {"n": 0})
    assert receiver.next() == {"n": 0}
    for turn in range(1, 4):
        source = cluster.owner("group:moving")
        target = next(node for node in cluster.nodes if node is not source)
        move_slot(cluster, "group:moving", source, target)
        until(
            lambda target=target: target.run("PUBSUB", "SHARDNUMSUB", "group:moving") == [b"group:moving", 1],
            "the subscription to follow",
        )
        other.group_send("moving", {"n": turn})
        assert receiver.next() == {"n": turn}
        late = joined(other, "moving")
        layer.group_send("moving", {"late": turn})
        assert receiver.next() == late.next() == {"late": turn}
        other.detach(late.channel)
    layer.group_send("staying", {"n": "staying"})
    receiver.until({"n": "staying"})
    layer.detach(receiver.channel)
    for node in cluster.nodes:
        until(lambda node=node: node.run("PUBSUB", "SHARDCHANNELS", "group:*") == [], "the groups to be given up")


def test_queue_is_used_while_its_slot_moves(cluster, redis_layers):  # noqa: F811
    layer = redis_layers(cluster.url)
    source = cluster.owner("channel:moving")
    target = next(node for node in cluster.nodes if node is not source)
    slot = str(source.run("CLUSTER", "KEYSLOT", "channel:moving"))
    layer.check()
    assert target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", source.run("CLUSTER", "MYID")) == b"OK"
    assert source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", target.run("CLUSTER", "MYID")) == b"OK"
    # The queue is not at its old place, so this one is sent to the new, with a word that it is asked for.
    layer.send("moving", {"n": 1})
    assert target.run("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
    move_slot(cluster, "channel:moving", source, target)
    layer.send("moving", {"n": 2})
    assert [layer.receive(["moving"], 1)[1]["n"] for _ in range(2)] == [1, 2]


def test_group_message_waits_while_its_slot_moves(cluster, redis_layers):  # noqa: F811
    layer, other = redis_layers(cluster.url), redis_layers(cluster.url)
    receiver = joined(layer, "divided")
    other.group_send("divided", {"n": 1})
    source = cluster.owner("group:divided")
    target = next(node for node in cluster.nodes if node is not source)
    slot = str(source.run("CLUSTER", "KEYSLOT", "group:divided"))
    assert target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", source.run("CLUSTER", "MYID")) == b"OK"
    assert source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", target.run("CLUSTER", "MYID")) == b"OK"
    assert source.run("CONFIG", "RESETSTAT") == b"OK"
    # The source has the group's counter, and no member channels: they may be at the target by now.
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(other.group_send, "divided", {"n": 2})
        until(lambda: "errorstat_TRYAGAIN" in source.info("errorstats"), "the message to be refused")
        counter = "sent:{group:divided}"
        assert source.run("MIGRATE", "127.0.0.1", str(target.port), counter, "0", "1000") == b"OK"
        move_slot(cluster, "group:divided", source, target)
        sent.result()
    assert other.statistics()["lost"] == 0
    until(
        lambda: target.run("PUBSUB", "SHARDNUMSUB", "group:divided") == [b"group:divided", 1],
        "the subscription to follow",
    )
    other.group_send("divided", {"n": 3})
    receiver.until({"n": 1})
    receiver.until({"n": 3})
    # What was sent before the subscription had followed is known to be missed.
    until(lambda: layer.statistics()["received"] + layer.statistics()["lost"] == 3, "all to be counted")


def test_frozen_node_holds_up_only_what_lives_there(cluster, redis_layers, stalls):  # noqa: F811
    layer, other = (redis_layers(cluster.url, timeout=1, connect_timeout=0.5) for _ in range(2))
    frozen = cluster.owner("group:name-0")
    rooms = [f"name-{number}" for number in range(30)]
    well = [name for name in rooms if cluster.owner(f"group:{name}") is not frozen]
    while cluster.owner(f"inbox:{layer.process}") is frozen:
        layer = redis_layers(cluster.url, timeout=1, connect_timeout=0.5)
    receiver = joined(layer, *rooms)
    other.check()
    frozen.freeze()
    try:
        for number, name in enumerate(well[:3]):
            start = time.monotonic()
            with pytest.raises(LayerUnavailable):
                other.group_send("name-0", {})
            assert time.monotonic() - start < 3 + stalls.seconds
            start = time.monotonic()
            other.group_send(name, {"n": number})
            assert time.monotonic() - start < 2 + stalls.seconds
            receiver.until({"n": number})
    finally:
        frozen.thaw()

    def arrives():
        try:
            other.group_send("name-0", {"n": "back"})
        except LayerUnavailable:
            return False
        return frozen.run("PUBSUB", "SHARDNUMSUB", "group:name-0") == [b"group:name-0", 1]

    until(arrives, "the node to be back", PATIENCE)
    other.group_send("name-0", {"n": "end"})
    receiver.until({"n": "end"})


def test_foreign_client_publishes_to_a_group_of_a_cluster(cluster, redis_layers):  # noqa: F811
    receiver = joined(redis_layers(cluster.url, prefix="site:"), "news")
    assert cluster.owner("site:group:news").run("SPUBLISH", "site:group:news", '{"text": "hello"}') == 1
    assert receiver.next() == {"text": "hello"}


def test_process_has_one_subscriber_at_each_node(cluster, redis_layers):  # noqa: F811
    layer = redis_layers(cluster.url)
    joined(layer, *(f"room-{number}" for number in range(60)))
    for node in cluster.nodes:
        assert node.run("CLIENT", "LIST").count(b" name=offload-subscriber-") == 1


def rooms_at(cluster, node):
    """Names of groups whose slots it has."""
    names = (f"room-{number}" for number in itertools.count())
    return (name for name in names if cluster.owner(f"group:{name}") is node)


def test_last_member_that_leaves_a_group_cuts_no_connection(cluster, redis_layers):  # noqa: F811
    layer = redis_layers(cluster.url)
    rooms = {node: rooms_at(cluster, node) for node in cluster.nodes}
    staying = joined(layer, *(next(rooms[node]) for node in cluster.nodes))
    for node in cluster.nodes:
        room = next(rooms[node])
        leaving = joined(layer, room)
        layer.detach(leaving.channel)
        # Each node's next subscription tells it first what was given up before, and is answered after that.
        for other in cluster.nodes:
            layer.group_add(next(rooms[other]), staying.channel)
        assert node.run("PUBSUB", "SHARDNUMSUB", f"group:{room}") == [f"group:{room}".encode(), 0]
    assert layer.statistics()["reconnects"] == 0


def test_layer_of_a_cluster_that_is_dropped_gives_back_its_threads(cluster):
    def use():
        joined(RedisLayer(cluster.url), *(f"room-{number}" for number in range(30)))

    def are_gone():
        gc.collect()
        return not any(thread.name == "offload-redis-subscriber" for thread in threading.enumerate())

    use()
    until(are_gone, "the threads to end")


def test_plain_address_of_a_node_says_how_to_write_it(cluster, redis_layers):  # noqa: F811
    node = cluster.nodes[0]
    layer = redis_layers(node.url)
    key = next(name for name in "abcdefgh" if cluster.owner(f"channel:{name}") is not node)
    with pytest.raises(LayerUnavailable) as caught:
        layer.send(key, {})
    assert str(caught.value) == (
        f"layer 'redis' was refused by {node.url}: another node of its cluster has this key;"
        " write 'redis+cluster://' for 'redis://'"
    )


def test_cluster_that_is_not_there_is_named_without_its_password(redis_layers):  # noqa: F811
    layer = redis_layers("redis+cluster://:secret@127.0.0.1:1,127.0.0.1:2")
    for call in (layer.check, lambda: layer.send("queue", {}), lambda: Receiver(layer)):
        with pytest.raises(LayerUnavailable) as caught:
            call()
        text = str(caught.value)
        assert text.startswith("layer 'redis' cannot reach redis+cluster://127.0.0.1:1,127.0.0.1:2: ")
        assert "secret" not in text

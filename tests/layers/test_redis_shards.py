"""The Redis layer on several shards: where names live, what a shard more moves, waiting at several, losing one."""

import contextlib
import threading
from hashlib import blake2b

import pytest

from offload.exceptions import LayerUnavailable
from offload.layers.redis import RedisLayer
from tests.layers.redis_receiver import (
    Receiver,
    duties,
    idle_takers,
    joined,
    redis_layers,  # noqa: F401  # a fixture
    threads_of_layers,
)
from tests.redis_server import running_redis, until

PATIENCE = 10.0


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(running_redis(tmp_path_factory.mktemp("shard"))) for _ in range(3)]


@pytest.fixture
def make(servers, redis_layers):  # noqa: F811
    for server in servers:
        server.run("FLUSHALL")
        server.run("CONFIG", "RESETSTAT")

    def make(**settings):
        return redis_layers([server.url for server in servers], **settings)

    return make


def home(servers, key):
    """As the documentation tells other programs to find a key's shard."""

    def weight(server):
        return blake2b(f"{server.url}\n{key}".encode(), digest_size=8).digest()

    return max(servers, key=weight)


def names_at(servers, server, kind, number=1):
    """Names of this kind that live on one shard."""
    names = (f"name-{count}" for count in range(1000))
    return [name for name in names if home(servers, f"{kind}:{name}") is server][:number]


def placed(hosts, keys):
    ring = RedisLayer(hosts).backend.ring
    return {key: ring.parts([key])[0][0].shown for key in keys}


def test_a_shard_more_takes_its_share_and_moves_nothing_else():
    hosts = [f"redis://127.0.0.1:{port}/0" for port in range(6001, 6006)]
    keys = [f"group:name-{number}" for number in range(5000)]
    for count in range(1, 5):
        before, after = placed(hosts[:count], keys), placed(hosts[: count + 1], keys)
        moved = [key for key in keys if before[key] != after[key]]
        assert {after[key] for key in moved} == {hosts[count]}
        assert 0.9 < len(moved) / (len(keys) / (count + 1)) < 1.1


def test_place_of_a_key_depends_on_no_order_and_no_password():
    keys = [f"channel:name-{number}" for number in range(100)]
    first = placed(["redis://a:1/0", "redis://b:1/0", "redis://c:1/0"], keys)
    assert placed(["redis://:secret@c:1", "redis://u:p@a:1/0", ("b", 1)], keys) == first


def test_every_name_lives_where_the_documentation_says(servers, make):
    layer = make()
    receiver = joined(layer, *(f"name-{number}" for number in range(20)))
    for number in range(20):
        name = f"name-{number}"
        assert home(servers, f"group:{name}").run("PUBLISH", f"group:{name}", f'{{"n": {number}}}') == 1
        assert receiver.next() == {"n": number}
        layer.send(name, {"n": number})
        layer.session_save(name, {"n": number}, 60)
        assert home(servers, f"channel:{name}").run("LLEN", f"channel:{name}") == 1
        assert home(servers, f"session:{name}").run("EXISTS", f"session:{name}") == 1
    inbox = f"inbox:{layer.process}"
    assert home(servers, inbox).run("PUBSUB", "NUMSUB", inbox) == [inbox.encode(), 1]


def test_process_has_one_subscriber_and_one_sender_at_each_shard(servers, make):
    layer = make()
    receiver = joined(layer, *(f"room-{number}" for number in range(60)))
    for number in range(60):
        layer.group_send(f"room-{number}", {"n": number})
    assert sorted(receiver.next()["n"] for _ in range(60)) == list(range(60))
    for server in servers:
        clients = server.run("CLIENT", "LIST").decode().split()
        duties = [item.split("-")[1] for item in clients if item.startswith("name=offload-")]
        assert sorted(duties) == ["commands", "subscriber"]


def test_group_send_is_one_command_and_two_with_queues_of_one_shard(servers, make):
    layer = make()
    here = home(servers, "group:crowd")
    receivers = [joined(layer, "crowd") for _ in range(20)]
    layer.group_send("crowd", {"n": 1})
    first, second = names_at(servers, here, "channel", 2)
    layer.group_add("crowd", first)
    layer.group_add("crowd", second)
    layer.group_send("crowd", {"n": 2})  # now all know the scripts
    for server in servers:
        server.run("CONFIG", "RESETSTAT")
    layer.group_send("crowd", {"n": 3})
    assert [server.calls().get("evalsha", 0) for server in servers] == [2 * (server is here) for server in servers]
    layer.group_discard("crowd", first)
    layer.group_discard("crowd", second)
    layer.group_send("crowd", {"n": 4})
    assert [server.calls().get("evalsha", 0) for server in servers] == [3 * (server is here) for server in servers]
    assert [receiver.next()["n"] for receiver in receivers for _ in range(4)] == [1, 2, 3, 4] * 20
    assert [layer.receive([name], 0)[1]["n"] for name in (first, second, first, second)] == [2, 2, 3, 3]


def test_waiting_receive_is_woken_by_any_shard(servers, make):
    layer, sender = make(), make()
    queues = [names_at(servers, server, "channel")[0] for server in servers]
    for turn, queue in enumerate(queues * 3):
        found = []
        thread = threading.Thread(target=lambda found=found: found.append(layer.receive(queues, PATIENCE)))
        thread.start()
        until(lambda: all(server.watched_keys() == 1 for server in servers), "waits everywhere")
        sender.send(queue, {"n": turn})
        thread.join(PATIENCE)
        assert found == [(queue, {"n": turn})]


def test_idle_takers_hold_two_connections_to_each_server(servers, make):
    layer = make()
    until(lambda: not threads_of_layers(), "earlier layers to end")
    with idle_takers(layer, 4, [f"task.{number}" for number in range(30)]):
        until(lambda: sum(server.watched_keys() for server in servers) == 30, "all to be watched")
        assert [duties(server) for server in servers] == [["commands", "subscriber"]] * 3
        # Writers and readers; takers that find none may start several, of which all but one end at once.
        until(lambda: len(threads_of_layers()) <= 4 * 3, "a writer and a reader for each connection")


def test_messages_that_come_at_a_time_from_several_shards_are_each_received_once(servers, make):
    queues = [names_at(servers, server, "channel")[0] for server in servers]
    received, lock, total = [], threading.Lock(), 240
    enough = threading.Event()

    def receive(layer):
        while not enough.is_set():
            found = layer.receive(queues, 0.5)
            if found is not None:
                with lock:
                    received.append(found[1]["n"])
                    if len(received) >= total:
                        enough.set()

    layers = [make() for _ in range(3)]
    threads = [threading.Thread(target=receive, args=(layer,)) for layer in layers]
    for thread in threads:
        thread.start()
    # At all shards in the same moment, so that those who wait win twice now and then.
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connection()) for server in servers]
        for number in range(0, total, 3):
            for offset, (client, queue) in enumerate(zip(clients, queues, strict=True)):
                client.send("RPUSH", f"channel:{queue}", f'{{"n": {number + offset}}}')
            for client in clients:
                client.read()
    assert enough.wait(2 * PATIENCE), f"{len(received)} of {total}"
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(received) == list(range(total))
    assert sum(layer.statistics()["lost"] for layer in layers) == 0


def test_lost_shard_takes_only_its_own_names_along(tmp_path, servers, redis_layers):  # noqa: F811
    with running_redis(tmp_path) as dying:
        several = [*servers, dying]
        hosts = [server.url for server in several]
        layer, other = redis_layers(hosts, timeout=2), redis_layers(hosts, timeout=2)
        receiver = Receiver(layer)
        while home(several, f"inbox:{layer.process}") is dying:
            layer.close()
            layer = redis_layers(hosts, timeout=2)
            receiver = Receiver(layer)
        groups = [names_at(several, server, "group")[0] for server in several]
        queues = [names_at(several, server, "channel")[0] for server in several]
        for group in groups:
            layer.group_add(group, receiver.channel)
        dying.kill()
        for group, queue, server in zip(groups, queues, several, strict=True):
            if server is dying:
                for call, name in ((other.group_send, group), (other.send, queue)):
                    with pytest.raises(LayerUnavailable) as caught:
                        call(name, {"n": 0})
                    assert dying.url in str(caught.value)
            else:
                other.group_send(group, {"group": group})
                assert receiver.next() == {"group": group}
                other.send(queue, {"n": 1})
        assert sorted(layer.receive(queues, 1)[0] for _ in servers) == sorted(queues[:-1])
        with pytest.raises(LayerUnavailable):
            layer.receive(queues, 1)
        dying.start()
        until(lambda: layer.statistics()["reconnects"] == 1, "the subscriber to be back")
        other.group_send(groups[-1], {"group": "back"})
        assert receiver.next() == {"group": "back"}

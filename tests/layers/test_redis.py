"""What is the Redis layer's own: its wire format, what it costs the server, forks, and its use of connections."""

import os
import queue
import subprocess
import sys
import threading
from unittest import mock

import pytest

from offload.exceptions import ChannelFull, LayerUnavailable
from offload.layers.addresses.urls import layer_from_url
from offload.layers.local.broker import MOST_DUE_BYTES
from offload.layers.redis import RedisLayer
from tests.layers.redis_receiver import Receiver, joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import shared_redis_server, until  # noqa: F401  # a fixture

PATIENCE = 5.0


@pytest.fixture
def server(shared_redis_server):  # noqa: F811
    shared_redis_server.run("FLUSHALL")
    shared_redis_server.run("CONFIG", "RESETSTAT")
    return shared_redis_server


@pytest.fixture
def make(server, redis_layers):  # noqa: F811
    def make(**settings):
        return redis_layers(server.url, **settings)

    return make


# Wire format


@pytest.mark.parametrize("payload", ['{"text": "hello"}', ' {"text":\n"hello"}', b"\x81\xa4text\xa5hello"])
def test_foreign_client_publishes_to_a_group(server, make, payload):
    layer = make(prefix="site:")
    receiver = joined(layer, "news")
    assert server.run("PUBLISH", "site:group:news", payload) == 1
    assert receiver.next() == {"text": "hello"}


def test_foreign_client_subscribes_to_a_group(server, make):
    layer = make(prefix="site:")
    with server.connection() as client:
        client.run("SUBSCRIBE", "site:group:news")
        layer.group_send("news", {"text": "hello"})
        assert client.read() == [b"message", b"site:group:news", b"\x81\xa4text\xa5hello"]


def test_foreign_client_pushes_to_a_channel(server, make):
    layer = make(prefix="site:")
    for _ in range(2):
        server.run("RPUSH", "site:channel:jobs", '{"n": 1}')
    assert layer.receive(["jobs"], 0) == ("jobs", {"n": 1})
    layer.send("jobs", {"n": 2})
    assert [layer.receive(["jobs"], 0)[1]["n"] for _ in range(2)] == [1, 2]


def test_foreign_garbage_is_counted_as_lost_and_stops_nothing(server, make):
    layer = make()
    receiver = joined(layer, "news")
    for name in ("group:news", f"inbox:{layer.process}"):
        for payload in (b"", b"\xff\xfe", b"{", b"m", b"m\n", b"a", b"a1\nx", b"r9\n", b"d1\n\xff", b"\xc1\x09x"):
            server.run("PUBLISH", name, payload)
    server.run("RPUSH", "channel:jobs", "garbage")
    layer.send("jobs", {"n": 1})
    assert layer.receive(["jobs"], PATIENCE) == ("jobs", {"n": 1})
    layer.group_send("news", {"text": "marker"})
    assert receiver.next() == {"text": "marker"}
    assert layer.statistics()["lost"] >= 11


# What it costs the server


def test_group_send_is_one_command_however_many_members_there_are(server, make):
    sender, members = make(), make()
    receivers = [joined(members, "crowd") for _ in range(500)]
    sender.group_send("crowd", {"n": 0})
    server.run("CONFIG", "RESETSTAT")
    for number in range(1, 11):
        sender.group_send("crowd", {"n": number})
    for receiver in receivers:
        assert [receiver.next()["n"] for _ in range(11)] == list(range(11))
    calls = server.calls()
    # A process looks for delayed messages now and then, by a script that begins with a look at what it was given.
    assert calls.pop("evalsha") - calls.pop("lrange", 0) == 10
    # The script's own, which no client sent.
    assert calls.pop("publish") == 10
    assert calls.pop("exists") == calls.pop("hincrby") == 10
    calls.pop("pexpire", None)  # once in a while
    looking = {"time", "del", "zrangebyscore", "zrange"}
    assert set(calls) <= {"config|resetstat", "config", "info", "ping"} | looking  # the second as Redis 6.2 calls it


def test_group_is_subscribed_to_once_by_a_process(server, make):
    layer = make()
    receivers = [joined(layer, "crowd") for _ in range(50)]
    assert server.run("PUBSUB", "NUMSUB", "group:crowd") == [b"group:crowd", 1]
    assert server.calls()["subscribe"] == 2  # the inbox and the group
    for receiver in receivers:
        layer.detach(receiver.channel)
    until(
        lambda: server.run("PUBSUB", "CHANNELS", "group:*") == [],
        "the subscription to be given up without another one that takes it along",
    )


def test_senders_at_a_time_share_round_trips(server, make):
    layer = make(capacity=10_000)
    layer.send("queue", {})
    before = int(server.info("stats")["total_reads_processed"])
    start = threading.Barrier(51)

    def send():
        start.wait(PATIENCE)
        for _ in range(20):
            layer.send("queue", {})

    threads = [threading.Thread(target=send) for _ in range(50)]
    for thread in threads:
        thread.start()
    start.wait(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    assert server.run("LLEN", "channel:queue") == 1001
    assert int(server.info("stats")["total_reads_processed"]) - before < 300


def test_large_commands_are_not_held_back_for_one_write(server, make):
    layer = make()
    text = "x" * 700_000
    threads = [threading.Thread(target=layer.send, args=("queue", {"text": text})) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert [len(layer.receive(["queue"], 0)[1]["text"]) for _ in range(8)] == [len(text)] * 8


def test_nothing_is_left_on_the_server(server, make):
    layer = make(expiry=0.05)
    layer.send("taken", {})
    assert layer.receive(["taken"], PATIENCE) is not None
    assert server.run("EXISTS", "channel:taken") == 0
    layer.send("forgotten", {})
    layer.group_add("group", "member")
    layer.session_save("key", {}, 5)
    for key, most in (("channel:forgotten", 11), ("members:{group:group}", 86_400), ("session:key", 5)):
        assert 0 < server.run("TTL", key) <= most
    layer.group_discard("group", "member")
    assert server.run("EXISTS", "members:{group:group}") == 0


def test_messages_that_expired_are_counted(server, make):
    layer = make(expiry=0.05, capacity=3)
    for number in range(3):
        layer.send("queue", {"n": number})
    until(lambda: _sends(layer, 3), "a message to expire")
    assert layer.statistics()["expired"] >= 1
    while layer.receive(["queue"], 0) is not None:
        pass
    counts = layer.statistics()
    assert counts["expired"] + counts["received"] == 4


def _sends(layer, number):
    try:
        layer.send("queue", {"n": number})
    except ChannelFull:
        return False
    return True


def test_full_queue_is_refused_naming_its_capacity(make):
    layer = make(channel_capacity={"q*": 1})
    layer.send("queue", {})
    with pytest.raises(ChannelFull) as caught:
        layer.send("queue", {})
    assert str(caught.value) == "channel 'queue' holds 1 messages, which is its capacity"


def test_group_send_heeds_the_capacity_of_each_member(make):
    layer = make(capacity=4, channel_capacity={"small.*": 1, "s?[a-c-]*": 2})
    for channel in ("small.one", "so-so", "other"):
        layer.group_add("group", channel)
    for number in range(5):
        layer.group_send("group", {"n": number})
    assert layer.statistics()["full"] == 4 + 3 + 1


def test_scripts_are_sent_again_when_the_server_forgot_them(server, make):
    layer = make()
    layer.group_add("group", "member")
    layer.group_send("group", {"n": 1})
    server.run("SCRIPT", "FLUSH")
    layer.group_send("group", {"n": 2})
    layer.send("queue", {"n": 3})
    server.run("SCRIPT", "FLUSH")
    assert layer.receive(["queue"], 0) == ("queue", {"n": 3})
    assert [layer.receive(["member"], 0)[1]["n"] for _ in range(2)] == [1, 2]


# Batches


def test_messages_of_one_read_are_one_batch(server, make):
    layer = make()
    receiver = joined(layer, "news")
    with server.connection() as client:
        client.run("MULTI")
        for number in range(50):
            client.run("PUBLISH", "group:news", f'{{"n": {number}}}')
        client.run("EXEC")
    deliveries = [receiver.next_delivery() for _ in range(50)]
    assert [delivery.content["n"] for delivery in deliveries] == list(range(50))
    assert deliveries[-1].more is False
    assert sum(delivery.more for delivery in deliveries) >= 40


# Other processes


def test_add_waits_only_so_long_for_a_process_that_does_not_answer(server, make):
    layer = make(timeout=0.3)
    with server.connection() as client:
        client.run("SUBSCRIBE", "inbox:silent")
        with pytest.raises(LayerUnavailable) as caught:
            layer.group_add("group", "reply.silent!0123456789abcdef")
    assert str(caught.value) == (
        "the process that owns channel 'reply.silent!0123456789abcdef' did not answer within 0.3 s;"
        " it is unknown whether group 'group' has it"
    )


def test_add_and_discard_by_another_process_keep_their_order(make):
    owner, other = make(), make()
    receiver = Receiver(owner)
    for number in range(50):
        other.group_add("group", receiver.channel)
        other.group_send("group", {"n": number})
        assert receiver.next() == {"n": number}
        other.group_discard("group", receiver.channel)
        other.group_send("group", {"n": -1})


# Waiting


def test_close_ends_a_waiting_receive(server, make):
    layer = make()
    ended = []

    def wait():
        try:
            layer.receive(["queue"])
        except LayerUnavailable as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: server.watched_keys() == 1, "the receive to wait")
    layer.close()
    thread.join(PATIENCE)
    assert len(ended) == 1


def test_each_message_wakes_one_of_those_who_wait(server, make):
    layer, other = make(), make(capacity=1000)
    found = queue.SimpleQueue()

    def take():
        while (message := layer.receive(["queue"], PATIENCE))[1]["n"] >= 0:
            found.put(message[1]["n"])

    threads = [threading.Thread(target=take) for _ in range(20)]
    for thread in threads:
        thread.start()
    until(lambda: server.calls().get("evalsha", 0) + server.calls().get("eval", 0) >= 20, "all to look")
    until(lambda: server.watched_keys() == 1, "all to wait")
    before = server.calls()["evalsha"]
    for number in range(50):
        other.send("queue", {"n": number})
        assert found.get(timeout=PATIENCE) == number
    # Not one look of each of the twenty.
    assert server.calls()["evalsha"] - before < 50 * 10
    for _ in threads:
        other.send("queue", {"n": -1})
    for thread in threads:
        thread.join(PATIENCE)
    assert layer.statistics()["lost"] == 0


def test_foreign_push_wakes_a_waiting_receive(server, make):
    layer = make()
    found = []
    thread = threading.Thread(target=lambda: found.append(layer.receive(["queue"])))
    thread.start()
    until(lambda: server.watched_keys() == 1, "the receive to wait")
    server.run("RPUSH", "channel:queue", '{"n": 1}')
    thread.join(PATIENCE)
    assert found == [("queue", {"n": 1})]


# Connections


def connected(server):
    names = [
        dict(item.split("=", 1) for item in line.split()) for line in server.run("CLIENT", "LIST").decode().splitlines()
    ]
    return [client["name"] for client in names if client["name"].startswith("offload-")]


def test_short_lived_threads_and_forked_children_keep_connections_bounded(server, make):
    layer = make(capacity=1_000_000)
    most = 0
    for _ in range(50):
        threads = [threading.Thread(target=_send_ten, args=(layer,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        most = max(most, len(connected(server)))
        for thread in threads:
            thread.join(PATIENCE)
    assert server.run("LLEN", "channel:queue") == 10_000
    assert most == 1
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _send_ten(layer)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    assert server.run("LLEN", "channel:queue") == 10_200
    until(lambda: len(connected(server)) == 1, "the children's connections to end")


def test_those_who_wait_share_one_connection(server, make):
    layer = make()
    threads = [threading.Thread(target=layer.receive, args=([f"queue-{number}"], 20)) for number in range(50)]
    for thread in threads:
        thread.start()
    until(lambda: server.watched_keys() == 50, "all to wait")
    assert sorted(name.split("-")[1] for name in connected(server)) == ["commands", "subscriber"]
    for number in range(50):
        layer.send(f"queue-{number}", {})
    for thread in threads:
        thread.join(PATIENCE)


def _send_ten(layer):
    for _ in range(10):
        layer.send("queue", {})


def test_forked_child_leaves_the_parents_subscriptions_alone(server, make):
    layer = make()
    receiver = joined(layer, "news")
    token = layer.process
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            own = joined(layer, "news")
            layer.group_send("news", {"from": "child"})
            seen = own.next() == {"from": "child"} and layer.process != token
            layer.close()
            code = 0 if seen else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert receiver.next() == {"from": "child"}
    layer.group_send("news", {"from": "parent"})
    assert receiver.next() == {"from": "parent"}
    assert layer.statistics()["reconnects"] == 0


def test_connections_end_with_close(server, make):
    layer = make()
    joined(layer, "news")
    assert layer.receive(["queue"], 0.01) is None
    names = connected(server)
    assert sorted(name.split("-")[1] for name in names) == ["commands", "subscriber"]
    assert all(name.endswith(f"-{os.getpid()}") for name in names)
    layer.close()
    until(lambda: connected(server) == [], "the connections to end")


FORK_UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
import gc, os, sys
from offload.layers.redis import RedisLayer
layer = RedisLayer(sys.argv[1])
name = layer.new_channel("reply")
layer.attach(name, print)
layer.group_add("group", name)
for _ in range(3):
    pid = os.fork()
    if not pid:
        layer.check()
        gc.collect()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
layer.close()
"""


def test_child_of_a_gevent_process_says_nothing_of_the_parents_threads(server):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", FORK_UNDER_GEVENT, server.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_send_under_a_mocked_sleep_is_sent(server, make):
    with mock.patch("time.sleep"):
        make().send("queue", {"n": 1})
    assert server.run("LLEN", "channel:queue") == 1


def test_layer_is_used_from_a_program_that_never_heard_of_gevent(server):
    program = (
        "import sys\n"
        "from offload.layers.addresses.urls import layer_from_url\n"
        "layer = layer_from_url(sys.argv[1])\n"
        "layer.send('queue', {'n': 1})\n"
        "layer.group_send('group', {'n': 2})\n"
        "name = layer.new_channel('reply')\n"
        "layer.send(name, {'n': 3})\n"
        "assert layer.receive([name], 5) == (name, {'n': 3})\n"
        "assert 'gevent' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program, server.url], check=True, timeout=30)
    layer = layer_from_url(f"{server.url}?capacity=7&timeout=2")
    assert isinstance(layer, RedisLayer)
    assert layer.receive(["queue"], 0) == ("queue", {"n": 1})
    assert layer.capacity == 7
    layer.close()


def test_large_delayed_messages_are_given_one_by_one(server, make):
    backend = make().backend
    for _ in range(3):
        backend.keep("later", bytes(MOST_DUE_BYTES // 2), 0.001)

    def are_due():
        seconds, microseconds = map(int, server.run("TIME"))
        return server.run("ZCOUNT", "delayed", "-inf", str(seconds * 1000 + microseconds // 1000)) == 3

    until(are_due, "all to be due")
    taken = [backend.take_due("taker", batch, batch + 1).messages for batch in range(4)]
    assert [len(messages) for messages in taken] == [1, 1, 1, 0]

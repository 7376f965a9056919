"""What the Redis layer says was certainly not sent: nobody has got it, and a group's message reaches whom it can."""

import threading

import pytest

from offload.exceptions import ConfigurationError, LayerUnavailable, LayerUnreachable
from offload.layers.redis import RedisLayer
from tests.layers.redis_receiver import joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import redis_server, running_redis, until  # noqa: F401  # a fixture


@pytest.fixture
def restricted(redis_server, redis_layers):  # noqa: F811
    """Layers of users that may do all but some commands."""

    def make(name, *forbidden):
        rights = ["~*", "&*", "+@all", *(f"-{command}" for command in forbidden)]
        assert redis_server.run("ACL", "SETUSER", name, "on", ">secret", *rights) == b"OK"
        return redis_layers(f"redis://{name}:secret@127.0.0.1:{redis_server.port}")

    return make


def test_queue_holds_nothing_that_was_refused(redis_server, restricted):  # noqa: F811
    with pytest.raises(LayerUnreachable):
        restricted("app", "pexpire").send("queue", {})
    assert redis_server.run("LLEN", "channel:queue") == 0


def test_group_gets_nothing_that_was_refused(redis_server, redis_layers, restricted):  # noqa: F811
    layer = redis_layers(redis_server.url)
    receiver = joined(layer, "news")
    layer.group_add("news", "queue")
    with pytest.raises(LayerUnreachable):
        restricted("app", "zremrangebyscore").group_send("news", {"n": 1})
    layer.group_send("news", {"n": 2})
    assert receiver.next() == {"n": 2}


def test_group_whose_queue_is_refused_may_have_got_it(redis_server, redis_layers, restricted):  # noqa: F811
    layer = redis_layers(redis_server.url)
    receiver = joined(layer, "news")
    layer.group_add("news", "queue")
    sender = restricted("app", "rpush")
    with pytest.raises(LayerUnavailable, match=r"; other members of the group may have got the message$") as caught:
        sender.group_send("news", {"n": 1})
    assert not isinstance(caught.value, LayerUnreachable)
    assert receiver.next() == {"n": 1}
    assert sender.statistics()["lost"] == 1


def test_lost_shard_keeps_no_message_from_the_queues_of_others(tmp_path, redis_server, redis_layers):  # noqa: F811
    with running_redis(tmp_path) as dying:
        layer = redis_layers([redis_server.url, dying.url])

        def name_at(server, kind):
            names = (f"name-{number}" for number in range(1000))
            return next(
                name for name in names if layer.backend.ring.parts([f"{kind}:{name}"])[0][0].shown == server.url
            )

        group, well, lost = name_at(redis_server, "group"), name_at(redis_server, "channel"), name_at(dying, "channel")
        receiver = joined(layer, group)
        layer.group_add(group, well)
        layer.group_add(group, lost)
        # So that it comes first: members are in the order in which they end.
        redis_server.run("ZADD", f"members:{{group:{group}}}", "XX", "9000000000000", lost)
        redis_server.run("ZADD", f"members:{{group:{group}}}", "XX", "9000000000001", well)
        dying.kill()
        with pytest.raises(LayerUnavailable) as caught:
            layer.group_send(group, {"n": 1})
    assert not isinstance(caught.value, LayerUnreachable)
    assert dying.url in str(caught.value)
    assert receiver.next() == {"n": 1}
    assert layer.receive([well], 0) == (well, {"n": 1})


def test_replica_is_no_server_for_a_layer(tmp_path, redis_server, redis_layers):  # noqa: F811
    replica = redis_server
    with running_redis(tmp_path, repl_diskless_sync_delay="0") as master:
        used_before = redis_layers(replica.url)
        used_before.check()
        replica.run("REPLICAOF", "127.0.0.1", str(master.port))
        until(lambda: replica.info("replication")["master_link_status"] == "up", "the replica to follow")
        layer = redis_layers(replica.url)
        for call, *arguments in (
            (used_before.check,),
            (layer.check,),
            (layer.group_send, "news", {}),
            (layer.new_channel, "reply"),
            (layer.receive, ["queue"], 0),
        ):
            with pytest.raises(LayerUnreachable) as caught:
                call(*arguments)
            assert str(caught.value) == (
                f"layer 'redis' cannot use {replica.url}: it is a replica; name its master, or the Sentinels that"
                " know it"
            )
        replica.run("REPLICAOF", "NO", "ONE")
        until(lambda: works(layer.check), "the layer to ask again")


def works(call):
    try:
        call()
    except LayerUnavailable:
        return False
    return True


@pytest.mark.parametrize("what", ["send", "group_send"])
def test_master_that_becomes_a_replica_is_left_though_it_keeps_its_connections(
    tmp_path,
    redis_server,  # noqa: F811
    redis_layers,  # noqa: F811
    what,
):
    with running_redis(tmp_path, repl_diskless_sync_delay="0") as master:
        layer = redis_layers(redis_server.url)
        receiver = joined(layer, "news")
        layer.send("queue", {})
        redis_server.run("REPLICAOF", "127.0.0.1", str(master.port))

        def is_left():
            try:
                getattr(layer, what)("news", {"n": 1})
            except LayerUnavailable as error:  # what was on its way when it was left is in doubt
                return isinstance(error, LayerUnreachable) and "it is a replica" in str(error)
            return False

        until(is_left, "the connection to be given up")
        redis_server.run("REPLICAOF", "NO", "ONE")
        until(lambda: layer.statistics()["reconnects"] == 1, "the subscriber to connect anew")
        until(lambda: works(lambda: layer.send("queue", {})), "the layer to ask again")
        layer.group_send("news", {"n": 2})
        receiver.until({"n": 2})


def test_text_that_is_none_is_its_senders_error_alone(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url, timeout=10)
    layer.check()
    results = []

    def send():
        layer.send("queue", {})
        results.append("sent")

    def load():
        try:
            layer.session_load("half a pair: \ud800")
        except UnicodeEncodeError:
            results.append("refused")

    redis_server.freeze()
    threads = [threading.Thread(target=call) for call in (layer.check, send, load, send, send)]
    for thread in threads:
        thread.start()
    until(lambda: "refused" in results, "the refusal")
    redis_server.thaw()
    for thread in threads:
        thread.join(10)
    assert sorted(results) == ["refused", "sent", "sent", "sent"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout": None}, "timeout=None must be a number of seconds above 0 and below 1,000,000 on Redis"),
        ({"timeout": "5"}, "timeout='5' must be a number of seconds above 0 and below 1,000,000 on Redis"),
        ({"timeout": 0}, "timeout=0 must be a number of seconds above 0 and below 1,000,000 on Redis"),
        (
            {"connect_timeout": -1},
            "connect_timeout=-1 must be a number of seconds above 0 and below 1,000,000 on Redis",
        ),
        ({"expiry": 1e10}, "expiry=10000000000.0 must be a number of seconds above 0 and below 7,000,000,000 on Redis"),
        (
            {"group_expiry": 1e19},
            "group_expiry=1e+19 must be a number of seconds above 0 and below 7,000,000,000 on Redis",
        ),
        ({"ssl_ca_certs": "/none.pem"}, "ssl_ca_certs='/none.pem' cannot be read: no such file or directory"),
    ],
)
def test_settings_that_redis_cannot_do_are_refused(settings, message):
    with pytest.raises(ConfigurationError) as caught:
        RedisLayer("rediss://h", **settings)
    assert str(caught.value) == f"layer setting {message}"


def test_longest_times_are_kept(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url, expiry=6.9e9, group_expiry=6.9e9)
    layer.group_add("news", "queue")
    layer.group_send("news", {"n": 1})
    layer.session_save("key", {"n": 2}, 1e300)
    assert layer.receive(["queue"], 0) == ("queue", {"n": 1})
    assert layer.session_load("key") == {"n": 2}

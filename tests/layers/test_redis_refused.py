"""What the Redis layer says was certainly not sent: nobody has got it, and a group's message reaches whom it can."""

import pytest

from offload.exceptions import LayerUnavailable, LayerUnreachable
from tests.layers.redis_receiver import joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import redis_server, running_redis  # noqa: F401  # a fixture


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
            return next(name for name in names if layer._ring.parts([f"{kind}:{name}"])[0][0].shown == server.url)

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

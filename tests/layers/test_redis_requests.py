"""Memberships that processes make for each other's channels on Redis, also while one of them is away for a moment."""

import re
import threading
import time

import pytest

from offload.exceptions import LayerUnavailable
from offload.layers.local.gone import GoneProcesses
from offload.layers.redis import RedisLayer
from tests.layers.redis_receiver import PATIENCE, Receiver, joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import running_redis, shared_redis_server, until  # noqa: F401  # a fixture

GONE = "reply.{}!0123456789abcdef"


def cut_off(server):
    """As a failover does, or a full output buffer: those who subscribe come back by themselves, a moment later."""
    server.run("CLIENT", "KILL", "TYPE", "pubsub")


@pytest.fixture
def pair(shared_redis_server, redis_layers):  # noqa: F811
    """Who owns channels, and another one, whose inbox is open."""
    owner, other = redis_layers(shared_redis_server.url), redis_layers(shared_redis_server.url)
    other.new_channel("inbox")
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
    other.new_channel("inbox")
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


@pytest.mark.parametrize("settings", [{}, {"encryption_keys": ["k" * 20]}], ids=["plain", "sealed"])
def test_process_that_was_cut_off_for_long_does_what_was_asked_when_it_is_back(
    shared_redis_server,  # noqa: F811
    redis_layers,  # noqa: F811
    settings,
):
    server = shared_redis_server
    assert server.run("ACL", "SETUSER", "owner", "on", ">secret", "~*", "&*", "+@all") == b"OK"
    owner = redis_layers(server.url.replace("//", "//owner:secret@"), **settings)
    other = redis_layers(server.url, timeout=0.3, **settings)
    other.new_channel("inbox")
    receiver = joined(owner, "kicked")
    server.run("ACL", "SETUSER", "owner", "off")
    assert server.run("CLIENT", "KILL", "USER", "owner")
    other.group_add("entered", receiver.channel)
    other.group_discard("kicked", receiver.channel)
    other.group_add("kicked-and-back", receiver.channel)
    other.group_discard("kicked-and-back", receiver.channel)
    other.group_add("kicked-and-back", receiver.channel)
    other.group_add("entered-and-left", receiver.channel)
    other.group_discard("entered-and-left", receiver.channel)
    other.group_add("last", receiver.channel)
    assert not owner.subscriptions.has_members("entered")
    server.run("ACL", "SETUSER", "owner", "on")
    until(lambda: owner.subscriptions.has_members("last"), "the last add")
    numsub = ("PUBSUB", "NUMSUB", "group:kicked-and-back")
    until(lambda: server.run(*numsub) == [b"group:kicked-and-back", 1], "the add")
    for group in ("kicked", "entered-and-left", "entered", "kicked-and-back"):
        other.group_send(group, {"group": group})
    assert [receiver.next()["group"] for _ in range(2)] == ["entered", "kicked-and-back"]
    # Once only.
    cut_off(server)
    until(lambda: owner.statistics()["reconnects"] >= 2, "its return")
    assert server.run("EXISTS", f"channel:left:{owner.process}") == 0


def test_what_is_left_for_a_process_that_is_gone_is_bounded(shared_redis_server, redis_layers, monkeypatch):  # noqa: F811
    monkeypatch.setattr("offload.layers.local.inbox.MOST_LEFT", 5)
    other = redis_layers(shared_redis_server.url, timeout=0.1)
    for number in range(7):
        other.group_add(f"room-{number}", GONE.format("never-back"))
    left = shared_redis_server.run("LRANGE", "channel:left:never-back", "0", "-1")
    assert [frame.split(b"\n")[2] for frame in left] == [b"room-%d" % number for number in range(2, 7)]
    assert 0 < shared_redis_server.run("PTTL", "channel:left:never-back") <= 3_610_000


def test_who_waits_for_an_answer_asks_again_when_its_own_connection_is_back(shared_redis_server, redis_layers):  # noqa: F811
    other = redis_layers(shared_redis_server.url, timeout=PATIENCE)
    with shared_redis_server.connection() as mute:
        mute.run("SUBSCRIBE", "inbox:mute")
        thread, raised = asking(other, GONE.format("mute"))
        number = question(mute)
        shared_redis_server.cut_off("subscriber")
        assert question(mute) == number
        assert shared_redis_server.run("PUBLISH", f"inbox:{other.process}", b"r%b\n" % number) == 1
        thread.join(PATIENCE)
    assert raised == []


def test_wait_for_a_silent_process_is_no_longer_than_the_timeout(shared_redis_server, redis_layers):  # noqa: F811
    other = redis_layers(shared_redis_server.url, timeout=0.1)
    other.new_channel("inbox")
    before = time.monotonic()
    other.group_add("room", GONE.format("elsewhere"))
    assert 0.1 <= time.monotonic() - before < 1.5


def asking(layer, channel):
    """Ask for a membership, in a thread. Returns the thread, and a list for what is raised."""
    raised = []

    def add():
        try:
            layer.group_add("room", channel)
        except LayerUnavailable as error:
            raised.append(str(error))

    thread = threading.Thread(target=add)
    thread.start()
    return thread, raised


def question(mute):
    """What another process was asked: the number."""
    kind, _, frame = mute.read()
    assert kind == b"message"
    return frame.partition(b"\n")[0][1:]


def test_close_ends_the_wait_for_an_answer(shared_redis_server, redis_layers):  # noqa: F811
    other = redis_layers(shared_redis_server.url, timeout=60.0)
    with shared_redis_server.connection() as mute:
        mute.run("SUBSCRIBE", "inbox:mute")
        thread, raised = asking(other, GONE.format("mute"))
        assert question(mute)
        other.check()  # behind the question, on the same connection
        other.close()
        thread.join(PATIENCE)
    assert len(raised) == 1


def test_answer_to_a_question_from_before_close_answers_none_from_after_it(shared_redis_server, redis_layers):  # noqa: F811
    other = redis_layers(shared_redis_server.url)
    inbox = f"inbox:{other.process}"
    with shared_redis_server.connection() as mute:
        mute.run("SUBSCRIBE", "inbox:mute")
        thread, _ = asking(other, GONE.format("mute"))
        before = question(mute)
        other.close()
        thread.join(PATIENCE)
        thread, raised = asking(other, GONE.format("mute"))
        after = question(mute)
        assert before != after
        assert shared_redis_server.run("PUBLISH", inbox, b"r%b\n" % before) == 1
        assert shared_redis_server.run("PUBLISH", inbox, b"r%b\nrefused" % after) == 1
        thread.join(PATIENCE)
    assert raised == ["the process that owns channel 'reply.mute!0123456789abcdef' failed: refused"]


@pytest.fixture
def shards(tmp_path):
    with running_redis(tmp_path / "healthy") as healthy, running_redis(tmp_path / "frozen") as frozen:
        yield healthy, frozen


def at(shards, shard, names):
    """The names that live on one of the shards."""
    urls = [server.url for server in shards]
    return [name for name in names if RedisLayer(urls).backend.ring.parts([name])[0][0].shown == shard.url]


def with_inbox_at(shards, shard, redis_layers, **settings):  # noqa: F811
    while True:
        layer = redis_layers([server.url for server in shards], **settings)
        if at(shards, shard, [f"inbox:{layer.process}"]):
            return layer


def test_frozen_shard_holds_up_no_requests_for_groups_of_others(shards, redis_layers):  # noqa: F811
    healthy, frozen = shards
    owner, other = (with_inbox_at(shards, healthy, redis_layers, timeout=2) for _ in range(2))
    receiver = joined(owner)
    groups = [f"group:room-{number}" for number in range(100)]
    quick, slow = (at(shards, shard, groups)[:3] for shard in shards)
    frozen.freeze()
    for number, group in enumerate(slow):
        frame = f"a{number}\n{other.process}\n{group.removeprefix('group:')}\n{receiver.channel}"
        assert healthy.run("PUBLISH", f"inbox:{owner.process}", frame) == 1
    for group in quick:
        other.group_add(group.removeprefix("group:"), receiver.channel)
        other.group_send(group.removeprefix("group:"), {"to": group})
        assert receiver.next() == {"to": group}


def test_answer_that_cannot_be_given_holds_up_no_other(shards, redis_layers):  # noqa: F811
    healthy, frozen = shards
    owner, other = (with_inbox_at(shards, healthy, redis_layers, timeout=2) for _ in range(2))
    receiver = joined(owner)
    groups = at(shards, healthy, [f"group:room-{number}" for number in range(100)])
    asker = at(shards, frozen, [f"inbox:asker-{number}" for number in range(100)])[0].removeprefix("inbox:")
    frozen.freeze()
    for number in range(3):
        frame = f"a{number}\n{asker}\n{groups[0].removeprefix('group:')}\n{receiver.channel}"
        assert healthy.run("PUBLISH", f"inbox:{owner.process}", frame) == 1
    other.group_add(groups[1].removeprefix("group:"), receiver.channel)


def test_requests_that_nobody_waits_for_any_more_are_dropped(shards, redis_layers):  # noqa: F811
    healthy, frozen = shards
    owner = with_inbox_at(shards, healthy, redis_layers, timeout=0.4)
    receiver = joined(owner)
    mute = at(shards, healthy, [f"inbox:mute-{number}" for number in range(100)])[0]
    slow = at(shards, frozen, [f"group:room-{number}" for number in range(100)])[:10]
    with healthy.connection() as asker:
        asker.run("SUBSCRIBE", mute)
        frozen.freeze()
        for number, group in enumerate(slow):
            frame = "\n".join(
                (f"a{number}", mute.removeprefix("inbox:"), group.removeprefix("group:"), receiver.channel)
            )
            healthy.run("PUBLISH", f"inbox:{owner.process}", frame)
        answers = [asker.read()[2].decode().split("\n") for _ in slow]
    # They wait beside each other.
    assert {number for number, _ in answers} == {f"r{number}" for number in range(10)}
    assert all(re.search(r"no answer|too late, after more than 0\.4 s", reason) for _, reason in answers)


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

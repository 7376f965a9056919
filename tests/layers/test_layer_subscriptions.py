"""Local subscriptions, and keeping the server's in step with them."""

import threading

import pytest

from offload.exceptions import LayerUnavailable, OffloadError
from offload.layers.link.upstream import Upstream
from offload.layers.local.subscriptions import Subscriptions
from tests.redis_server import until


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def make(*channels):
    clock = Clock()
    subscriptions = Subscriptions(100.0, clock)
    got = {channel: [] for channel in channels}
    for channel in channels:
        subscriptions.attach(channel, got[channel].append)
    return subscriptions, got, clock


def test_subscriptions_say_which_member_was_last_out():
    subscriptions, _, _ = make("a", "b")
    assert subscriptions.add("g", "a")
    assert subscriptions.add("g", "b")
    assert not subscriptions.discard("g", "a")
    assert not subscriptions.discard("g", "a")
    assert subscriptions.has_members("g")
    assert subscriptions.discard("g", "b")
    assert not subscriptions.has_members("g")


def test_subscriptions_add_no_channel_that_is_not_attached():
    subscriptions, _, _ = make("a")
    subscriptions.detach("a")
    assert not subscriptions.add("g", "a")
    assert not subscriptions.has_members("g")


@pytest.mark.parametrize("groups", [[], ["g"], ["g", "h", "i"]])
def test_detach_leaves_groups_and_says_which_are_empty(groups):
    subscriptions, got, _ = make("a", "b")
    for group in groups:
        subscriptions.add(group, "a")
    subscriptions.add("shared", "a")
    subscriptions.add("shared", "b")
    assert sorted(subscriptions.detach("a")) == groups
    assert subscriptions.detach("a") == []
    assert subscriptions.fan_out("shared", {}) == 1
    assert len(got["b"]) == 1
    assert len(subscriptions) == 1


def test_fan_out_hands_one_delivery_to_each_member():
    subscriptions, got, _ = make("a", "b", "c")
    subscriptions.add("g", "a")
    subscriptions.add("g", "b")
    assert subscriptions.fan_out("g", {"n": 1}, more=True) == 2
    assert got["a"] == got["b"]
    assert got["c"] == []
    assert (got["a"][0].content, got["a"][0].more, got["a"][0].prepared) == ({"n": 1}, True, None)


def test_fan_out_survives_members_that_leave_and_raise_meanwhile(caplog):
    subscriptions, got, _ = make("last", "new")

    def leave(delivery):
        subscriptions.detach("next")
        subscriptions.add("g", "new")
        raise RuntimeError("boom")

    subscriptions.attach("leaver", leave)
    subscriptions.attach("next", got["last"].append)
    for channel in ("leaver", "next", "last"):
        subscriptions.add("g", channel)
    # Who was there when the message came is reached, and nobody else.
    assert subscriptions.fan_out("g", {}) == 3
    assert (len(got["last"]), len(got["new"])) == (2, 0)
    [record] = caplog.records
    assert (record.name, record.levelname, record.exc_info[0]) == ("offload.layer", "ERROR", RuntimeError)
    assert record.message == "receiver of channel leaver raised; the other members are not affected"
    # "next" has left, "new" has come.
    assert subscriptions.fan_out("g", {}) == 3
    assert (len(got["last"]), len(got["new"])) == (3, 1)


def test_the_receivers_of_a_group_follow_every_change():
    subscriptions, got, clock = make("a", "b", "c")
    again = []

    def reached():
        before = {channel: len(inbox) for channel, inbox in {**got, "again": again}.items()}
        subscriptions.fan_out("g", {})
        return {channel for channel, inbox in {**got, "again": again}.items() if len(inbox) > before[channel]}

    assert reached() == set()
    subscriptions.add("g", "a")
    assert reached() == {"a"}
    subscriptions.add("g", "b")
    assert reached() == {"a", "b"}
    subscriptions.discard("g", "a")
    assert reached() == {"b"}
    subscriptions.attach("b", again.append)
    assert reached() == {"again"}
    clock.now = 60
    subscriptions.add("g", "c")
    assert reached() == {"again", "c"}
    clock.now = 110
    assert reached() == {"c"}
    subscriptions.detach("c")
    assert reached() == set()
    subscriptions.add("g", "a")
    assert reached() == {"a"}
    subscriptions.clear_groups()
    assert reached() == set()


def test_memberships_expire_unless_added_again():
    subscriptions, got, clock = make("a", "b")
    subscriptions.add("g", "a")
    subscriptions.add("h", "a")
    subscriptions.add("g", "b")
    clock.now = 60
    subscriptions.add("g", "a")
    clock.now = 100
    assert subscriptions.fan_out("g", {}) == 1
    assert (len(got["a"]), len(got["b"])) == (1, 0)
    assert subscriptions.fan_out("h", {}) == 0
    assert not subscriptions.has_members("h")
    assert subscriptions.detach("a") == ["g"]
    assert subscriptions.detach("b") == []


class Server:
    """Notes what it is asked; a subscription waits at `gate`."""

    def __init__(self):
        self.calls = []
        self.wanted = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error = None
        self.upstream = Upstream(self.subscribe, self.unsubscribe, self.wanted.__contains__)

    def subscribe(self, name):
        self.calls.append(("+", name))
        self.entered.set()
        assert self.gate.wait(5)
        if self.error:
            raise self.error

    def unsubscribe(self, name):
        self.calls.append(("-", name))


def run(target, *args):
    outcome = []

    def call():
        try:
            outcome.append(target(*args))
        except OffloadError as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    return thread, outcome


def test_upstream_subscribes_once_and_again_after_leaving():
    server = Server()
    server.wanted.add("g")
    server.upstream.ensure("g")
    server.upstream.ensure("g")
    assert server.upstream.is_in_force("g")
    server.upstream.release("g")
    assert server.calls == [("+", "g")]
    server.wanted.clear()
    server.upstream.release("g")
    server.upstream.release("g")
    assert not server.upstream.is_in_force("g")
    server.wanted.add("g")
    server.upstream.ensure("g")
    assert server.calls == [("+", "g"), ("-", "g"), ("+", "g")]


def test_upstream_lets_the_second_wait_until_the_first_is_through():
    server = Server()
    server.wanted.add("g")
    server.gate.clear()
    threads = [run(server.upstream.ensure, "g") for _ in range(3)]
    assert server.entered.wait(5)
    assert not any(outcome for _, outcome in threads)
    assert not server.upstream.is_in_force("g")
    server.gate.set()
    for thread, outcome in threads:
        thread.join(5)
        assert outcome == [None]
    assert server.calls == [("+", "g")]


def test_upstream_leaves_when_the_last_member_left_during_subscribing():
    server = Server()
    server.wanted.add("g")
    server.gate.clear()
    thread, outcome = run(server.upstream.ensure, "g")
    assert server.entered.wait(5)
    server.wanted.clear()
    server.upstream.release("g")
    server.gate.set()
    thread.join(5)
    assert outcome == [None]
    assert server.calls == [("+", "g"), ("-", "g")]
    assert not server.upstream.is_in_force("g")


def test_upstream_failure_reaches_all_who_wait_and_is_forgotten():
    server = Server()
    server.wanted.add("g")
    server.gate.clear()
    server.error = LayerUnavailable("down")
    first, outcome = run(server.upstream.ensure, "g")
    assert server.entered.wait(5)
    second, other = run(server.upstream.ensure, "g")
    server.gate.set()
    first.join(5)
    second.join(5)
    # The second waited for the first, or came after it and was told the same by the server.
    assert [str(error) for error in outcome + other] == ["down", "down"]
    assert outcome == [server.error]
    # One object for both would collect the tracebacks of both.
    assert other != outcome
    server.error = None
    server.upstream.ensure("g")
    assert server.upstream.is_in_force("g")


def lost(server):
    """A group in force that is lost; one who adds to it waits."""
    server.wanted.add("g")
    server.upstream.ensure("g")
    server.upstream.lose(["g", "unknown"], "the server went", 5)
    thread, outcome = run(server.upstream.ensure, "g")
    until(lambda: server.upstream._losses["g"].ended is not None, "somebody to wait")
    return thread, outcome


def test_upstream_waits_for_the_return_of_what_is_lost():
    server = Server()
    thread, outcome = lost(server)
    assert not outcome
    assert server.upstream.is_in_force("g")
    server.upstream.restore("g")
    thread.join(5)
    assert outcome == [None]
    assert server.calls == [("+", "g")]
    server.wanted.add("unknown")
    server.upstream.ensure("unknown")


def test_upstream_waits_for_a_return_no_longer_than_it_may():
    server = Server()
    server.wanted.add("g")
    server.upstream.ensure("g")
    server.upstream.lose(["g"], "the server went", 0.01)
    for _ in range(2):
        with pytest.raises(LayerUnavailable, match=r"^the server went; the subscription was not back within 0\.01 s$"):
            server.upstream.ensure("g")
    server.wanted.clear()
    server.upstream.release("g")
    server.wanted.add("g")
    server.upstream.ensure("g")
    server.upstream.ensure("g")
    assert server.calls == [("+", "g"), ("-", "g"), ("+", "g")]


def test_upstream_subscribes_anew_to_what_was_given_up():
    server = Server()
    thread, outcome = lost(server)
    server.upstream.give_up("g")
    thread.join(5)
    assert outcome == [None]
    assert server.calls == [("+", "g"), ("+", "g")]


def test_upstream_lets_nobody_wait_after_its_end():
    server = Server()
    thread, outcome = lost(server)
    server.upstream.close(LayerUnavailable("closed"))
    thread.join(5)
    assert [str(error) for error in outcome] == ["closed"]


def test_upstream_interrupted_after_the_answer_gives_the_subscription_up_again():
    server = Server()
    server.wanted.add("g")
    looked = iter([KeyboardInterrupt])

    def wanted(name):
        for interruption in looked:
            raise interruption
        return name in server.wanted

    upstream = Upstream(server.subscribe, server.unsubscribe, wanted)
    with pytest.raises(KeyboardInterrupt):
        upstream.ensure("g")
    assert server.calls == [("+", "g"), ("-", "g")]
    upstream.ensure("g")
    assert upstream.is_in_force("g")

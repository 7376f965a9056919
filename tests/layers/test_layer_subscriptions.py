"""Attached channels of a process, and their groups."""

import pytest

from offload.layers.local.subscriptions import Subscriptions


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


def test_fan_out_hands_several_contents_over_together_where_all_members_take_that():
    subscriptions, got, _ = make("a", "b")
    for channel in got:
        subscriptions.attach(channel, got[channel].append, joins=True)
        subscriptions.add("g", channel)
    assert subscriptions.fan_out("g", {"n": 1}, {"n": 2}, more=True) == 2
    assert got["a"] == got["b"]
    (joined,) = got["a"]
    assert [(part.content, part.more) for part in joined.parts] == [({"n": 1}, True), ({"n": 2}, True)]
    assert joined.more
    # A receiver that takes them one by one, in the place of one that took several.
    subscriptions.attach("a", got["a"].append)
    subscriptions.fan_out("g", {"n": 3}, {"n": 4})
    for member in got.values():
        assert [(each.content, each.more, each.parts) for each in member[1:]] == [
            ({"n": 3}, True, ()),
            ({"n": 4}, False, ()),
        ]
    subscriptions.detach("a")
    subscriptions.fan_out("g", {"n": 5}, {"n": 6})
    assert [part.content for part in got["b"][-1].parts] == [{"n": 5}, {"n": 6}]


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

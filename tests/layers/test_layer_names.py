"""Rules for channel and group names."""

import gc
import weakref

import pytest

from offload.exceptions import InvalidChannelName
from offload.layers.words import names


@pytest.mark.parametrize("name", ["a", "websocket.receive", "reply.Pq_-9!x", "single?x", "x" * 99])
def test_check_channel_accepts(name):
    names.check_channel(name)


@pytest.mark.parametrize(
    "name", ["", "!", "a!", "!a", "a?", "a!b!c", "a?b!c", "a b", "a\n", "é", "x" * 100, None, 1, [], b"a"]
)
def test_check_channel_refuses(name):
    with pytest.raises(InvalidChannelName):
        names.check_channel(name)


@pytest.mark.parametrize("name", ["", "a!b", "a?b", "a b", "x" * 100, None])
def test_check_group_refuses(name):
    with pytest.raises(InvalidChannelName):
        names.check_group(name)


def test_complaints_name_the_value_and_the_rule():
    with pytest.raises(InvalidChannelName) as caught:
        names.check_channel("two words")
    assert str(caught.value) == (
        "channel name 'two words' must be letters, digits, '-', '_' and '.',"
        " with at most one '!' or '?', which neither begins nor ends it"
    )
    with pytest.raises(InvalidChannelName) as caught:
        names.check_group("x" * 100)
    assert str(caught.value) == f"group name {'x' * 40!r}... has 100 characters; at most 99 are allowed"
    with pytest.raises(InvalidChannelName) as caught:
        names.check_channel(None)
    assert str(caught.value) == "channel name None is a NoneType, not a str; give one name, as text"
    with pytest.raises(InvalidChannelName) as caught:
        names.check_group(["one", "two"] * 1000)
    assert str(caught.value) == (
        "group name ['one', 'two', 'one', 'two', 'one', 'two', ...] is a list, not a str; give one name, as text"
    )


def test_owner_is_the_process_of_a_new_channel():
    process = names.new_process_token()
    channel = names.new_channel("websocket.send", process)
    assert channel.startswith(f"websocket.send.{process}!")
    assert names.owner(channel) == process
    assert names.owner("plain.name") == ""
    assert names.owner(names.new_channel("answer?", process)) == ""


@pytest.mark.parametrize("prefix", ["", "two words", "a!b", None, b"bytes", ["list"]])
def test_new_channel_refuses_a_prefix_that_makes_no_name(prefix):
    with pytest.raises(InvalidChannelName):
        names.new_channel(prefix, names.new_process_token())


class Held(str):
    """A name that holds something, as a consumer's channel holds its layer."""


@pytest.mark.parametrize("check", [names.check_channel, names.check_group])
def test_checked_name_keeps_nothing_alive(check):
    name = Held("held-by-nobody")
    gone = weakref.ref(name)
    check(name)
    del name
    gc.collect()
    assert gone() is None

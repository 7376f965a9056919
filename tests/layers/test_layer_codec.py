"""Contents to bytes and back."""

import collections
import enum
import json
import math
import sys

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.exceptions import MessageTooLarge
from offload.layers.words.codec import ENVELOPE, MAX_DEPTH, Codec, UndecodableMessage, check_content, copy_content

CODEC = Codec(1_000_000)

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
)
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
contents = st.dictionaries(st.text(), values)


def exactly(value):
    """A form in which values are equal only when their types are, too."""
    if isinstance(value, dict):
        return {key: exactly(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exactly(item) for item in value]
    return (type(value), value, math.copysign(1, value) if isinstance(value, float) else 0)


@given(contents)
def test_codec_brings_contents_back_exactly(content):
    data = CODEC.encode(content)
    assert exactly(CODEC.decode(data)) == exactly(content)
    assert data[0] not in (ord("{"), ENVELOPE)


@given(st.binary(max_size=50))
def test_codec_decodes_any_bytes_to_a_valid_content_or_says_why_not(data):
    try:
        check_content(CODEC.decode(data), 1_000_000)
    except UndecodableMessage:
        pass


def test_codec_accepts_json_text():
    content = {"text": "grüße", "n": [1, 2.5, None, True, {"a": 2**70}]}
    assert CODEC.decode(json.dumps(content).encode()) == content
    assert CODEC.decode(json.dumps(content, ensure_ascii=False, indent=2).encode()) == content
    assert CODEC.decode(b'\n {"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "message is empty"),
        (b"\xc1\x01sealed", "message is sealed, and this layer has no encryption_keys"),
        (b"\xc1", "message has an envelope of unknown kind none"),
        (b'{"a": ', "message is no valid content: "),
        (b"[1]", "message is no valid content: "),
        (msgpack.packb([1]), "message is no valid content: content is a list, not a dict"),
        (msgpack.packb({b"a": 1}), "message is no valid content: content has the key b'a' of type bytes"),
        (msgpack.packb({"a": msgpack.Timestamp(1)}), "message is no valid content: "),
        (
            msgpack.packb({"a": msgpack.ExtType(9, b"")}),
            "message is no valid content: unknown msgpack extension type 9",
        ),
        (msgpack.packb({"a": 1}) + b"x", "message is no valid content: "),
        (msgpack.packb({"a": "xyz"})[:-1], "message is no valid content: "),
        (b'{"a":' + b"[" * 100_000, "message is no valid content: "),
    ],
)
def test_codec_says_why_bytes_are_no_message(data, reason):
    with pytest.raises(UndecodableMessage) as caught:
        CODEC.decode(data)
    assert str(caught.value).startswith(reason)


class Color(str, enum.Enum):
    RED = "red"


class SafeText(str):
    pass


def test_codec_turns_subclasses_into_the_plain_type():
    content = {
        SafeText("key"): SafeText("safe"),
        "enum": Color.RED,
        "int": enum.IntEnum("Number", {"ONE": 1}).ONE,
        "big": type("Big", (int,), {})(2**70),
        "ordered": collections.OrderedDict(a=1),
        "list": type("Rows", (list,), {})([1]),
    }
    expected = {"key": "safe", "enum": "red", "int": 1, "big": 2**70, "ordered": {"a": 1}, "list": [1]}
    assert exactly(CODEC.decode(CODEC.encode(content))) == exactly(expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "content is a NoneType, not a dict"),
        ([1], "content is a list, not a dict"),
        ({1: 2}, "content has the key 1 of type int; keys must be str"),
        (
            {"a": [{"b": ({1},)}]},
            "content['a'][0]['b'][0] is a set, but messages carry None, bool, int, float, str, bytes, list and dict"
            " only",
        ),
        (
            {"a": collections.deque()},
            "content['a'] is a collections.deque, but messages carry None, bool, int, float, str, bytes, list and dict"
            " only",
        ),
        ({"a": {"b": {1: 2}}}, "content['a']['b'] has the key 1 of type int; keys must be str"),
    ],
)
def test_refusal_names_the_key_path_and_type(content, message):
    for refuse in (CODEC.encode, lambda content: check_content(content, 1000)):
        with pytest.raises(TypeError) as caught:
            refuse(content)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    "value", [bytearray(b"a"), memoryview(b"a"), {1}, 1j, msgpack.Timestamp(1), msgpack.ExtType(1, b"")]
)
def test_what_msgpack_would_change_is_refused(value):
    with pytest.raises(TypeError):
        CODEC.encode({"a": [value]})


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_nesting_is_carried_up_to_the_limit(wrap):
    content = None
    for _ in range(MAX_DEPTH - 1):
        content = wrap(content)
    content = {"a": content}
    assert CODEC.decode(CODEC.encode(content)) == content
    with pytest.raises(TypeError, match="content is nested more than 100 levels deep"):
        CODEC.encode({"a": content})


def test_content_that_holds_itself_is_refused():
    content = {}
    content["self"] = [content]
    with pytest.raises(TypeError, match="nested"):
        CODEC.encode(content)


def test_codec_holds_the_size_limit_in_both_directions():
    small = Codec(100)
    at_limit = {"text": "x" * (100 - len(small.encode({"text": ""})) - 1)}
    assert len(small.encode(at_limit)) == 100
    with pytest.raises(MessageTooLarge) as caught:
        small.encode({"text": at_limit["text"] + "x"})
    assert str(caught.value) == "message of 101 bytes is over the layer's limit of 100 (setting 'max_size')"
    with pytest.raises(UndecodableMessage):
        small.decode(CODEC.encode({"text": "x" * 100}))


def test_check_content_counts_nested_values():
    check_content({"a": ["x" * 50, {"b": b"y" * 50}]}, 100)
    with pytest.raises(MessageTooLarge):
        check_content({"a": ["x" * 50, {"b": b"y" * 51}]}, 100)
    with pytest.raises(MessageTooLarge):
        check_content({"a": "x" * 50, "b": b"y" * 51}, 100)


def test_copy_content_shares_no_container():
    content = {"a": [1, {"b": [2]}]}
    copied = copy_content(content)
    content["a"][1]["b"].append(3)
    assert copied == {"a": [1, {"b": [2]}]}


def test_integers_longer_than_the_interpreter_prints_are_carried():
    number = 10 ** (sys.get_int_max_str_digits() + 10) if hasattr(sys, "get_int_max_str_digits") else 10**5000
    assert CODEC.decode(CODEC.encode({"n": number})) == {"n": number}

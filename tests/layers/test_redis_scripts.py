"""The small languages of the Redis layer's scripts."""

import fnmatch
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from offload.layers.redis_scripts import STAMP_LENGTH, lua_pattern, milliseconds, payload_of
from tests.redis_server import shared_redis_server  # noqa: F401  # a fixture

CHARACTERS = "aBz09-_.!?"
globs = st.text("aBz09-_.*?[]!^%$", max_size=8)
channels = st.text(CHARACTERS, min_size=1, max_size=6)


def test_globs_mean_the_same_in_lua(shared_redis_server):  # noqa: F811
    with shared_redis_server.connection() as client:

        @settings(max_examples=1500, deadline=None)
        @given(globs, channels)
        def compare(glob, channel):
            expected = re.match(fnmatch.translate(glob), channel) is not None
            found = client.run(
                "EVAL", "return string.find(ARGV[1], ARGV[2]) and 1 or 0", "0", channel, lua_pattern(glob)
            )
            assert found == expected, lua_pattern(glob)

        compare()


def test_item_without_a_stamp_is_all_payload():
    assert payload_of(b"1234567890123payload") == b"payload"
    assert len("1234567890123") == STAMP_LENGTH
    assert payload_of(b"{}") == b"{}"


def test_shortest_lifetime_is_a_millisecond():
    assert [milliseconds(seconds) for seconds in (1e-9, 0.0014, 60.0)] == [1, 1, 60_000]

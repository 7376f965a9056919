"""The small parts of the Redis layer's scripts."""

from offload.layers.redis.scripts import STAMP_LENGTH, milliseconds, payload_of


def test_item_without_a_stamp_is_all_payload():
    assert payload_of(b"1234567890123payload") == b"payload"
    assert len("1234567890123") == STAMP_LENGTH
    assert payload_of(b"{}") == b"{}"


def test_shortest_lifetime_is_a_millisecond():
    assert [milliseconds(seconds) for seconds in (1e-9, 0.0014, 60.0)] == [1, 1, 60_000]

"""WebSocket frames, by the sections of RFC 6455. `websockets` reads the same bytes wherever the two agree."""

from __future__ import annotations

import pytest

from offload.protocol.websocket.connection import Close, Event, Failure, Ping, Pong, WebSocketProtocol
from offload.protocol.websocket.frames import (
    BINARY,
    TEXT,
    binary_frame,
    close_frame,
    data_frame,
    may_be_sent,
    ping_frame,
    pong_frame,
    text_frame,
)
from tests.protocol import frames
from tests.protocol.frames import (
    CLOSE,
    CONT,
    PING,
    PONG,
    check_not_laxer,
    close,
    codes,
    frame,
    message,
    octets,
    read,
    theirs,
)

SIZES = [0, 1, 125, 126, 127, 128, 65535, 65536, 65537]


def arrives(stream: bytes, *expected: Event) -> None:
    """The stream gives these events, whole and octet by octet, and to the oracle as well."""
    assert codes(read(stream)) == list(expected)
    if len(stream) < 3000:
        assert codes(read(stream, octets(stream))) == list(expected)
    assert codes(theirs(stream)) == list(expected)


# 5.2 Base framing.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [str, bytes])
def test_whole_message_of_each_length_form_arrives(kind: type, size: int) -> None:
    payload = "*" * size if kind is str else b"\xfe" * size
    arrives(b"".join(message(payload)), payload)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [1, 997, 65536])
def test_whole_message_arrives_in_steps(size: int, step: int) -> None:
    stream = b"".join(message("€" * (size // 3)))
    if step == 1 and size > 1000:
        stream = stream[:20] + stream[20:]
        cuts = [*range(1, 20), *range(20, len(stream), 501)]
    else:
        cuts = list(range(step, len(stream), step))
    assert read(stream, cuts) == ["€" * (size // 3)]


@pytest.mark.parametrize(
    ("length", "stream"),
    [(125, b"\x82\xfe\x00\x7d"), (0, b"\x82\xfe\x00\x00"), (65535, b"\x82\xff" + (65535).to_bytes(8, "big"))],
)
def test_length_that_is_not_in_its_shortest_form_fails(length: int, stream: bytes) -> None:
    assert codes(read(stream + b"mask" + b"x" * length)) == [Failure(1002, "")]


def test_length_with_its_highest_bit_set_fails() -> None:
    assert codes(read(b"\x82\xff" + (1 << 63).to_bytes(8, "big") + b"mask")) == [Failure(1002, "")]


def test_frame_without_mask_fails_at_its_second_byte() -> None:
    assert codes(read(frame(TEXT, b"hello", mask=False)[:2])) == [Failure(1002, "")]
    assert theirs(frame(TEXT, b"hello", mask=False)) == [Failure(1002, "")]


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [CONT, TEXT, BINARY, CLOSE, PING, PONG])
def test_reserved_bit_fails_and_what_came_before_arrives(rsv: int, opcode: int) -> None:
    arrives(b"".join(message("first")) + frame(opcode, b"", rsv=rsv) + frame(PING), "first", Failure(1002, ""))


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("payload", [b"", b"data"])
def test_reserved_opcode_fails_and_what_came_before_arrives(opcode: int, payload: bytes) -> None:
    arrives(b"".join(message("first")) + frame(opcode, payload) + frame(PING), "first", Failure(1002, ""))


def test_wrong_first_bytes_are_refused_before_the_rest_comes() -> None:
    assert codes(read(frame(TEXT, b"x" * 1000, rsv=1)[:2])) == [Failure(1002, "")]


def test_nothing_is_read_after_a_failure() -> None:
    protocol = WebSocketProtocol(100)
    assert len(protocol.receive(frame(3))) == 1
    assert protocol.receive(b"".join(message("more"))) == []


# 5.4 Fragmentation.


@pytest.mark.parametrize("pieces", [(0,), (0, 0, 0), (1, 2), (3, 0, 1)])
def test_fragments_are_joined(pieces: tuple[int, ...]) -> None:
    arrives(b"".join(message("fragments", pieces)), "fragments")
    arrives(b"".join(message(b"fragments", pieces)), b"fragments")


def test_fragmented_empty_message_arrives() -> None:
    arrives(frame(TEXT, fin=False) + frame(CONT, fin=False) + frame(CONT), "")


def test_control_frames_between_fragments_come_first() -> None:
    first, second, third = message("fragments", (4, 2))
    arrives(
        first + frame(PING, b"1") + second + frame(PONG, b"2") + frame(PING, b"3") + third,
        Ping(b"1"),
        Pong(b"2"),
        Ping(b"3"),
        "fragments",
    )


@pytest.mark.parametrize("final", [True, False])
def test_continuation_of_nothing_fails(final: bool) -> None:
    arrives(frame(CONT, b"more", fin=final) + frame(TEXT, b"next"), Failure(1002, ""))
    arrives(b"".join(message("whole", (2,))) + frame(CONT, b"more", fin=final), "whole", Failure(1002, ""))


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("final", [True, False])
def test_message_inside_another_one_fails(opcode: int, final: bool) -> None:
    arrives(frame(TEXT, b"one", fin=False) + frame(opcode, b"two", fin=final), Failure(1002, ""))


def test_more_frames_than_a_message_may_have_fail() -> None:
    stream = frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 1024
    assert codes(read(stream, max_size=100)) == [Failure(1008, "")]
    assert codes(read(stream[: -2 * len(frame(CONT))] + frame(CONT), max_size=100)) == [""]


# 5.5 Control frames.


@pytest.mark.parametrize("size", [0, 1, 125])
def test_ping_and_pong_arrive_with_their_payload(size: int) -> None:
    arrives(frame(PING, b"\xff" * size) + frame(PONG, b"\x00" * size), Ping(b"\xff" * size), Pong(b"\x00" * size))


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_control_frame_of_more_than_125_bytes_fails_at_its_second_byte(opcode: int) -> None:
    stream = frame(opcode, b"x" * 126)
    arrives(stream, Failure(1002, ""))
    assert codes(read(stream[:2])) == [Failure(1002, "")]


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_fragmented_control_frame_fails(opcode: int) -> None:
    arrives(frame(opcode, b"", fin=False), Failure(1002, ""))


def test_ten_pings_arrive_in_order() -> None:
    stream = b"".join(frame(PING, b"payload-%d" % number) for number in range(10))
    arrives(stream, *(Ping(b"payload-%d" % number) for number in range(10)))


# 5.5.1 and 7 Closing.

VALID = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
INVALID = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.mark.parametrize("code", VALID)
def test_close_with_each_allowed_code_arrives(code: int) -> None:
    arrives(close(code), Close(code, ""))
    arrives(close(code, "bye €".encode()), Close(code, "bye €"))
    assert may_be_sent(code)


@pytest.mark.parametrize("code", INVALID)
def test_close_with_a_reserved_code_fails(code: int) -> None:
    assert codes(read(close(code))) == [Failure(1002, "")]
    assert not may_be_sent(code)


def test_close_without_a_code_arrives_as_1005() -> None:
    arrives(close(), Close(1005, ""))


def test_close_with_half_a_code_fails() -> None:
    arrives(frame(CLOSE, b"\x03"), Failure(1002, ""))


def test_close_with_the_longest_reason_arrives() -> None:
    arrives(close(1000, b"*" * 123), Close(1000, "*" * 123))


def test_close_whose_reason_is_not_utf8_fails() -> None:
    assert codes(read(close(1000, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80"))) == [Failure(1007, "")]


def test_nothing_is_read_after_a_close() -> None:
    arrives(close(1000) + frame(PING) + b"".join(message("late")), Close(1000, ""))
    arrives(close(1000) + close(1001), Close(1000, ""))


def test_close_inside_a_fragmented_message_ends_it() -> None:
    assert read(frame(TEXT, b"begun", fin=False) + close(1000) + frame(CONT)) == [Close(1000, "")]


# 5.6 and 8.1 Text is UTF-8.

KOSME = "κόσμε"
GOOD = [
    "",
    KOSME,
    "Hello-µ@ßöäüàá-UTF-8!!",
    "\x00",
    "\x7f",
    "\x80",
    "\u07ff",
    "\u0800",
    "\uffff",
    "\ufffe",
    "\U00010000",
    "\U0010ffff",
    "\ud7ff",
    "\ue000",
    "\ufffd",
    "\U0001fffe",
]
BAD = [
    b"\x80",
    b"\xbf",
    b"\x80\xbf\x80",
    b"\xc0",
    b"\xc1\xbf",
    b"\xc0\x80",
    b"\xe0\x80\x80",
    b"\xf0\x80\x80\x80",
    b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf5",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\xce",
    b"\xe2\x82",
    b"\xf0\x9f\x98",
    KOSME.encode() + b"\xed\xa0\x80edited",
]


@pytest.mark.parametrize("text", GOOD)
def test_utf8_arrives_however_it_is_cut(text: str) -> None:
    data = text.encode()
    arrives(frame(TEXT, data), text)
    arrives(b"".join(message(text, [1] * max(0, len(data) - 1))), text)


@pytest.mark.parametrize("data", BAD)
def test_text_that_is_not_utf8_fails(data: bytes) -> None:
    arrives(frame(TEXT, data), Failure(1007, ""))
    pieces = [frame(TEXT if not at else CONT, data[at : at + 1], fin=False) for at in range(len(data))]
    assert codes(read(b"".join(pieces) + frame(CONT))) == [Failure(1007, "")]


def test_bytes_that_are_not_utf8_are_fine_in_a_binary_message() -> None:
    for data in BAD:
        arrives(frame(BINARY, data), data)


def test_wrong_utf8_in_a_fragment_fails_before_the_message_is_whole() -> None:
    good, bad = KOSME.encode(), b"\xf4\x90\x80\x80"
    assert codes(read(frame(TEXT, good, fin=False) + frame(CONT, bad, fin=False))) == [Failure(1007, "")]


def test_wrong_utf8_fails_at_its_first_wrong_octet_inside_a_frame() -> None:
    good, bad = KOSME.encode(), b"\xf4\x90"
    stream = frame(TEXT, good + bad + b"\x80\x80edited")
    protocol = WebSocketProtocol(1000)
    events: list[list[Event]] = [protocol.receive(stream[at : at + 1]) for at in range(len(stream))]
    failed = next(at for at, found in enumerate(events) if found)
    assert failed == 6 + len(good) + 1
    assert codes(events[failed]) == [Failure(1007, "")]


# 10.4 Limits.


@pytest.mark.parametrize("kind", [str, bytes])
def test_message_of_the_largest_size_arrives_and_a_larger_one_fails(kind: type) -> None:
    fits = "x" * 1000 if kind is str else b"x" * 1000
    large = fits + fits[:1]
    for pieces in ((), (400, 600), (999,)):
        assert read(b"".join(message(fits, pieces)), max_size=1000) == [fits]
        assert codes(read(b"".join(message(large, pieces)), max_size=1000)) == [Failure(1009, "")]


def test_too_large_a_frame_is_refused_at_its_header() -> None:
    header = frame(BINARY, b"x" * 70000)[:14]
    assert codes(read(header, max_size=65536)) == [Failure(1009, "")]


def test_what_is_not_whole_takes_no_more_memory_than_it_has_bytes() -> None:
    import tracemalloc

    stream = frame(BINARY, bytes(200_000))[:-1]
    protocol = WebSocketProtocol(1 << 20)
    tracemalloc.start()
    for at in range(0, len(stream), 2):
        assert protocol.receive(stream[at : at + 2]) == []
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 300_000


# 5.1 What is sent.


@pytest.mark.parametrize("size", SIZES)
def test_sent_frames_are_read_by_a_client(size: int) -> None:
    from websockets.client import ClientProtocol
    from websockets.frames import Frame
    from websockets.uri import parse_uri

    client = ClientProtocol(parse_uri("ws://localhost/"))
    client.state = client.state.__class__.OPEN
    client.parser = client.parse()
    next(client.parser)
    sent = [text_frame("x" * size), binary_frame(b"x" * size), data_frame(TEXT, b"x" * size)]
    control = b"x" * min(size, 125)
    for data in (*sent, ping_frame(control), pong_frame(control)):
        client.receive_data(data)
    found = [event for event in client.events_received() if isinstance(event, Frame)]
    assert [event.opcode for event in found] == [TEXT, BINARY, TEXT, PING, PONG]
    assert [bytes(event.data) for event in found] == [b"x" * size] * 3 + [control] * 2
    client.receive_data(close_frame(1000, "€" * 60))
    assert client.close_rcvd is not None
    assert (client.close_rcvd.code, client.close_rcvd.reason) == (1000, "€" * 41)


def test_close_frame_of_no_code_is_empty() -> None:
    assert close_frame(1005) == b"\x88\x00"


def test_helper_makes_the_frames_it_is_asked_for() -> None:
    assert frames.frame(3)[0] == 0x83
    assert frames.frame(PING, b"x" * 126)[1] == 0x80 | 126


def test_length_over_the_limit_is_judged_as_soon_as_the_header_is_whole() -> None:
    header = b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"mask"
    assert read(header[:-1]) == []
    assert theirs(header[:-1]) == [Failure(1009, "")]
    check_not_laxer(header[:-1], read(header[:-1]), theirs(header[:-1]))
    assert codes(read(header)) == [Failure(1009, "")]

"""permessage-deflate, by the sections of RFC 7692; the `websockets` library is the other side."""

from __future__ import annotations

import random
import zlib

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.headers import parse_extension

from offload.protocol.websocket.connection import Failure, Ping, WebSocketProtocol
from offload.protocol.websocket.deflate import TooBig, inflate, negotiate
from offload.protocol.websocket.frames import BINARY, SMALLEST_BYTES, message_frame
from tests.protocol.frames import CONT, PING, TEXT, agreement, codes, deflated, frame, message, octets, read, theirs

NONE = b"; server_no_context_takeover; client_no_context_takeover"
PLAIN = agreement()

# 7.1 Offers. What is asked for is met or the offer is declined; the next one is tried then.


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (b"permessage-deflate", NONE),
        (b"Permessage-Deflate", NONE),
        (b"permessage-deflate; client_max_window_bits", NONE),
        (b"permessage-deflate; client_max_window_bits=8", NONE),
        (b'permessage-deflate; client_max_window_bits="15"', NONE),
        (b"permessage-deflate; server_no_context_takeover", NONE),
        (b"permessage-deflate; client_no_context_takeover; server_no_context_takeover", NONE),
        (b"permessage-deflate;server_max_window_bits=15", NONE + b"; server_max_window_bits=15"),
        (b"permessage-deflate ; server_max_window_bits = 9", NONE + b"; server_max_window_bits=9"),
        (b'permessage-deflate; server_max_window_bits="10"', NONE + b"; server_max_window_bits=10"),
        (b"permessage-deflate; server_max_window_bits=8", NONE + b"; server_max_window_bits=8"),
        (b"x-unknown; a=b, permessage-deflate", NONE),
        (b", ,permessage-deflate,", NONE),
        (b"permessage-deflate; x,permessage-deflate; server_max_window_bits=12", NONE + b"; server_max_window_bits=12"),
        (b"permessage-deflate; server_max_window_bits=9, permessage-deflate", NONE + b"; server_max_window_bits=9"),
    ],
)  # fmt: skip
def test_legal_offer_is_agreed_to(offer: bytes, answer: bytes) -> None:
    found = negotiate([offer])
    assert found is not None
    assert found.answer == b"permessage-deflate" + answer
    if b'"' not in offer and b"; x" not in offer:
        # A client of the other library that made such an offer takes the answer.
        factory = ClientPerMessageDeflateFactory(
            server_max_window_bits=found.bits if b"server_max" in answer else None, client_max_window_bits=None
        )
        _, parameters = parse_extension(found.answer.decode())[0]
        factory.process_response_params(parameters, [])


@pytest.mark.parametrize(
    "offer",
    [
        b"permessage-deflate; server_max_window_bits",
        b"permessage-deflate; server_max_window_bits=7",
        b"permessage-deflate; server_max_window_bits=16",
        b"permessage-deflate; server_max_window_bits=08",
        b"permessage-deflate; server_max_window_bits=x",
        b"permessage-deflate; client_max_window_bits=7",
        b"permessage-deflate; client_max_window_bits=015",
        b"permessage-deflate; client_no_context_takeover=1",
        b"permessage-deflate; server_no_context_takeover=true",
        b"permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        b"permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        b"permessage-deflate; unknown",
        b"x-webkit-deflate-frame",
        b"permessage-bzip2",
        b"",
    ],
)
def test_offer_that_cannot_be_met_is_declined(offer: bytes) -> None:
    assert negotiate([offer]) is None


@pytest.mark.parametrize(
    "field",
    [b"permessage-deflate;", b"a b", b"a;b=", b"a; b=c d", b'a; b="c d"', b'a; b="c', b"(", b"a=b", b";a"],
)
def test_field_that_breaks_the_grammar_is_an_error(field: bytes) -> None:
    with pytest.raises(ValueError, match="Sec-WebSocket-Extensions"):
        negotiate([field])


def test_offers_of_several_fields_are_read_in_order() -> None:
    found = negotiate([b"unknown", b"permessage-deflate; server_max_window_bits=11"])
    assert found is not None
    assert found.bits == 11


def test_agreements_hold_no_state_and_are_shared() -> None:
    assert agreement() is agreement(b"permessage-deflate; client_max_window_bits")
    assert agreement(b"permessage-deflate; server_max_window_bits=9") is agreement(
        b"permessage-deflate; server_max_window_bits=9; client_max_window_bits"
    )


# 7.2.1 Compression.


@pytest.mark.parametrize("bits", range(8, 16))
def test_what_is_compressed_fits_into_the_window_asked_for(bits: int) -> None:
    found = agreement(b"permessage-deflate; server_max_window_bits=%d" % bits)
    rng = random.Random(bits)
    payload = b"".join(b"<li>%d</li>" % rng.randrange(300) for _ in range(9000))
    compressed = found.compress(payload)
    assert len(compressed) < len(payload)
    # Python's zlib opens no window of 256 bytes; what refers to nothing needs none.
    decompressor = zlib.decompressobj(-max(bits, 9))
    assert decompressor.decompress(compressed + b"\x00\x00\xff\xff") == payload
    if bits == 8:
        assert found.compress(b"abc" * 999)[:99] != PLAIN.compress(b"abc" * 999)[:99]


def test_compressed_frame_is_read_by_a_client() -> None:
    payload = b"hello " * 100
    made = message_frame(BINARY, payload, PLAIN)
    parser = Frame.parse(_reader(made), mask=False, extensions=[_their_client()])
    with pytest.raises(StopIteration) as stopped:
        next(parser)
    assert bytes(stopped.value.value.data) == payload


def _reader(data: bytes):  # type: ignore[no-untyped-def]
    at = 0

    def read_exact(size: int):  # type: ignore[no-untyped-def]
        nonlocal at
        at += size
        return data[at - size : at]
        yield

    return read_exact


def _their_client():  # type: ignore[no-untyped-def]
    factory = ClientPerMessageDeflateFactory()
    _, parameters = parse_extension(PLAIN.answer.decode())[0]
    return factory.process_response_params(parameters, [])


# 7.2.2 and 6 Decompression and framing.


@pytest.mark.parametrize("payload", ["", "x", "hello " * 1000, b"", b"\x00" * 70000, bytes(range(256)) * 30])
@pytest.mark.parametrize("pieces", [(), (1,), (2, 0, 3)])
def test_compressed_message_arrives(payload: str | bytes, pieces: tuple[int, ...]) -> None:
    stream = b"".join(message(payload, pieces, compressed=True))
    assert read(stream, extension=PLAIN) == [payload]
    assert read(stream, octets(stream), extension=PLAIN) == [payload]
    assert theirs(stream, compresses=True) == [payload]


def test_compressed_and_plain_messages_arrive_in_turn() -> None:
    stream = b"".join(message("one", compressed=True) + message("two") + message(b"three" * 99, (5,), compressed=True))
    assert read(stream, extension=PLAIN) == theirs(stream, compresses=True) == ["one", "two", b"three" * 99]


def test_control_frame_between_compressed_fragments_comes_first() -> None:
    first, second = message("compressed", (4,), compressed=True)
    assert read(first + frame(PING, b"!") + second, extension=PLAIN) == [Ping(b"!"), "compressed"]


# The examples of 7.2.3.


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("f248cdc9c90700", "Hello"),
        ("000500faff48656c6c6f00", "Hello"),
        ("f348cdc9c9070000", "Hello"),
        ("f24805000000ffffcac9c90700", "Hello"),
        ("00", ""),
        ("0200", ""),
    ],
)
def test_examples_of_the_standard_are_inflated(payload: str, expected: str) -> None:
    assert read(frame(TEXT, bytes.fromhex(payload), rsv=4), extension=PLAIN) == [expected]


def test_example_in_two_fragments_is_inflated() -> None:
    stream = frame(TEXT, bytes.fromhex("f248cd"), fin=False, rsv=4) + frame(CONT, bytes.fromhex("c9c90700"))
    assert read(stream, extension=PLAIN) == ["Hello"]


def test_what_follows_a_final_block_may_refer_back() -> None:
    first = zlib.compressobj(wbits=-15)
    begin = first.compress(b"back and forth ") + first.flush(zlib.Z_FINISH)
    second = zlib.compressobj(wbits=-15, zdict=b"back and forth ")
    end = (second.compress(b"back and forth ") + second.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert inflate(begin + end, 100) == b"back and forth " * 2


@pytest.mark.parametrize("level", [1, 3, 6])
def test_message_that_was_cut_is_no_message(level: int) -> None:
    rng = random.Random(level)
    for _ in range(50):
        text = bytes(rng.choices(b"abcdefgh ", k=rng.randrange(1, 400)))
        compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
        whole = (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert inflate(whole, 400) == text
        for size in {len(whole) - 1, len(whole) // 2, rng.randrange(1, len(whole))} - {0}:
            # What the end is taken for may also be a long repetition.
            with pytest.raises((zlib.error, TooBig)):
                inflate(whole[:size], 400)


def test_message_that_was_cut_behind_a_final_block_is_no_message() -> None:
    compressor = zlib.compressobj(wbits=-15)
    begin = compressor.compress(b"begin") + compressor.flush(zlib.Z_FINISH)
    end = PLAIN.compress(b"the end of it")
    assert inflate(begin + end, 100) == b"beginthe end of it"
    with pytest.raises(zlib.error):
        inflate(begin + end[:-2], 100)


def test_message_may_end_with_a_final_block() -> None:
    compressor = zlib.compressobj(wbits=-15)
    message = compressor.compress(b"message") + compressor.flush(zlib.Z_FINISH)
    # With a byte behind it, as it should be (7.2.3.5), and as those have it who only call their library.
    assert inflate(message + b"\x00", 100) == inflate(message, 100) == b"message"


def test_nothing_is_an_empty_message() -> None:
    assert inflate(b"", 100) == inflate(b"\x00", 100) == b""


def test_many_final_blocks_are_refused() -> None:
    with pytest.raises(zlib.error, match="final blocks"):
        inflate(b"\x03\x00" * 5000, 100)


# 6.1 The bit is of a message's first frame alone, and of no control frame.


def test_bit_without_an_agreement_fails() -> None:
    assert codes(read(frame(TEXT, deflated(b"x"), rsv=4))) == [Failure(1002, "")]


def test_bit_on_a_continuation_fails() -> None:
    stream = frame(TEXT, b"x", fin=False, rsv=4) + frame(CONT, b"y", rsv=4)
    assert codes(read(stream, extension=PLAIN)) == [Failure(1002, "")]
    stream = frame(TEXT, b"x", fin=False) + frame(CONT, b"y", rsv=4)
    assert codes(read(stream, extension=PLAIN)) == [Failure(1002, "")]


@pytest.mark.parametrize("opcode", [8, 9, 10])
def test_bit_on_a_control_frame_fails(opcode: int) -> None:
    assert codes(read(frame(opcode, b"", rsv=4), extension=PLAIN)) == [Failure(1002, "")]


@pytest.mark.parametrize("rsv", [1, 2, 3, 5, 6, 7])
def test_other_reserved_bits_fail_with_an_agreement_too(rsv: int) -> None:
    assert codes(read(frame(TEXT, b"x", rsv=rsv), extension=PLAIN)) == [Failure(1002, "")]


# Limits and damage.


def test_message_is_measured_after_it_is_inflated() -> None:
    fits, large = message(b"x" * 100_000, compressed=True), message(b"x" * 100_001, compressed=True)
    assert read(fits[0], extension=PLAIN, max_size=100_000) == [b"x" * 100_000]
    assert codes(read(large[0], extension=PLAIN, max_size=100_000)) == [Failure(1009, "")]


def test_message_that_cannot_be_compressed_may_have_the_largest_size() -> None:
    payload = random.Random(1).randbytes(4096)
    stream = b"".join(message(payload, (100,), compressed=True))
    assert len(stream) > 4096
    assert read(stream, extension=PLAIN, max_size=4096) == [payload]


def test_bomb_is_not_inflated_past_the_limit() -> None:
    import tracemalloc

    bomb = deflated(bytes(100_000_000))
    tracemalloc.start()
    with pytest.raises(TooBig):
        inflate(bomb, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(
    "payload", [b"\x07", b"\xff\xff", b"\x00\x01\x00\x00\x00", deflated(b"x" * 99)[:-3] + b"\xff" * 9]
)
def test_damaged_data_fails(payload: bytes) -> None:
    assert codes(read(frame(TEXT, payload, rsv=4), extension=PLAIN)) == [Failure(1007, "")]


def test_compressed_text_that_is_not_utf8_fails() -> None:
    assert codes(read(frame(TEXT, deflated(b"ok\xff"), rsv=4), extension=PLAIN)) == [Failure(1007, "")]


def test_lazy_protocol_holds_back_what_follows_much_inflated_data() -> None:
    large = "x" * (1 << 20)
    stream = b"".join(message(large, compressed=True) + message(large, compressed=True) + message("end"))
    protocol = WebSocketProtocol(1 << 20, PLAIN, is_lazy=True)
    assert protocol.receive(stream) == [large]
    assert protocol.held
    assert protocol.receive(b"".join(message("later"))) == [large]
    assert protocol.held
    assert protocol.receive(b"") == ["end", "later"]
    assert not protocol.held


def test_threshold_is_where_compression_begins_to_save() -> None:
    text = b'{"kind": "position", "x": 120, "y": 340, "who": "anna", "color": "#aabbcc"}' * 4
    assert len(PLAIN.compress(text[:SMALLEST_BYTES])) < SMALLEST_BYTES // 2

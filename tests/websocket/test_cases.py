"""Case list by the sections of RFC 6455 and 7692, against a served echo: whole, frame by frame and octet by octet.

What came before a fault is answered first, then the close frame comes, then the connection ends.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate

from tests.protocol.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, close, frame, message
from tests.protocol.test_websocket_frames import BAD, GOOD, INVALID, KOSME, VALID
from tests.serving import ROOT, Server, serving
from tests.websocket.raw import ROUTED, RawClient
from tests.websocket.sockets import is_silent

FULL_SIZE = bool(os.environ.get("OFFLOAD_TEST_FULL"))
"""OFFLOAD_TEST_FULL=1 sends messages up to 16 MiB, and hundreds of each compressed size."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(ROUTED, "--layer", "memory://", "--ws-max-size", str(16 << 20)) as started:
        yield started


def text(payload: str = "Hello", *pieces: int) -> list[bytes]:
    return message(payload, pieces)


def split(data: bytes, first: int, second: int) -> list[bytes]:
    return [data[:first], data[first : first + second]]


Case = tuple[str, list[bytes], list[str | bytes], int]
"""Name, frames sent, answers expected, close code expected."""

END = [close(1000)]
KOSME_BYTES = KOSME.encode()


def cases() -> Iterator[Case]:
    for size in (0, 1, 125, 126, 127, 128, 65535, 65536):
        yield f"text of {size}", [*message("*" * size), *END], ["*" * size], 1000
        yield f"binary of {size}", [*message(b"\xfe" * size), *END], [b"\xfe" * size], 1000
    for payload in (b"", b"Hello", bytes(125), b"\xfe\x00" * 60):
        yield f"ping of {payload[:9]!r}", [frame(PING, payload), *END], [b"pong:" + payload], 1000
    yield "ping of 126", [frame(PING, b"\xfe" * 126)], [], 1002
    yield "pong unasked", [frame(PONG, b"unsolicited"), frame(PING, b"1"), *END], [b"pong:1"], 1000
    pings = [frame(PING, b"payload-%d" % number) for number in range(10)]
    yield "ten pings", [*pings, *END], [b"pong:payload-%d" % number for number in range(10)], 1000
    for rsv in range(1, 8):
        yield f"reserved bits {rsv}", [*text(), frame(TEXT, b"x", rsv=rsv), frame(PING)], ["Hello"], 1002
        yield f"reserved bits {rsv} on a ping", [frame(PING, b"x", rsv=rsv)], [], 1002
        yield f"reserved bits {rsv} on a close", [frame(CLOSE, b"", rsv=rsv)], [], 1002
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield f"opcode {opcode}", [*text(), frame(opcode, b"x"), frame(PING)], ["Hello"], 1002
    yield "fragmented ping", [frame(PING, b"a", fin=False), frame(CONT, b"b")], [], 1002
    yield "fragmented pong", [frame(PONG, b"a", fin=False), frame(CONT, b"b")], [], 1002
    yield "two fragments", [*text("fragment1fragment2", 9), *END], ["fragment1fragment2"], 1000
    first, *others = text("123456789", 2, 3)
    between = [first, frame(PING, b"!"), *others, *END]
    yield "ping between fragments", between, [b"pong:!", "123456789"], 1000
    yield "continuation of nothing", [frame(CONT, b"x"), *text()], [], 1002
    yield "continuation of a whole message", [*text("ab", 1), frame(CONT, b"x", fin=False), *text()], ["ab"], 1002
    yield "message in a message", [frame(TEXT, b"a", fin=False), *text()], [], 1002
    for number, good in enumerate(GOOD):
        yield f"good text {number}", [*message(good), *END], [good], 1000
    for number, bad in enumerate(BAD):
        yield f"bad text {number}", [*text(), frame(TEXT, bad)], ["Hello"], 1007
    fragments = [frame(TEXT, KOSME_BYTES, fin=False), frame(CONT, b"\xf4\x90\x80\x80", fin=False)]
    yield "bad text in a fragment that is not the last", fragments, [], 1007
    yield "message, then close", [*text(), *END], ["Hello"], 1000
    yield "two closes", [*END, *END], [], 1000
    yield "close, then ping", [*END, frame(PING)], [], 1000
    yield "close, then message", [*END, *text()], [], 1000
    yield "close in a message", [frame(TEXT, b"a", fin=False), *END, frame(CONT, b"b")], [], 1000
    yield "large message, close, ping", [*message("x" * 262144), *END, frame(PING)], ["x" * 262144], 1000
    yield "close without code", [close()], [], 1000
    yield "close with half a code", [frame(CLOSE, b"\x03")], [], 1002
    yield "close with a reason", [close(1000, b"Hello World!")], [], 1000
    yield "close with the longest reason", [close(1000, b"*" * 123)], [], 1000
    yield "close with too long a reason", [frame(CLOSE, b"\x03\xe8" + b"*" * 124)], [], 1002
    yield "close with a wrong reason", [close(1000, KOSME_BYTES + b"\xed\xa0\x80")], [], 1007
    for code in VALID:
        yield f"close with {code}", [close(code)], [], code
    for code in INVALID:
        yield f"close with {code}", [close(code)], [], 1002
    yield "without mask", [*text(), frame(TEXT, b"x", mask=False)], ["Hello"], 1002
    yield "length too long for its form", [b"\x82\xfe\x00\x05mask....."], [], 1002


CASES = list(cases())
WAYS = ["whole", "by frame", "by octet"]


@pytest.mark.parametrize("way", WAYS)
def test_case_is_answered_as_the_standard_says(server: Server, way: str) -> None:
    failed = []
    for name, frames, answers, code in CASES:
        if way == "by octet" and sum(map(len, frames)) > 3000:
            continue
        client = RawClient(server)
        try:
            if way == "whole":
                client.send(b"".join(frames))
            for part in () if way == "whole" else frames:
                (client.send if way == "by frame" else client.send_octets)(part)
        except (BrokenPipeError, ConnectionResetError):
            # It was refused before it was sent whole.
            assert code != 1000, name
        found = client.rest()
        if found != answers or client.code != code:
            failed.append((name, client.code, [repr(item)[:60] for item in found]))
    assert failed == []


def test_bytes_behind_the_handshake_are_kept(server: Server) -> None:
    client = RawClient(server, behind=b"".join([*text("early"), frame(PING, b"1"), *END]))
    assert sorted(map(repr, client.rest())) == ["'early'", "b'pong:1'"]
    assert client.code == 1000


def test_wrong_text_is_refused_while_its_frame_is_still_coming(server: Server) -> None:
    client = RawClient(server)
    stream = frame(TEXT, KOSME_BYTES + b"\xf4\x90" + b"x" * 1000)
    client.send_octets(stream[: 8 + len(KOSME_BYTES) + 2])
    assert client.rest() == []
    assert client.code == 1007


@pytest.mark.parametrize(
    "parts",
    [
        [frame(TEXT, KOSME_BYTES, fin=False), frame(CONT, b"\xf4\x90\x80\x80", fin=False)],
        [frame(TEXT, KOSME_BYTES + b"\xf4", fin=False), frame(CONT, b"\x90", fin=False)],
        split(frame(TEXT, KOSME_BYTES + b"\xf4\x90\x80\x80edited"), 6 + len(KOSME_BYTES), 4),
        split(frame(TEXT, KOSME_BYTES + b"\xf4\x90\x80\x80edited"), 6 + len(KOSME_BYTES) + 1, 1),
    ],
)
def test_wrong_text_is_refused_at_its_first_wrong_part_and_not_before(server: Server, parts: list[bytes]) -> None:
    client = RawClient(server)
    client.send(parts[0])
    # What was right so far is waited for: the connection lives.
    other = RawClient(server)
    other.send(frame(PING, b"!") + close(1000))
    assert other.rest() == [b"pong:!"]
    assert is_silent(client.sock)
    client.send(parts[1])
    assert client.rest() == []
    assert client.code == 1007


def test_pings_between_fragments_are_answered_before_the_message_is_whole(server: Server) -> None:
    one, two, three, four, five = message("fragment" * 5, (8, 8, 8, 8))
    client = RawClient(server)
    client.send(one + two + frame(PING, b"1"))
    answer = client.next_frame()
    assert answer is not None
    assert (answer.opcode, bytes(answer.data)) == (PONG, b"1")
    client.send(three + four + frame(PING, b"2"))
    answer = client.next_frame()
    assert answer is not None
    assert (answer.opcode, bytes(answer.data)) == (PONG, b"2")
    client.send(five + close(1000))
    assert client.rest() == ["fragment" * 5]


SIZES = [65536, 262144, 1 << 20, 4 << 20] + ([8 << 20, 16 << 20] if FULL_SIZE else [])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [str, bytes])
def test_large_message_is_echoed(server: Server, size: int, kind: type) -> None:
    payload = "*" * size if kind is str else b"*" * size
    for pieces in ((), [65536] * (size // 65536 - 1), [997] * 60):
        client = RawClient(server)
        client.send(b"".join(message(payload, pieces)))
        assert client.receive() == payload
        client.send(close(1000))
        assert client.rest() == []
        assert client.code == 1000


@pytest.mark.parametrize("piece", [64, 256, 1024])
def test_message_in_very_many_fragments_is_echoed(server: Server, piece: int) -> None:
    size = (4 << 20) if FULL_SIZE else (1 << 19)
    client = RawClient(server)
    client.send(b"".join(message(b"*" * size, [piece] * (size // piece - 1))))
    assert client.receive() == b"*" * size
    client.close()


@pytest.mark.parametrize("chop", [64, 1024])
def test_message_in_many_segments_is_echoed(server: Server, chop: int) -> None:
    payload = "€" * 100_000
    (stream,) = message(payload)
    client = RawClient(server)
    for at in range(0, len(stream), chop):
        client.send(stream[at : at + chop])
    assert client.receive() == payload
    client.close()


@pytest.mark.parametrize("size", [0, 16, 64, 256, 1024, 4096])
@pytest.mark.parametrize("kind", [str, bytes])
def test_many_round_trips_of_a_size_take_seconds(server: Server, size: int, kind: type) -> None:
    payload = "*" * size if kind is str else b"\xfe" * size
    (sent,) = message(payload)
    client = RawClient(server)
    began = time.monotonic()
    for _ in range(1000 if FULL_SIZE else 200):
        client.send(sent)
        assert client.receive() == payload
    assert time.monotonic() - began < 20
    client.send(close(1000))
    assert client.rest() == []


def test_many_round_trips_keep_their_order(server: Server) -> None:
    client = RawClient(server)
    for number in range(500):
        client.send(b"".join(message(str(number))))
        assert client.receive() == str(number)
    client.send(b"".join(frame for number in range(500) for frame in message(str(number))) + close(1000))
    assert client.rest() == [str(number) for number in range(500)]


OFFERS = {
    "plain": ("permessage-deflate", 15),
    "client bits": ("permessage-deflate; client_max_window_bits", 15),
    # As the fuzzing client of Autobahn makes them: what it would accept, then what it asks for.
    "hints": ("permessage-deflate; client_no_context_takeover; client_max_window_bits", 15),
    "hints, no takeover, window 8": (
        "permessage-deflate; client_no_context_takeover; client_max_window_bits; server_no_context_takeover; "
        "server_max_window_bits=8",
        8,
    ),
    "hints, window 15": (
        "permessage-deflate; client_no_context_takeover; client_max_window_bits; server_max_window_bits=15",
        15,
    ),
    "hints, three offers": (
        "permessage-deflate; client_no_context_takeover; client_max_window_bits; server_no_context_takeover; "
        "server_max_window_bits=8, permessage-deflate; client_no_context_takeover; client_max_window_bits; "
        "server_no_context_takeover, permessage-deflate; client_no_context_takeover; client_max_window_bits",
        8,
    ),
    "no takeover": ("permessage-deflate; server_no_context_takeover; client_max_window_bits", 15),
    "window 8": ("permessage-deflate; server_max_window_bits=8", 8),
    "window 9": ("permessage-deflate; client_max_window_bits; server_max_window_bits=9", 9),
    "window 15": ("permessage-deflate; client_max_window_bits; server_max_window_bits=15", 15),
    "all": ("permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9", 9),
    "several": (
        "permessage-deflate; server_max_window_bits=99, permessage-deflate; server_max_window_bits=9, "
        "permessage-deflate",
        9,
    ),
}


@pytest.mark.parametrize("offer", OFFERS)
def test_compressed_messages_are_echoed_whatever_was_offered(server: Server, offer: str) -> None:
    field, bits = OFFERS[offer]
    # Their library inflates with the window that was asked for, so that a larger one would be found out.
    theirs = PerMessageDeflate(True, True, max(bits, 9), 15)
    client = RawClient(server, "/echo", f"Sec-WebSocket-Extensions: {field}", extensions=[theirs])
    assert b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover" in client.head
    rng = random.Random(offer)
    words = [rng.randbytes(3).hex() for _ in range(300)]
    for size in (0, 16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072):
        payload = " ".join(rng.choices(words, k=size // 6 + 1))[:size]
        for _ in range(100 if FULL_SIZE else 3):
            for pieces in ((), [256] * 3):
                for compressed in (True, False):
                    client.send(b"".join(message(payload, pieces, compressed)))
                    assert client.receive() == payload
            client.send(b"".join(message(payload.encode(), (), True)))
            assert client.receive() == payload.encode()
    client.send(close(1000))
    assert client.rest() == []
    assert client.code == 1000


def test_group_and_large_echo_are_compressed_on_the_wire(server: Server) -> None:
    client = RawClient(server, "/echo", "Sec-WebSocket-Extensions: permessage-deflate")
    client.protocol.extensions = []
    client.send(b"".join(message("x" * 10_000, (), True)))
    data = client.sock.recv(65536)
    assert data[0] == 0xC1
    assert len(data) < 200
    client.send(b"".join(message("x" * 100, (), True)))
    data = client.sock.recv(65536)
    assert (data[0], len(data)) == (0x81, 102)
    client.close()


def test_bomb_is_refused_with_1009(server: Server) -> None:
    theirs = PerMessageDeflate(True, True, 15, 15)
    client = RawClient(server, "/echo", "Sec-WebSocket-Extensions: permessage-deflate", extensions=[theirs])
    client.send(b"".join(message(bytes((16 << 20) + 1), (), True)))
    assert client.rest() == []
    assert client.code == 1009


def test_damaged_compressed_message_is_refused_with_1007(server: Server) -> None:
    client = RawClient(server, "/echo", "Sec-WebSocket-Extensions: permessage-deflate")
    client.send(frame(TEXT, b"\xff\xff\xff", rsv=4))
    assert client.rest() == []
    assert client.code == 1007


def test_nothing_of_all_that_was_an_error_to_the_server(server: Server) -> None:
    assert "ERROR" not in server.log
    assert "Traceback" not in server.log


def test_configuration_of_the_fuzzing_client_names_served_paths() -> None:
    """``CONTRIBUTING.md`` tells how to run Autobahn's own suite with it."""
    configuration = json.loads((Path(__file__).parent / "autobahn" / "fuzzingclient.json").read_text())
    commands = (ROOT / "CONTRIBUTING.md").read_text()
    for wanted in configuration["servers"]:
        url = urlsplit(wanted["url"])
        (command,) = re.findall(rf"offload (\S+) -b {url.netloc} (.+)", commands)
        with serving(command[0], *command[1].split()) as started:
            client = RawClient(started, url.path)
            client.send(b"".join(message(b"x" * (2 << 20))))
            assert client.receive() == b"x" * (2 << 20)
            client.close()


def test_opcodes_are_those_of_the_library() -> None:
    assert (CONT, TEXT, BINARY, CLOSE, PING, PONG) == (0, 1, 2, 8, 9, 10)

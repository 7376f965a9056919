"""The HTTP protocol against h11: whatever we accept, h11 accepts, and reads the same from it.

``OFFLOAD_EXAMPLES=20000`` looks further, at other places each time.
"""

from __future__ import annotations

import os
import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.protocol.oracle import Seen, by_h11, by_us
from tests.protocol.reading import Reading
from tests.protocol.samples import random_splits, samples

_SEEDS = [sample.raw for kind in ("valid", "invalid") for sample in samples(kind) if len(sample.raw) < 2000]
_EXAMPLES = os.environ.get("OFFLOAD_EXAMPLES")
_settings = settings(
    max_examples=int(_EXAMPLES or 400), derandomize=_EXAMPLES is None, deadline=None, database=None
)  # fmt: skip

_TOKEN = st.text("!#$%&'*+-.^_`|~abcXYZ019", min_size=1, max_size=12).map(str.encode)
_VALUE = st.text("".join(map(chr, [*range(33, 127), *range(160, 256)])) + " \t", max_size=30).map(
    lambda text: text.strip(" \t").encode("latin-1")
)
_FRAMING = (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect")
_FIELD = st.tuples(_TOKEN.filter(lambda name: name.lower() not in _FRAMING), _VALUE)
_PADDING = st.text(" \t", max_size=3).map(str.encode)
_TARGET = st.text("".join(chr(code) for code in range(33, 127) if chr(code) != "#"), max_size=30).map(
    lambda text: b"/" + text.encode()
)
_METHOD = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"REPORT", b"X-1"])
_ODD = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\x00", b"\x0b", b"\x7f", b"\x80", b",", b";", b"0", b"5", b"\r\n\r\n",
     b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"chunked", b"_", b"/", b"HTTP/1.0"]
)  # fmt: skip


@st.composite
def _requests(draw: st.DrawFn) -> tuple[bytes, Seen]:
    """A request as RFC 9112 allows it, and what it means."""
    method, target = draw(_METHOD), draw(_TARGET)
    headers = [(b"Host", b"example.org"), *draw(st.lists(_FIELD, max_size=6))]
    body = draw(st.binary(max_size=60))
    framed = body
    if draw(st.booleans()):
        headers.append((b"Transfer-Encoding", b"chunked"))
        pieces = random_splits(body, random.Random(draw(st.integers()))) if len(body) > 1 else [body] * bool(body)
        extension = draw(st.sampled_from([b"", b";a", b';a="b c"']))
        framed = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
        trailers = draw(st.lists(_FIELD, max_size=2))
        framed += b"0\r\n" + b"".join(b"%b: %b\r\n" % field for field in trailers) + b"\r\n"
    elif body or draw(st.booleans()):
        headers.append((b"Content-Length", b"%d" % len(body)))
    lines = [b"%b:%b%b%b\r\n" % (name, draw(_PADDING), value, draw(_PADDING)) for name, value in headers
             if name != b"Transfer-Encoding"]  # fmt: skip
    lines += [b"Transfer-Encoding: chunked\r\n"] * (headers[-1][0] == b"Transfer-Encoding")
    raw = b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, b"".join(lines), framed)
    return raw, Seen(method, target, [(name.lower(), value) for name, value in headers], body)


@st.composite
def _mangled(draw: st.DrawFn) -> bytes:
    """A sample with something done to it."""
    raw = draw(st.sampled_from(_SEEDS))
    for _ in range(draw(st.integers(0, 3))):
        begin = draw(st.integers(0, len(raw)))
        match draw(st.sampled_from(["insert", "delete", "replace", "swap", "splice"])):
            case "insert":
                raw = raw[:begin] + draw(_ODD) + raw[begin:]
            case "delete":
                raw = raw[:begin] + raw[begin + draw(st.integers(1, 4)) :]
            case "replace":
                raw = raw[:begin] + draw(st.binary(min_size=1, max_size=1)) + raw[begin + 1 :]
            case "swap":
                raw = raw[:begin] + draw(_ODD) + raw[begin + 1 :]
            case "splice":
                other = draw(st.sampled_from(_SEEDS))
                raw = raw[:begin] + other[draw(st.integers(0, len(other))) :]
    return raw


@_settings
@given(_requests())
def test_valid_request_is_accepted_and_means_what_it_says(made: tuple[bytes, Seen]) -> None:
    raw, meant = made
    assert by_us(raw) == meant
    assert by_h11(raw) == meant


@_settings
@given(_mangled())
@example(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n")
def test_what_we_accept_h11_accepts_and_reads_the_same(raw: bytes) -> None:
    ours = by_us(raw)
    if ours is not None:
        assert by_h11(raw) == ours


@_settings
@given(_mangled(), st.integers())
def test_how_bytes_arrive_changes_nothing(raw: bytes, seed: int) -> None:
    whole = Reading([raw])
    for pieces in (
        random_splits(raw, random.Random(seed)) if len(raw) > 1 else [raw],
        list(map(bytes, zip(raw, strict=True))),
    ):
        split = Reading(pieces)
        assert [(request.target, body) for request, body in split.requests] == [
            (request.target, body) for request, body in whole.requests
        ]
        assert (split.error and split.error.status) == (whole.error and whole.error.status)
        assert split.begun == whole.begun or split.error is not None

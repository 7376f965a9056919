"""A connection's requests with the same header fields: whatever came before, a head means what it means alone."""

from __future__ import annotations

import re

import pytest

from offload.protocol.http.request import HttpError, Request, parse_request
from offload.settings import HttpOptions
from tests.protocol.samples import samples

LIMITS = HttpOptions()
ATTRIBUTES = [name for name in Request.__slots__ if name != "prepared"]


def _heads() -> list[bytes]:
    """All heads of the samples, and each one's fields behind other request lines."""
    found = {}
    for sample in samples("valid") + samples("invalid"):
        head = sample.raw.lstrip(b"\r\n").partition(b"\r\n\r\n")
        if head[1]:
            found[head[0] + b"\r\n\r\n"] = None
    for head in list(found):
        _, _, fields = head.partition(b"\r\n")
        for line in (b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"POST /a?b HTTP/1.1", b"GET http://other/ HTTP/1.1"):
            found[line + b"\r\n" + fields] = None
    return list(found)


HEADS = _heads()


def _seen(head: bytes, last: Request | None) -> object:
    try:
        request = parse_request(head, LIMITS, last)
    except HttpError as error:
        return error.status, str(error)
    return {name: getattr(request, name) for name in ATTRIBUTES}


def _fields(head: bytes) -> bytes:
    return head.partition(b"\r\n")[2]


def test_head_is_read_alike_behind_whatever_request() -> None:
    alone = {head: _seen(head, None) for head in HEADS}
    before: list[Request] = []
    for head in HEADS:
        try:
            before.append(parse_request(head, LIMITS))
        except HttpError:
            continue
    assert len(before) > 200
    by_fields: dict[bytes, list[bytes]] = {}
    for head in HEADS:
        by_fields.setdefault(_fields(head), []).append(head)
    compared = 0
    for last in before:
        # Those with its own fields, and some that differ.
        for head in {*by_fields[last.fields[2:]], *HEADS[compared % 7 :: 97]}:
            assert _seen(head, last) == alone[head], (last.fields, head)
            compared += 1
    assert compared > 2000


def test_chain_of_repetitions_shares_what_was_prepared() -> None:
    def head(line: bytes, fields: bytes = b"Host: a\r\nX: 1\r\n") -> bytes:
        return line + b" HTTP/1.1\r\n" + fields + b"\r\n"

    first = parse_request(head(b"GET /one?x"), LIMITS)
    first.prepared = object()
    second = parse_request(head(b"POST /two"), LIMITS, first)
    third = parse_request(head(b"GET /three"), LIMITS, second)
    assert (second.method, second.path, second.query) == ("POST", b"/two", b"")
    assert first.prepared is second.prepared is third.prepared
    other = parse_request(head(b"GET /three", b"Host: a\r\nX: 2\r\n"), LIMITS, third)
    assert other.prepared is None
    absolute = parse_request(head(b"GET http://b/four"), LIMITS, third)
    assert (absolute.host, absolute.prepared) == (b"b", None)
    back = parse_request(head(b"GET /five"), LIMITS, absolute)
    assert (back.host, back.prepared) == (b"a", None)


@pytest.mark.parametrize("target", [b"/ /", b"/\x00", b"http:///", b"*", b"/#x", b"/" + b"a" * 5000])
def test_target_is_checked_each_time(target: bytes) -> None:
    first = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", LIMITS)
    with pytest.raises(HttpError, match=re.compile("request (line|target)|target")):
        parse_request(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n", LIMITS, first)

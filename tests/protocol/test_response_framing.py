"""How a response's head says where its body ends, and whether the connection serves another request (RFC 9112, 6.3)."""

from __future__ import annotations

import pytest

from offload.protocol.http.request import Request, parse_request
from offload.protocol.http.response_head import FieldNames
from offload.settings import HttpOptions

DATE = "Thu, 01 Jan 1970 00:00:00 GMT"
SIZED, CHUNKED, CLOSES = "Content-Length: 5", "Transfer-Encoding: chunked", "Connection: close"


def request(line: str) -> Request:
    return parse_request(f"{line}\r\nHost: a\r\n\r\n".encode(), HttpOptions())


@pytest.mark.parametrize(
    ("line", "status", "given", "known", "framing", "size", "is_chunked", "keep"),
    [
        # The application says the size; it is known when the head leaves; it is not.
        ("GET / HTTP/1.1", "200 OK", "5", None, [SIZED], 5, False, True),
        ("GET / HTTP/1.1", "200 OK", None, 5, [SIZED], 5, False, True),
        ("GET / HTTP/1.1", "200 OK", None, None, [CHUNKED], None, True, True),
        ("GET / HTTP/1.0", "200 OK", None, None, [CLOSES], None, False, False),
        ("GET / HTTP/1.0", "200 OK", "5", None, [SIZED, "Connection: keep-alive"], 5, False, True),
        # What has no body has no framing, but HEAD tells what GET would have.
        ("GET / HTTP/1.1", "204 No Content", None, None, [], None, False, True),
        ("GET / HTTP/1.1", "304 Not Modified", None, 0, [], None, False, True),
        ("HEAD / HTTP/1.1", "200 OK", None, 5, [SIZED], 5, False, True),
        ("HEAD / HTTP/1.1", "200 OK", None, 0, [], None, False, True),
        ("HEAD / HTTP/1.1", "200 OK", None, None, [CHUNKED], None, True, True),
        ("HEAD / HTTP/1.0", "200 OK", None, None, ["Connection: keep-alive"], None, False, True),
        # Nothing can follow an interim status.
        ("GET / HTTP/1.1", "100 Continue", None, None, [CLOSES], None, False, False),
    ],
)
def test_head_frames_the_body(
    line: str,
    status: str,
    given: str | None,
    known: int | None,
    framing: list[str],
    size: int | None,
    is_chunked: bool,
    keep: bool,
) -> None:
    head = FieldNames().head(status, [("Content-Length", given)] if given else [])
    expected = "\r\n".join([f"HTTP/1.1 {status}", "Server: offload", f"Date: {DATE}", *framing, "", ""]).encode()
    # A second time, when the head of this second may be kept.
    for _ in range(2):
        assert head.encode(request(line), known, DATE, keep=True) == (expected, size, is_chunked, keep)


def test_last_answer_of_a_connection_says_so() -> None:
    head = FieldNames().head("200 OK", [("Content-Length", "5")])
    kept, *_ = head.encode(request("GET / HTTP/1.1"), None, DATE, keep=True)
    last, size, is_chunked, keep = head.encode(request("GET / HTTP/1.1"), None, DATE, keep=False)
    assert last == kept[:-2] + b"Connection: close\r\n\r\n"
    assert (size, is_chunked, keep) == (5, False, False)

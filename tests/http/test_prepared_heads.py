"""Heads that are kept from one answer to the next: the same bytes as without, and nothing of a client's own."""

from __future__ import annotations

import pytest

from offload.http.response import Date, Response
from offload.protocol.http.request import parse_request
from offload.protocol.http.response_head import FieldNames
from offload.settings import HttpOptions

REQUEST = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", HttpOptions())


class Sink:
    """In a connection's place."""

    closed = False
    unsent_bytes = 0

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


class StoppedDate(Date):
    def __init__(self) -> None:
        super().__init__()
        self.text = "Thu, 01 Jan 1970 00:00:00 GMT"

    def __call__(self) -> str:
        return self.text


def answer(names: FieldNames, date: StoppedDate, fields: list[tuple[str, str]], status: str = "200 OK") -> bytes:
    sink = Sink()
    response = Response(sink, REQUEST, date, names, lambda: True)  # type: ignore[arg-type]
    response.start_response(status, fields)
    response.send_result([b"hello"])
    return sink.data


STEADY = [("Content-Type", "text/plain"), ("Content-Length", "5"), ("Vary", "Cookie")]


def test_kept_head_is_that_of_the_second_and_of_the_fields_as_they_are_now() -> None:
    names, date, fields = FieldNames(), StoppedDate(), list(STEADY)
    first = answer(names, date, fields)
    assert answer(names, date, fields) == first
    assert first.startswith(
        b"HTTP/1.1 200 OK\r\nServer: offload\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type"
    )
    date.text = "Thu, 01 Jan 1970 00:00:01 GMT"
    assert answer(names, date, fields) == first.replace(b"00:00:00", b"00:00:01")
    fields[0] = ("Content-Type", "text/html")
    assert b"Content-Type: text/html\r\n" in answer(names, date, fields)
    assert b"HTTP/1.1 404 Not Found\r\n" in answer(names, date, fields, "404 Not Found")
    del fields[2]
    assert b"Vary" not in answer(names, date, fields)


@pytest.mark.parametrize("name", ["Set-Cookie", "X-Request-Id", "ETag", "Location", "Authorization", "Keep-Alive"])
def test_head_with_values_of_a_clients_own_is_not_kept(name: str) -> None:
    names, date = FieldNames(), StoppedDate()
    one = answer(names, date, [*STEADY, (name, "one")])
    other = answer(names, date, [*STEADY, (name, "two")])
    assert one != other or name == "Keep-Alive"
    assert not names.heads


def test_what_is_kept_is_bounded() -> None:
    names, date = FieldNames(), StoppedDate()
    for number in range(3000):
        answer(names, date, [("Content-Type", f"text/{number}"), ("Content-Length", "5")])
    assert 0 < len(names.heads) <= 512


@pytest.mark.parametrize("fields", [[["Content-Type", "text/plain"]], (("Content-Type", "text/plain"),)])
def test_fields_that_are_no_list_of_tuples_are_sent(fields: list[tuple[str, str]]) -> None:
    names, date = FieldNames(), StoppedDate()
    assert answer(names, date, fields) == answer(names, date, fields)
    assert b"Content-Type: text/plain\r\n" in answer(names, date, fields)
    assert b"Content-Type: text/plain\r\n" in answer(names, date, iter(fields))  # type: ignore[arg-type]

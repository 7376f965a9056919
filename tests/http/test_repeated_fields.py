"""Requests of one connection that repeat their header fields, on a real server: each environ is its own."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import pytest

from offload.protocol.http.connection import HttpProtocol
from offload.protocol.http.request import Request
from offload.settings import HttpOptions
from tests.http.client import Client, ask
from tests.http.conftest import APPLICATION
from tests.redis_server import until
from tests.serving import Server, serving

FIELDS = "Host: a\r\nCookie: one=1\r\nCookie: two=2\r\nX-Thing: x\r\n"


def _told(client: Client, line: str, fields: str, body: str = "") -> dict[str, Any]:
    client.send(f"{line}\r\n{fields}\r\n{body}")
    told: dict[str, Any] = json.loads(client.read().body)
    return told


def _alone(server: Server, line: str, fields: str, body: str = "") -> dict[str, Any]:
    with Client(server) as client:
        told = _told(client, line, fields, body)
    return {name: value for name, value in told.items() if name != "REMOTE_PORT"}


LINES = [
    ("GET /echo?first HTTP/1.1", FIELDS, ""),
    ("POST /echo?second HTTP/1.1", FIELDS, ""),
    ("GET http://b/echo HTTP/1.1", FIELDS, ""),
    ("GET /echo/%C3%A9 HTTP/1.1", FIELDS, ""),
    ("GET /echo HTTP/1.1", FIELDS.replace("two=2", "two=3"), ""),
    ("GET /echo HTTP/1.1", FIELDS, ""),
    ("GET /echo HTTP/1.1", FIELDS, ""),
    ("POST /echo HTTP/1.1", FIELDS + "Content-Length: 5\r\n", "first"),
    ("PUT /echo HTTP/1.1", FIELDS + "Content-Length: 5\r\n", "other"),
    ("POST /echo HTTP/1.1", FIELDS + "Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
    ("POST /echo HTTP/1.1", FIELDS + "Transfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\n\r\n"),
    ("GET /echo HTTP/1.0", FIELDS + "Connection: keep-alive\r\n", ""),
    ("GET /echo HTTP/1.1", FIELDS + "Connection: keep-alive\r\n", ""),
    ("GET /echo HTTP/1.0", FIELDS + "Connection: keep-alive\r\n", ""),
]


def test_each_environ_is_as_on_a_connection_of_its_own(server: Server) -> None:
    with Client(server) as client:
        for number, line in enumerate(LINES):
            told = _told(client, *line)
            del told["REMOTE_PORT"]
            assert told == _alone(server, *line), (number, line)
    # The same in one piece, so that each is parsed as the one before is answered.
    with Client(server) as client:
        client.send("".join(f"{line}\r\n{fields}\r\n{body}" for line, fields, body in LINES))
        for number, line in enumerate(LINES):
            told = json.loads(client.read().body)
            del told["REMOTE_PORT"]
            assert told == _alone(server, *line), (number, line)


def test_what_an_application_does_to_its_environ_is_not_seen_by_the_next(server: Server) -> None:
    with Client(server) as client:
        before = _told(client, "GET /echo HTTP/1.1", FIELDS)
        assert _told(client, "GET /wrong/spoils HTTP/1.1", FIELDS) == {}
        assert _told(client, "GET /echo HTTP/1.1", FIELDS) == before


def test_what_a_proxy_says_goes_with_the_fields_that_say_it() -> None:
    first = "Host: a\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n"
    second = first.replace("192.0.2.1", "192.0.2.2")
    with serving(APPLICATION) as server, Client(server) as client:
        for fields, address in (
            (first, "192.0.2.1"),
            (first, "192.0.2.1"),
            (second, "192.0.2.2"),
            (first, "192.0.2.1"),
        ):
            told = _told(client, "GET /echo HTTP/1.1", fields)
            assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"]) == (address, "https")
        told = _told(client, "GET /echo HTTP/1.1", "Host: a\r\n")
        assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"]) == ("127.0.0.1", "http")


def test_script_name_is_taken_off_each_path() -> None:
    fields = "Host: a\r\nScript_Name: /site\r\n"
    with serving(APPLICATION, "--forwarder-headers", "SCRIPT_NAME") as server, Client(server) as client:
        for path in ("/echo", "/echo/x", "/echo"):
            told = _told(client, f"GET /site{path} HTTP/1.1", fields)
            assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == ("/site", path)


def test_connections_that_have_been_idle_for_a_while_keep_nothing_of_their_last_request() -> None:
    with serving(APPLICATION, "--layer", "memory://", "--keep-alive", "60") as server, ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(10)]
        for client in clients:
            assert client.get("/hello").status == 200
        until(lambda: ask(server, "/bare/resting").body == b"10", "the requests to be forgotten")
        assert ask(server, "/bare/idle").body == b"10"
        for client in clients:
            assert client.get("/hello").status == 200


_HEAD = "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n"


def _is_kept(fields: str, forget: bool = False) -> bool:
    """Whether what was made of a request's fields is there for the next one with the same."""
    protocol = HttpProtocol(HttpOptions())
    made = object()
    for _ in range(2):
        request = protocol.receive(_HEAD.format(fields).encode())
        assert isinstance(request, Request)
        is_kept, request.prepared = request.prepared is made, made
        protocol.next_request()
        if forget:
            protocol.forget()
    return is_kept


@pytest.mark.parametrize("fields", ["X-Long: " + "x" * 4096 + "\r\n", "".join(f"X-{n}: x\r\n" for n in range(40))])
def test_large_fields_are_not_kept(fields: str) -> None:
    assert _is_kept("X-Long: " + "x" * 3072 + "\r\n")
    assert not _is_kept(fields)


def test_fields_are_kept_until_they_are_forgotten() -> None:
    assert _is_kept("X-Short: x\r\n")
    assert not _is_kept("X-Short: x\r\n", forget=True)

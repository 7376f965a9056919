"""Request bodies on a real server: how applications read them, and what becomes of what they leave."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.http.client import Client, ask
from tests.http.conftest import APPLICATION
from tests.serving import Server, reset, serving

LINES = b"abcline one\nline two\nline three\nline four\nthe end"
READ = ["abc", "line one\n", "li", "ne two\n", "line three\n", "line four\n", "the end", ""]


@pytest.fixture(scope="module")
def streaming() -> Iterator[Server]:
    """Calls the application before the body is there, whatever its size."""
    with serving(APPLICATION, "--body-buffer", "0", "--limit-chunked-body", "0") as server:
        yield server


@pytest.fixture(params=["collected", "streamed"])
def either(request: pytest.FixtureRequest, server: Server) -> Server:
    streaming: Server = request.getfixturevalue("streaming")
    return streaming if request.param == "streamed" else server


def _chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_body_is_read_in_every_way(either: Server, size: int) -> None:
    with Client(either) as client:
        assert json.loads(client.get("/reads", "POST", body=LINES).body) == READ
        client.send("POST /reads HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        framed = _chunked(LINES, 4)
        for at in range(0, len(framed), size):
            client.send(framed[at : at + size])
        assert json.loads(client.read().body) == READ


def test_body_of_a_request_without_one_is_empty(server: Server) -> None:
    assert json.loads(ask(server, "/reads").body) == ["", "", "", "", ""]


def test_continue_is_said_when_the_application_first_reads(server: Server) -> None:
    with Client(server) as client:
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        client.send("ok")
        answer = client.read()
        assert json.loads(answer.body)["body"] == "ok"
        assert "connection" not in answer.headers


def test_continue_is_not_said_when_the_body_is_there(server: Server) -> None:
    with Client(server) as client:
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok")
        assert client.read().interim == []


def test_continue_is_not_said_to_whoever_has_begun(server: Server) -> None:
    with Client(server) as client:
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\no")
        client.send("k")
        answer = client.read()
        assert answer.interim == []
        assert json.loads(answer.body)["body"] == "ok"


def test_continue_is_not_said_when_nobody_reads(server: Server) -> None:
    with Client(server) as client:
        client.send("POST /ignores HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        answer = client.read()
        assert answer.interim == []
        # The client may send its body or not; nobody could tell it from a request.
        assert answer.headers["connection"] == "close"
        assert client.rest() == b""


def test_continue_is_not_said_once_the_answer_has_begun(server: Server) -> None:
    with Client(server) as client:
        client.send("POST /late HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        head = client.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        client.send("ok")
        assert b"100 Continue" not in client.rest()


def test_answer_may_begin_before_the_body_is_whole(streaming: Server) -> None:
    with Client(streaming) as client:
        client.send("POST /late HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        head = client.until(b"\r\n\r\n")
        assert b"Connection" not in head
        assert client.until(b"begun ") == b"6\r\n"
        client.send("cd")
        assert client.until(b"0\r\n\r\n") == b"\r\n4\r\nabcd\r\n"
        assert client.get("/hello").body == b"Hello, world!"


def test_small_body_that_nobody_reads_is_dropped(streaming: Server) -> None:
    with Client(streaming) as client:
        client.send("POST /ignores HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + "x" * 1000)
        assert client.read().body == b"ignored"
        client.send("x" * 199_000 + "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read().body == b"Hello, world!"


@pytest.mark.parametrize("fields", ["Content-Length: 2000000000", "Transfer-Encoding: chunked"])
def test_large_body_that_nobody_reads_ends_the_connection(streaming: Server, fields: str) -> None:
    with Client(streaming) as client:
        client.send(f"POST /ignores HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")
        # The client goes on sending, and must still be able to read its answer.
        for _ in range(20):
            client.send("8000\r\n" + "x" * 0x8000 + "\r\n")
        answer = client.read()
        assert answer.body == b"ignored"
        assert answer.headers["connection"] == "close"
        assert client.rest() == b""


def test_application_hears_of_a_client_that_leaves_its_body_unfinished(either: Server) -> None:
    with Client(either) as client:
        client.send("POST /sums?left HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
        client.sock.shutdown(socket.SHUT_WR)
        answer = client.read()
        assert answer.status == 400
        assert answer.text == "400 Bad Request: the client closed the connection before its request was whole\n"
    with Client(either) as client:
        client.send("POST /sums?reset HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
        peer = client.sock.getsockname()
        reset(client.sock)
    either.wait_for(rf"400 from 127.0.0.1:{peer[1]}: the client closed the connection")
    assert ask(either, "/hello").status == 200


def test_body_of_a_client_that_has_ended_its_half_is_read_whole() -> None:
    # Too large for memory: it is in a file, which the end of the client's half may not close.
    with serving(APPLICATION, "--body-buffer", "1000") as server, Client(server) as client:
        client.send(b"POST /sums-late HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(_chunked(b"x" * 50_000, 10_000))
        client.sock.shutdown(socket.SHUT_WR)
        server.wait_for("waiting")
        ask(server, "/next")
        assert client.read().body.startswith(b"50000 ")


def test_application_hears_of_broken_chunks(either: Server) -> None:
    with Client(either) as client:
        client.send("POST /sums HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        client.send("zz\r\nhello\r\n" + "x" * 100_000)
        answer = client.read()
        assert answer.text == "400 Bad Request: a chunk's size is not a hexadecimal number\n"
        assert answer.headers["connection"] == "close"
        assert client.rest() == b""


def test_garbage_behind_a_body_is_refused_in_its_place(either: Server) -> None:
    with Client(either) as client:
        client.send("POST /ignores HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcdeGARBAGE\r\n\r\n")
        assert client.read().body == b"ignored"
        assert client.read().status == 400
        assert client.rest() == b""


def test_unread_body_does_not_run_into_the_next_request(either: Server) -> None:
    inner = b"GET /inner HTTP/1.1\r\nHost: a\r\n\r\n"
    with Client(either) as client:
        client.send(b"POST /ignores HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
        client.send("GET /echo?outer HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read().body == b"ignored"
        assert json.loads(client.read().body)["QUERY_STRING"] == "outer"

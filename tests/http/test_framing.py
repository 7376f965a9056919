"""Where an answer ends, whatever its application does after that: the next answer must begin there."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.http.apps.framing import BIG
from tests.http.client import Client
from tests.serving import DEADLINE, Server, serving


@pytest.fixture(scope="module")
def framing() -> Iterator[Server]:
    with serving("tests.http.apps.framing", "--layer", "memory://", "--pool-size", "4") as server:
        yield server


@pytest.mark.parametrize("framed_by", ["sized", "chunks"])
def test_start_response_with_an_empty_exc_info_cannot_frame_anew_what_has_begun(
    framing: Server, framed_by: str
) -> None:
    with Client(framing) as client:
        answer = client.get(f"/restarts?{framed_by}")
        assert (answer.status, answer.body) == (200, b"abc")
        assert client.rest() == b""
    framing.wait_for(rf"the application failed for GET /restarts\?{framed_by}\n")
    framing.wait_for("AssertionError: start_response was called again, for no error, when the answer had begun")


@pytest.mark.parametrize(("method", "status"), [("HEAD", ""), ("HEAD", "500"), ("GET", "204"), ("GET", "304")])
def test_endless_result_is_closed_where_an_answer_has_no_body(framing: Server, method: str, status: str) -> None:
    with Client(framing) as client:
        assert client.get(f"/endless?{status}", method).status == int(status or 200)
        framing.wait_for(rf"app: closed {method} {status}\.")
        assert client.get("/").text == "hello"


@pytest.mark.parametrize("framed_by", ["sized", "single", "pieces"])
def test_what_is_written_after_the_end_is_dropped_and_told_once(framing: Server, framed_by: str) -> None:
    for method in ("GET", "HEAD"):
        with Client(framing) as client:
            answer = client.get(f"/writes-late?{framed_by}", method)
            assert (answer.status, answer.body) == (200, b"abc" if method == "GET" else b"")
            assert client.get("/").text == "hello"
            assert client.buffered == b""
        said = rf"the answer to {method} /writes-late\?{framed_by} had ended when its application wrote more"
        framing.wait_for(said)
        assert len(re.findall(said, framing.log)) == 1


def in_a_row(*targets: str) -> str:
    return "".join(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n" for target in targets)


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/fails-to-close?sized", b"xxx"),
        ("/fails-to-close?single", b"xxx"),
        ("/fails-to-close?pieces", b"xxx"),
        ("/fails-to-close?list", b"xxx"),
        ("/fails-after-all", b"abc"),
    ],
)
def test_error_after_a_whole_answer_costs_nobody_an_answer(framing: Server, target: str, body: bytes) -> None:
    with Client(framing) as client:
        client.send(in_a_row("/", target, "/", "/"))
        assert [client.read().body for _ in range(4)] == [b"hello", body, b"hello", b"hello"]
        assert client.get("/").text == "hello"
    framing.wait_for(rf"the application failed for GET {re.escape(target)}\n")


def test_error_after_a_whole_answer_leaves_it_to_a_slow_reader(framing: Server) -> None:
    with Client(framing) as client:
        # The application's last pieces wait in the server when it ends.
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20000)
        client.send(in_a_row("/fails-to-close?big"))
        answer = client.read()
        assert answer.whole
        assert len(answer.body) == BIG
    framing.wait_for("LookupError: close failed, big")


@pytest.mark.parametrize(("framed_by", "body"), [("sized", b"half"), ("chunks", b"half")])
def test_error_within_an_answer_leaves_those_before_it(framing: Server, framed_by: str, body: bytes) -> None:
    with Client(framing) as client:
        client.send(in_a_row("/", f"/fails-midway?{framed_by}", "/"))
        assert client.read().text == "hello"
        answer = client.read()
        assert (answer.body, answer.whole) == (body, False)
        # An end, no reset, and nothing that a client could take for an answer.
        assert client.sock.recv(1000) == b""


def test_error_within_an_answer_without_framing_is_a_reset_behind_those_before_it(framing: Server) -> None:
    with Client(framing) as client:
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /fails-midway HTTP/1.0\r\n\r\n")
        assert client.read().text == "hello"
        client.until(b"half")
        with pytest.raises(ConnectionResetError):
            client.sock.recv(1000)


def test_two_greenlets_of_a_request_wait_for_the_same_client(framing: Server) -> None:
    with Client(framing) as client:
        answer = client.get("/two-write")
        assert answer.whole
        assert len(answer.body) == 8 * BIG
        assert client.get("/").text == "hello"


def test_early_hints_do_not_get_into_a_socket(framing: Server) -> None:
    with connect(framing.url("/hints-in-socket", "ws"), open_timeout=DEADLINE) as socket:
        assert [socket.recv(DEADLINE), socket.recv(DEADLINE)] == ["one", "two"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ("Host: a\r\nHost: b\r\n", 400),
        ("", 400),
        ("Host: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Host: a\r\nExpect: more\r\n", 417),
        ("Host: a\r\nX-Forwarded-Proto: https, http\r\n", 400),
        ("Host: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nX-Forwarded-Proto: https, http\r\n", 400),
        ("Host: a\r\nX: " + "x" * 9000 + "\r\n", 431),
    ],
)
def test_refusal_of_head_has_no_body(framing: Server, fields: str, status: int) -> None:
    refused = f"HEAD / HTTP/1.1\r\n{fields}\r\n"
    for before in ("", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n"):
        with Client(framing) as client:
            client.send(before + refused)
            if before.startswith("GET"):
                assert client.read().text == "hello"
            answer = client.read("HEAD")
            assert answer.status == status
            assert int(answer.headers["content-length"]) > 0
            assert client.rest() == b""


@pytest.mark.parametrize("where", ["alone", "first", "last", "behind-much"])
def test_what_is_not_bytes_in_a_list_is_an_error_wherever_it_stands(framing: Server, where: str) -> None:
    with Client(framing) as client:
        assert client.get(f"/bytearrays?{where}").status == 500
    framing.wait_for("TypeError: a piece of the response is a bytearray, not bytes")

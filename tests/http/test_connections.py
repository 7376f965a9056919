"""Connections on a real server: pipelining, halves that end, clients that leave, and the end of the server."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from offload.server.sockets import KERNEL_UNSENT_BYTES, listen
from offload.settings import ListenOptions
from tests.http.client import Client, ask
from tests.http.conftest import APPLICATION
from tests.serving import DEADLINE, Server, reset, serving


def _resident(server: Server) -> int:
    """RSS of the server process, in bytes."""
    fields = Path(f"/proc/{server.pids[-1]}/smaps_rollup").read_text().split("Rss:")[1].split()
    return int(fields[0]) * 1024


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    with Client(server) as client:
        client.send("".join(f"GET /echo?{number} HTTP/1.1\r\nHost: a\r\n\r\n" for number in range(200)))
        seen = [json.loads(client.read().body)["QUERY_STRING"] for _ in range(200)]
    assert seen == [str(number) for number in range(200)]


def test_pipelined_requests_before_an_end_are_all_answered(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /echo?1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /echo?2 HTTP/1.1\r\nHost: a\r\n")
        client.send("Content-Length: 2\r\n\r\nokGET /echo?3 HTTP/1.1\r\nHost: a\r\n\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        answers = [client.read() for _ in range(3)]
        assert [json.loads(answer.body)["QUERY_STRING"] for answer in answers] == ["1", "2", "3"]
        assert client.rest() == b""


def test_pipelined_requests_wait_in_the_kernel(server: Server) -> None:
    """Whoever sends requests without reading answers cannot fill the server's memory with them."""
    request = b"GET /bare/zeros?size=10 HTTP/1.1\r\nHost: a\r\n\r\n" * 1000
    ask(server, "/hello")
    before = _resident(server)
    with Client(server) as client:
        client.sock.settimeout(1.0)
        with pytest.raises(TimeoutError):
            client.sock.sendall(request * 10_000)
        assert _resident(server) - before < 8_000_000
        assert ask(server, "/hello").status == 200


def test_kernel_keeps_little_for_a_client_that_does_not_read(server: Server) -> None:
    with Client(server) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send("GET /bare/zeros?size=50000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.sock.recv(10)
        # A turn of the loop later the kernel has what it takes at first.
        assert ask(server, "/hello").status == 200
        port = client.sock.getsockname()[1]
        (queued,) = (
            int(words[4].partition(":")[0], 16)
            for words in (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
            if int(words[2].partition(":")[2], 16) == port and int(words[1].partition(":")[2], 16) == server.port
        )
        assert 100_000 < queued < 1_000_000


def test_inherited_sockets_are_tuned_as_our_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as outer:
        inner, place = listen(f"fd://{os.dup(outer.fileno())}", ListenOptions())
        with inner, socket.create_connection(outer.getsockname()):
            inner.setblocking(True)
            accepted, _ = inner.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                unsent = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
    assert (unsent, place) == (KERNEL_UNSENT_BYTES, None)


def test_kernel_that_does_not_know_the_limit_of_unsent_bytes_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    # No kernel knows an option of this number.
    monkeypatch.setattr(socket, "TCP_NOTSENT_LOWAT", 9999)
    sock, _ = listen("127.0.0.1:0", ListenOptions())
    with sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_request_refused_behind_others_is_refused_in_its_place(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /echo?1 HTTP/1.1\r\nHost: a\r\n\r\nGET /echo?2 HTTP/1.1\r\n\r\nGET /echo?3 HTTP/1.1\r\n\r\n")
        assert client.read().status == 200
        refusal = client.read()
        assert refusal.status == 400
        assert refusal.text == "400 Bad Request: the Host field is missing\n"
        assert client.rest() == b""


def test_request_after_close_is_not_answered(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read().status == 200
        assert client.rest() == b""


def test_client_reads_a_refusal_although_it_goes_on_sending(server: Server) -> None:
    with Client(server) as client:
        client.send("GET / HTTP/9.9\r\n\r\n")
        for _ in range(50):
            client.send("x" * 10_000)
        assert client.read().status == 505
        assert client.rest() == b""


def test_client_that_resets_while_the_application_runs(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /drip?reset HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.sock.recv(10)
        reset(client.sock)
    server.wait_for("app: closed reset")
    server.wait_for(r"left GET b'/drip\?reset' before its answer was whole")


def test_client_that_leaves_while_the_application_waits_for_room(server: Server) -> None:
    with Client(server) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send("GET /bare/zeros?size=50000000&gone HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.sock.recv(10)
    server.wait_for(r"left GET b'/bare/zeros\?size=50000000&gone' before its answer was whole")


def test_client_that_left_before_the_application_was_done(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
        server.wait_for("app: waiting")
        reset(client.sock)
    assert ask(server, "/next").body == b"on"
    server.wait_for("app: closed waits")
    server.wait_for("left GET b'/waits' before its answer was whole")


def test_client_that_ended_its_half_gets_its_answer(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.read().body == b"Hello, world!"
        assert client.rest() == b""


def test_stream_leaves_piece_by_piece(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        for number in range(3):
            # The next piece is not made before this one has been read.
            client.until(f"piece {number}\n".encode())
            assert ask(server, "/next").body == b"on"
        assert client.until(b"0\r\n\r\n") == b"\r\n"


def test_stop_finishes_what_it_has_begun() -> None:
    with serving(APPLICATION) as server, Client(server) as busy, Client(server) as idle, Client(server) as fresh:
        other = Client(server)
        assert other.get("/hello").status == 200
        busy.send("GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
        server.wait_for("app: waiting")
        server.signal(signal.SIGTERM)
        # An idle connection may have a request on its way, so it is answered once more.
        while idle.get("/hello").headers.get("connection") != "close":
            assert not idle.ended
        assert idle.rest() == b""
        assert other.get("/next").headers["connection"] == "close"
        answer = busy.read()
        assert answer.body == b"done"
        assert answer.headers["connection"] == "close"
        assert fresh.rest() == b""
        other.sock.close()
        assert server.wait(DEADLINE) == 0


def test_log_that_fails_costs_no_answer_and_leaves_no_connection() -> None:
    with serving("tests.http.apps.lasting", "--layer", "memory://") as server:
        for times in (1, 2):
            with Client(server) as client:
                client.send("nothing that we know\r\n\r\n")
                assert client.read().status == 400
                assert client.rest() == b""
            server.wait_for("RuntimeError: the log is full", times=times)
        assert ask(server, "/").text == "here"
        assert server.stop() == 0
        assert "cut off" not in server.log

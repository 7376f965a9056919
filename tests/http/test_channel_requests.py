"""Requests that are answered by messages: by their consumer, or later by anybody, over real connections."""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.client import Answer, Client
from tests.redis_server import RedisServer, redis_server
from tests.serving import DEADLINE, Server, serving

__all__ = ["redis_server"]
APP = "tests.http.apps.channels"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(APP, "--layer", "memory://", "--access-logfile", "/dev/stderr") as server:
        yield server


def ask(server: Server, target: str, method: str = "GET", body: bytes = b"") -> Answer:
    with Client(server) as client:
        return client.get(target, method, body=body)


def test_message_has_what_the_client_asks(server: Server) -> None:
    answer = ask(server, "/describe%20it?a=1", "POST", b"body")
    assert (answer.status, answer.headers["x-seen"]) == (200, "yes")
    assert answer.text == repr(
        sorted(
            {
                "body": 4,
                "headers": 2,
                "http_version": "1.1",
                "method": "POST",
                "path": "/describe it",
                "query_string": b"a=1",
                "reply_channel": "",
                "scheme": "http",
            }.items()
        )
    )
    server.wait_for(r'"POST /describe%20it\?a=1 HTTP/1.1" 200 ')


def test_other_paths_are_the_applications(server: Server) -> None:
    assert ask(server, "/").text == "the application"
    # A filter on the method.
    assert ask(server, "/upload").text == "the application"


def test_answer_may_come_in_pieces(server: Server) -> None:
    with Client(server) as client:
        for _ in range(2):
            answer = client.get("/streams")
            assert (answer.status, answer.text) == (200, "one,two,three")
            assert answer.headers["transfer-encoding"] == "chunked"
        assert client.get("/streams", "HEAD").body == b""
        assert client.get("/").text == "the application"


def test_answer_may_come_later_and_from_elsewhere(server: Server) -> None:
    with Client(server) as one, Client(server) as other:
        for client in (one, other):
            client.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        # A consumer that has run has left its place in the pool, so this one runs behind the others'.
        assert ask(server, "/describe").status == 200
        ask(server, "/answer-all?news")
        assert [client.read().text for client in (one, other)] == ["news", "news"]
        assert one.get("/").text == "the application"


def test_request_that_waits_costs_no_greenlet(server: Server) -> None:
    before = int(ask(server, "/greenlets").text)
    clients = [Client(server) for _ in range(50)]
    for client in clients:
        client.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
    ask(server, "/describe")
    assert int(ask(server, "/greenlets").text) < before + 10
    ask(server, "/answer-all?x")
    assert {client.read().text for client in clients} == {"x"}
    for client in clients:
        client.sock.close()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("/fails", "RuntimeError: on purpose"),
        ("/malformed", "ValueError: a reply has no key 'staus'; did you mean 'status'?"),
        ("/no-status", "has no status"),
    ],
)
def test_consumer_that_does_not_answer_is_answered_for(server: Server, target: str, told: str) -> None:
    assert ask(server, target).status == 500
    server.wait_for(told.replace("?", r"\?"))


def test_client_that_leaves_first_is_told_of(server: Server) -> None:
    with Client(server) as client:
        client.send("GET /wait/for/nothing HTTP/1.1\r\nHost: test\r\n\r\n")
        ask(server, "/describe")
    wait_until_gone(server, "/wait/for/nothing")


def test_slow_client_gets_a_large_answer(server: Server) -> None:
    assert len(ask(server, "/large").body) == 3_100_000


@pytest.mark.parametrize(("size", "pieces"), [(5, 0), (262_144, 0), (262_145, 1), (1_000_000, 12)])
def test_large_body_comes_on_a_channel_of_its_own(server: Server, size: int, pieces: int) -> None:
    assert ask(server, "/upload", "POST", b"x" * size).text == f"{size} in {pieces} pieces"


def test_upload_that_breaks_off_ends_its_channel(server: Server) -> None:
    with Client(server) as client:
        client.send(b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000)
        ask(server, "/describe")
    wait_until_gone(server, "upload")


def test_request_that_waits_is_refused_as_the_server_stops() -> None:
    with serving(APP, "--layer", "memory://") as server, Client(server) as client:
        client.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        ask(server, "/describe")
        server.process.send_signal(signal.SIGTERM)
        answer = client.read()
    assert (answer.status, answer.text) == (503, "503 Service Unavailable: the server is stopping\n")


def test_answer_comes_from_another_process(redis_server: RedisServer, tmp_path: Path) -> None:
    layer = ["--layer", redis_server.url]
    with serving(APP, *layer) as one, serving(APP, *layer) as other, Client(one) as client:
        client.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        while not select.select([client.sock], [], [], 0.05)[0]:
            # Again where it was no member yet.
            ask(other, "/answer-all?from-there")
        assert client.read().text == "from-there"


def test_workers_answer_requests(redis_server: RedisServer) -> None:
    options = ["--layer", redis_server.url]
    with (
        serving(APP, *options, "--dispatch", "layer") as server,
        serving("worker", APP, *options) as worker,
    ):
        assert ask(server, "/streams").text == "one,two,three"
        assert ask(server, "/fails").status == 500
        worker.wait_for("RuntimeError: on purpose")
        with Client(server) as client:
            client.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
            ask(server, "/describe")


def test_request_for_which_the_channel_is_full_is_refused(redis_server: RedisServer) -> None:
    with serving(APP, "--layer", f"{redis_server.url}?capacity=2", "--dispatch", "layer") as server:
        clients = [Client(server) for _ in range(3)]
        for client in clients:
            client.send("GET /wait HTTP/1.1\r\nHost: test\r\n\r\n")
        ready, _, _ = select.select([client.sock for client in clients], [], [], DEADLINE)
        (refused,) = [client for client in clients if client.sock in ready]
        answer = refused.read()
        for client in clients:
            client.sock.close()
    assert (answer.status, answer.text) == (
        503, "503 Service Unavailable: the server cannot serve this request now\n"
    )  # fmt: skip


def wait_until_gone(server: Server, what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    with Client(server) as client:
        while repr(what) not in client.get("/gone").text:
            assert time.monotonic() < deadline, f"{what} is not gone"

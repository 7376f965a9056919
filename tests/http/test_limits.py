"""Limits and times on a real server: each with its option, and its default."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from offload.settings import HttpOptions, TlsOptions
from tests.http.client import Client, ask
from tests.http.conftest import APPLICATION
from tests.serving import Server, serving

SHORT = 0.5
"""Seconds; what is tested is that something ends by its own time, so all others are long."""


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    """A server of small limits."""
    with serving(
        APPLICATION,
        *("--limit-request-line", "100"),
        *("--limit-request-fields", "5"),
        *("--limit-request-field_size", "100"),
        *("--limit-request-head", "300"),
        *("--limit-request-body", "1000"),
    ) as server:
        yield server


def test_defaults_are_those_of_the_documentation() -> None:
    options = HttpOptions()
    assert options.limit_request_line == 4094
    assert options.limit_request_fields == 100
    assert options.limit_request_field_size == 8190
    assert options.limit_request_head == 65536
    assert options.limit_request_body is None
    assert options.header_timeout == 10
    assert options.body_timeout == 30
    assert options.send_timeout == 60
    assert options.keep_alive == 2
    assert options.linger_timeout == 5
    assert TlsOptions().handshake_timeout == 10


def _answer_to(server: Server, raw: str) -> tuple[int, str]:
    with Client(server) as client:
        client.send(raw)
        answer = client.read()
        if answer.status != 200:
            assert answer.headers["connection"] == "close"
            assert client.rest() == b""
        return answer.status, answer.text


def test_limits_of_zero_are_those_of_the_whole_head() -> None:
    names = ("line", "fields", "field_size")
    with serving(APPLICATION, *(word for name in names for word in (f"--limit-request-{name}", "0"))) as server:
        many = "".join(f"X-{number}: a\r\n" for number in range(500))
        for query, fields in (("a" * 10_000, ""), ("", f"X: {'a' * 20_000}\r\n"), ("", many)):
            with Client(server) as client:
                client.send(f"GET /?{query} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
                assert client.read().status == 200
        assert _answer_to(server, f"GET / HTTP/1.1\r\nHost: a\r\nX: {'a' * 65_536}\r\n\r\n")[0] == 431


def test_request_line_is_limited(strict: Server) -> None:
    head = " HTTP/1.1\r\nHost: a\r\n\r\n"
    assert _answer_to(strict, "GET /" + "a" * 86 + head)[0] == 200
    assert _answer_to(strict, "GET /" + "a" * 87 + head) == (
        414,
        "414 URI Too Long: the request line has over 100 bytes\n",
    )


def test_number_of_fields_is_limited(strict: Server) -> None:
    assert _answer_to(strict, "GET / HTTP/1.1\r\nHost: a\r\n" + "A: b\r\n" * 4 + "\r\n")[0] == 200
    assert _answer_to(strict, "GET / HTTP/1.1\r\nHost: a\r\n" + "A: b\r\n" * 5 + "\r\n") == (
        431,
        "431 Request Header Fields Too Large: there are over 5 header fields\n",
    )


def test_field_size_is_limited(strict: Server) -> None:
    assert _answer_to(strict, f"GET / HTTP/1.1\r\nHost: a\r\nA: {'b' * 97}\r\n\r\n")[0] == 200
    assert _answer_to(strict, f"GET / HTTP/1.1\r\nHost: a\r\nA: {'b' * 98}\r\n\r\n") == (
        431,
        "431 Request Header Fields Too Large: a header field has over 100 bytes\n",
    )


def test_head_is_limited(strict: Server) -> None:
    fields = "".join(f"{name}: {'x' * 95}\r\n" for name in "ABC")
    assert _answer_to(strict, "GET / HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n") == (
        431,
        "431 Request Header Fields Too Large: the head has over 300 bytes\n",
    )


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
def test_body_of_a_known_length_is_limited(strict: Server, expect: str) -> None:
    assert _answer_to(strict, f"POST /sums HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{'x' * 1000}")[0] == 200
    # Refused before the client has sent it, or even been told to.
    assert _answer_to(strict, f"POST /sums HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: 1001\r\n\r\n") == (
        413,
        "413 Content Too Large: the body has over 1000 bytes\n",
    )


def test_body_in_chunks_is_limited(strict: Server) -> None:
    head = "POST /sums HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = "c8\r\n" + "x" * 200 + "\r\n"
    assert _answer_to(strict, head + chunk * 5 + "0\r\n\r\n")[0] == 200
    with Client(strict) as client:
        client.send(head + chunk * 3)
        client.send(chunk * 5)
        answer = client.read()
        assert answer.status == 413
        assert client.rest() == b""


# Times.


@contextlib.contextmanager
def _serving_with(option: str) -> Iterator[Server]:
    with serving(
        APPLICATION, option, str(SHORT), *([] if option == "--keep-alive" else ["--keep-alive", "60"])
    ) as server:
        yield server


def _takes(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def test_head_has_its_time() -> None:
    with _serving_with("--header-timeout") as server:
        with Client(server) as client:
            client.send("GET / HTTP/1.1\r\n")
            began = time.monotonic()
            # Going on sending does not help.
            for letter in "Host: a":
                client.send(letter)
            answer = client.read()
            assert time.monotonic() - began + 0.05 >= SHORT
            assert answer.status == 408
            assert answer.text == "408 Request Timeout: the request's head did not arrive in time\n"
            assert client.rest() == b""
        with Client(server) as client:
            # Whoever says nothing at all gets no answer, either.
            assert _takes(client.rest) >= SHORT - 0.05
        with Client(server) as client:
            # The time of a further request begins with its first byte.
            assert client.get("/hello").status == 200
            client.send("GET /")
            assert client.read().status == 408


def test_body_has_to_make_progress() -> None:
    with _serving_with("--body-timeout") as server, Client(server) as client:
        client.send("POST /sums HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        began = time.monotonic()
        answer = client.read()
        assert time.monotonic() - began >= SHORT - 0.05
        assert answer.status == 408
        assert (
            answer.text == "408 Request Timeout: the request's body came too slowly (--body-timeout, --body-min-rate)\n"
        )
        assert client.rest() == b""


def _await_reset(client: Client) -> None:
    """Until the server has reset the connection, without reading from it."""
    poll = select.poll()
    poll.register(client.sock, select.POLLHUP | select.POLLERR)
    assert poll.poll(20_000)


@pytest.mark.parametrize(
    "path", ["/bare/zeros?size=50000000", "/bare/zeros?size=6000000", "/drip?slow", "/bare/file/plain?slow"]
)
def test_answer_has_to_be_read(path: str) -> None:
    """However much of it is left: the application may be done with it long before."""
    with _serving_with("--send-timeout") as server:
        with Client(server) as client:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n" * (20 if "file" in path else 1))
            assert _takes(lambda: _await_reset(client)) >= SHORT - 0.05
        assert ask(server, "/hello").status == 200


def test_end_of_an_answer_has_to_be_read() -> None:
    """What is left when the application is done, and is too little for it to have waited."""
    with _serving_with("--send-timeout") as server, contextlib.ExitStack() as stack:
        # How much the kernel takes is its own affair, but one of these answers goes over it by a little.
        for size in range(100_000, 8_000_000, 150_000):
            client = stack.enter_context(Client(server))
            client.send(f"GET /bare/zeros?size={size} HTTP/1.1\r\nHost: a\r\n\r\n")
        server.wait_for(r"is cut off: it takes too little \(--send-timeout, --send-min-rate\)")


def test_slow_reader_that_reads_is_served() -> None:
    size = 20_000_000
    with _serving_with("--send-timeout") as server, Client(server) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send(f"GET /bare/zeros?size={size} HTTP/1.1\r\nHost: a\r\n\r\n")
        head = client.until(b"\r\n\r\n")
        assert str(size).encode() in head
        got, began = len(client.buffered), time.monotonic()
        while got < size:
            # The client takes three times as long as the server would be patient with one that reads nothing.
            select.select([], [], [], max(0.0, began + got / size * SHORT * 3 - time.monotonic()))
            got += len(client.sock.recv(1_000_000))
        assert got == size
        assert time.monotonic() - began >= SHORT * 2


@pytest.mark.parametrize("seconds", [SHORT, 1.5])
def test_idle_connection_has_its_time(seconds: float) -> None:
    with serving(APPLICATION, "--keep-alive", str(seconds)) as server, Client(server) as client:
        assert client.get("/hello").status == 200
        assert seconds - 0.05 <= _takes(client.rest) < seconds + 1
        assert client.rest() == b""


def test_idle_time_does_not_run_while_the_answer_is_read() -> None:
    with _serving_with("--keep-alive") as server, Client(server) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send("GET /bare/zeros?size=32000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        # While the client holds back its answer, another connection comes to its end.
        with Client(server) as other:
            assert other.get("/hello").status == 200
            assert other.rest() == b""
        assert len(client.read().body) == 32_000_000
        assert client.get("/hello").status == 200


def test_no_keep_alive_closes_after_each_answer() -> None:
    with serving(APPLICATION, "--keep-alive", "0") as server, Client(server) as client:
        answer = client.get("/hello")
        assert answer.headers["connection"] == "close"
        assert client.rest() == b""


def test_lingering_has_its_time() -> None:
    with _serving_with("--linger-timeout") as server, Client(server) as client:
        client.send("GET / HTTP/9.9\r\n\r\n")
        assert client.read().status == 505
        assert client.rest() == b""
        # The server has ended its half, and waits for ours.
        assert _takes(lambda: _await_hangup_while_sending(client)) >= SHORT - 0.05


def _await_hangup_while_sending(client: Client) -> None:
    """Send until it is refused: from then on nobody is there."""
    poll = select.poll()
    poll.register(client.sock, select.POLLERR)
    while True:
        try:
            client.send(b"x")
        except OSError:
            return
        if poll.poll(50):
            return


def test_refusals_past_the_first_ten_of_a_kind_are_no_lines_of_their_own() -> None:
    with serving(APPLICATION, "--layer", "memory://") as server:
        for _ in range(15):
            with Client(server) as client:
                client.send("GET / HTTP/9.9\r\n\r\n")
                assert client.read().status == 505
        with Client(server) as client:
            # Another kind has lines of its own.
            client.send("GET / HTTP/1.1\r\n\r\n")
            assert client.read().status == 400
        server.wait_for("400 from 127.0.0.1")
        assert server.log.count("505 from 127.0.0.1") == 10

"""Requests sent ahead of their answers, on a real server: ``--limit-pipelined``, order, refusals and memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload.settings import HttpOptions
from tests.http.client import Client, ask
from tests.http.conftest import APPLICATION
from tests.serving import DEADLINE, ROOT, Server, reset, serving


@pytest.fixture(scope="module", params=[1, 4])
def limited(request: pytest.FixtureRequest) -> Iterator[tuple[Server, int]]:
    with serving(APPLICATION, "--limit-pipelined", str(request.param)) as server:
        yield server, request.param


def _request(target: str, fields: str = "Host: a\r\n") -> str:
    return f"GET {target} HTTP/1.1\r\n{fields}\r\n"


def test_default_is_that_of_the_documentation() -> None:
    assert HttpOptions().limit_pipelined == 16


def test_limit_of_none_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "offload", APPLICATION, "--limit-pipelined", "0"],
        cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        2,
        "offload: error: --limit-pipelined is 0, but it must be 1 or more\n",
    )


def test_others_get_their_turn_after_as_many_requests_as_the_limit_says(limited: tuple[Server, int]) -> None:
    server, limit = limited
    with Client(server) as client:
        client.send(_request("/bare/turns") * 12)
        answered = [int(client.read().body) for _ in range(12)]
    assert answered == [answered[0] + number // limit * limit for number in range(12)]


def test_answers_keep_the_order_of_their_requests(limited: tuple[Server, int]) -> None:
    server, _ = limited
    with Client(server) as client:
        requests = []
        for number in range(100):
            body = "x" * (number * 7 % 50)
            length = f"Content-Length: {len(body)}\r\n" if number % 3 else ""
            requests.append(_request(f"/echo?{number}", "Host: a\r\n" + length) + (body if length else ""))
        client.send("".join(requests))
        seen = [json.loads(client.read().body)["QUERY_STRING"] for _ in range(100)]
    assert seen == [str(number) for number in range(100)]


def test_refusal_comes_after_the_answers_before_it_and_ends_the_connection(limited: tuple[Server, int]) -> None:
    server, _ = limited
    for good in range(6):
        with Client(server) as client:
            client.send(_request("/hello") * good + _request("/hello", "") + _request("/hello"))
            assert [client.read().status for _ in range(good)] == [200] * good
            refusal = client.read()
            assert (refusal.status, refusal.text) == (400, "400 Bad Request: the Host field is missing\n")
            assert client.rest() == b""


def test_answer_does_not_wait_for_the_next_ones_application(limited: tuple[Server, int]) -> None:
    server, _ = limited
    with Client(server) as client:
        client.send(_request("/hello") * 2 + _request("/waits") + _request("/hello"))
        assert [client.read().body for _ in range(2)] == [b"Hello, world!"] * 2
        # Only now the third is let on.
        assert ask(server, "/next").body == b"on"
        assert [client.read().body for _ in range(2)] == [b"done", b"Hello, world!"]


def test_pieces_of_an_answer_do_not_wait_for_what_the_process_does_next(
    limited: tuple[Server, int], tmp_path: Path
) -> None:
    server, _ = limited
    pipes = [str(tmp_path / name) for name in ("hints", "pieces")]
    for pipe in pipes:
        os.mkfifo(pipe)
    with contextlib.ExitStack() as opened, Client(server) as client:

        def open_pipe() -> None:
            # For both directions, so that it does not wait for the other end.
            opened.callback(os.close, os.open(pipes.pop(0), os.O_RDWR))

        try:
            client.send(_request(f"/bare/blocks?{'&'.join(pipes)}") + _request("/hello"))
            assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 103 ")
            open_pipe()
            assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
            assert client.until(b"\r\n") + client.until(b"\r\n") == b"6first "
        finally:
            while pipes:
                open_pipe()
        assert client.until(b"0\r\n\r\n") == b"6\r\nsecond\r\n"
        assert client.read().body == b"Hello, world!"


def test_connection_that_was_reset_before_its_last_answer_left_is_not_kept(tmp_path: Path) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    with serving(APPLICATION, "--keep-alive", "60") as server:
        with Client(server) as client:
            assert client.get("/hello").status == 200
            # The first answer waits for the second to leave with it.
            client.send(_request("/hello") + _request(f"/bare/stands?{pipe}"))
            server.wait_for("app: stands")
            reset(client.sock)
        with Client(server) as idle:
            # Only now the process goes on.
            opened = os.open(pipe, os.O_RDWR)
            try:
                assert idle.get("/hello").status == 200
                assert ask(server, "/bare/idle").body == b"1"
            finally:
                os.close(opened)


def test_request_finds_nothing_of_another_in_its_context(limited: tuple[Server, int]) -> None:
    server, _ = limited
    with Client(server) as client:
        client.send("".join(_request(f"/bare/context?{number}") for number in range(6)))
        assert [client.read().body for _ in range(6)] == [b"nothing"] * 6


def test_failure_between_others_is_answered_in_its_place(limited: tuple[Server, int]) -> None:
    server, _ = limited
    with Client(server) as client:
        client.send(_request("/hello") + _request("/wrong/fails") + _request("/hello"))
        assert [client.read().status for _ in range(2)] == [200, 500]
        assert client.rest() == b""


def test_large_answers_that_are_not_read_stay_bounded(limited: tuple[Server, int]) -> None:
    server, _ = limited
    peak = Path(f"/proc/{server.pids[-1]}/status")
    with Client(server) as client:
        client.get("/bare/zeros?size=200000")
        Path(f"/proc/{server.pids[-1]}/clear_refs").write_text("5")
        before = _peak(peak)
        # 400 MB in all, of which nothing is read until others have been served.
        client.send(_request("/bare/zeros?size=200000") * 2000)
        for _ in range(20):
            assert ask(server, "/hello").status == 200
        assert _peak(peak) - before < 8_000_000
        assert len(client.read().body) == 200_000


def _peak(status: Path) -> int:
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024

"""The echo example, started as its docstring says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
import websocket

from tests.serving import DEADLINE, Server


@pytest.fixture(scope="module")
def echo() -> Iterator[Server]:
    server = Server("examples.echo.app", workers=2)
    yield server
    assert server.stop() == 0, server.log


def connect(server: Server, path: str) -> contextlib.closing[websocket.WebSocket]:
    return contextlib.closing(websocket.create_connection(server.url(path, "ws"), timeout=DEADLINE))


def test_echo_answers_plain_requests(echo: Server) -> None:
    with urlopen(echo.url("/"), timeout=DEADLINE) as answer:
        assert answer.read() == b"This is offload's echo: open a WebSocket at /echo or /room.\n"


def test_echo_returns_text_and_bytes_to_their_sender(echo: Server) -> None:
    with connect(echo, "/echo") as client:
        for text in ("hello", "", "Grüße, 世界", "x" * 100_000):
            client.send(text)
            assert client.recv() == text
        client.send_binary(b"\x00\xff")
        assert client.recv() == b"\x00\xff"


def test_room_reaches_everybody_in_it_on_both_processes(echo: Server) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(echo, "/room")) for _ in range(8)]
        for number, client in enumerate(clients):
            client.send(f"hello from {number}")
            assert [other.recv() for other in clients] == [f"hello from {number}"] * 8
        clients[0].send_binary(b"\x00\xff")
        assert [other.recv() for other in clients] == [b"\x00\xff"] * 8


def test_room_leaves_out_those_who_left(echo: Server) -> None:
    with connect(echo, "/room") as stays:
        with connect(echo, "/room") as leaves:
            leaves.send("bye")
            assert leaves.recv() == stays.recv() == "bye"
        stays.send("still here?")
        assert stays.recv() == "still here?"

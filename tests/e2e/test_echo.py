"""The echo example, started as its docstring says."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import websocket

from tests.redis_server import RedisServer, redis_server  # noqa: F401  # a fixture
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


def holder_of(server: Server, client: websocket.WebSocket) -> int:
    """The server process that has the other end of a client's connection, as the kernel knows it."""
    assert client.sock is not None
    return holder_of_socket(server, client.sock)


def holder_of_socket(server: Server, sock: socket.socket) -> int:
    """The same for a client's socket."""
    ends = (f"0100007F:{server.port:04X}", f"0100007F:{sock.getsockname()[1]:04X}")
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    (inode,) = [row[9] for row in rows if (row[1], row[2]) == ends]
    (pid,) = [pid for pid in server.pids if f"socket:[{inode}]" in _open_files(pid)]
    return pid


def _open_files(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        # A descriptor may be closed while the others are read.
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(entry))
    return found


def test_room_on_redis_spans_both_processes(redis_server: RedisServer) -> None:  # noqa: F811
    server = Server("examples.echo.app", "--layer", redis_server.url, workers=2)
    try:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connect(server, "/room")) for _ in range(8)]
            homes = [holder_of(server, client) for client in clients]
            assert set(homes) == set(server.pids), "both processes have members"
            for pid in server.pids:
                clients[homes.index(pid)].send(f"hello from {pid}")
                assert [client.recv() for client in clients] == [f"hello from {pid}"] * 8
    finally:
        assert server.stop() == 0, server.log

"""The server's log: no client writes a line of it, and a handler of it that fails costs no answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus

from tests.http.client import Client, ask
from tests.serving import DEADLINE, Server, serving
from tests.websocket.sockets import open_socket

APPLICATION = "tests.http.apps.failing"
FORGED = "[2030-01-01 00:00:00 +0000] [1] [INFO] root logged in"
IN_A_PATH = "%0A" + FORGED.replace(" ", "%20").replace("+", "%2B")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(APPLICATION, "--layer", "memory://", "--log-level", "debug", "--access-logfile", "-") as server:
        yield server


@pytest.mark.parametrize("path", ["/fails", "/message", "/refuses", "/ws", "/hop", "/too-long"])
def test_path_cannot_forge_a_line(server: Server, path: str) -> None:
    path += IN_A_PATH
    if path.startswith(("/ws", "/refuses")):
        with contextlib.suppress(InvalidStatus), open_socket(server, path) as socket:
            socket.send("fail")
            socket.send("more")
            assert socket.recv(DEADLINE) == "more"
            server.wait_for(r"receive consumer .* failed for /ws\\n\[2030")
    else:
        ask(server, path)
    assert ask(server, "/").body == b"ok"
    assert not [line for line in server.log.splitlines() if line.startswith(FORGED)]


@pytest.fixture(scope="module")
def failing_log() -> Iterator[Server]:
    with serving(
        APPLICATION, "--layer", "memory://", "--log-level", "debug", env={"FAILING_LOG": "1"}
    ) as server:  # fmt: skip
        yield server


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/fails", 500, None), ("/hop", 200, b"ok"), ("/too-long", 200, b"o"), ("/message", 500, None)],
)
def test_log_that_fails_costs_no_answer(failing_log: Server, path: str, status: int, body: bytes | None) -> None:
    with Client(failing_log) as client:
        answer = client.get(path)
        assert answer.status == status
        assert body is None or answer.body == body
    failing_log.wait_for("RuntimeError: no room for ")


def test_log_that_fails_costs_no_refusal(failing_log: Server) -> None:
    with Client(failing_log) as client:
        client.send("nothing that we know\r\n\r\n")
        assert client.read().status == 400


def test_log_that_fails_costs_no_message(failing_log: Server) -> None:
    with open_socket(failing_log, "/ws") as socket:
        socket.send("fail")
        socket.send("more")
        assert socket.recv(DEADLINE) == "more"

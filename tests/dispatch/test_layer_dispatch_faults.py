"""``--dispatch layer`` when workers are missing, killed or slow, and when the layer is away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.dispatch.site import Site, take, text
from tests.protocol.frames import close
from tests.redis_server import RedisServer, redis_server, until  # noqa: F401  # a fixture
from tests.serving import DEADLINE, ROOT
from tests.websocket.sockets import is_silent, receive_until, upgrade

SOON = ("--dispatch-timeout", "3")


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def site(tmp_path: Path, stack: contextlib.ExitStack) -> Site:
    return Site(tmp_path, stack)


def close_code(client: ClientConnection) -> int | None:
    """What the server closes a WebSocket with."""
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(DEADLINE)
    return None if closed.value.rcvd is None else closed.value.rcvd.code


def test_without_workers_a_handshake_is_answered_503_and_the_log_says_what_to_start(site: Site) -> None:
    server = site.serve(*SOON)
    layer = site.layer()
    with pytest.raises(InvalidStatus) as refusal:
        site.open(server, "/decide/ok")
    assert refusal.value.response.status_code == 503
    server.wait_for(
        "the handshake at '/decide/ok' failed: no worker took a message on websocket.connect within 3 s "
        r"\(--dispatch-timeout\); start workers by: offload worker APP"
    )
    # The message waits yet, and what connects is disconnected.
    site.work()
    assert take(layer, "asked") == [{"how": "ok"}]
    assert take(layer, "gone") == [{"path": "/decide/ok", "code": 1006}]
    # A refusal by a consumer that ran late is followed by nothing.
    site.open(server, "/number").close(3001)
    assert take(layer, "gone") == [{"path": "/number", "code": 3001}]


def test_messages_that_wait_for_workers_keep_no_request_waiting(site: Site) -> None:
    server = site.serve(*SOON, "--pool-size", "1", app="served")
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as client:
        client.sendall(upgrade("/number"))
        layer = site.layer()
        taken = layer.receive(["websocket.connect"], DEADLINE)
        assert taken is not None
        # Its greenlet waits for us now, and the next handshake for that greenlet.
        assert server.ask(b"GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").endswith(b"/page")
        assert is_silent(client)


@pytest.mark.parametrize("outlasts", [False, True])
def test_a_connect_consumer_that_runs_during_a_reload_is_followed_by_its_disconnect(site: Site, outlasts: bool) -> None:
    server = site.serve("--graceful-timeout", "2" if outlasts else "20")
    site.work()
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as client:
        client.sendall(upgrade("/slow"))
        until((site.directory / "held").exists, "the connect consumer", DEADLINE)
        server.signal(signal.SIGHUP)
        if outlasts:
            assert receive_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 503 ")
            site.release()
        else:
            server.wait_for(r"server process \d+ is ready", times=2)
            site.release()
            head, _, frame = receive_until(client, (1012).to_bytes(2, "big")).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert frame == b"\x88\x02\x03\xf4"
            client.sendall(close(1012))
    server.wait_for(r"server process \d+ was replaced and ended with status 0")
    until(lambda: (site.directory / "notes").read_text().count("\n") == 2, "both consumers", DEADLINE)
    assert [line.split()[1] for line in (site.directory / "notes").read_text().splitlines()] == [
        "connect",
        "disconnect",
    ]


def test_a_long_consumer_is_waited_for_until_its_worker_is_killed_and_then_closes_with_1011(site: Site) -> None:
    server, workers = site.serve(*SOON), site.work()
    layer = site.layer()
    hit, other = site.open(server, "/long"), site.open(server, "/number")
    hit.send("wait")
    # It has run for longer than --dispatch-timeout by now.
    (waiting,) = take(layer, "waiting")
    assert "closing the WebSocket" not in server.log
    os.kill(waiting["pid"], signal.SIGKILL)
    assert close_code(hit) == 1011
    server.wait_for("closing the WebSocket at /long with 1011: the worker that ran its consumer is gone")
    assert take(layer, "gone") == [{"path": "/long", "code": 1011}]
    # The others go on, with the worker that took its place.
    workers.wait_for(r"worker \d+ is ready", times=2)
    other.send("hello")
    assert text(other).split() == [str(workers.pids[1]), "1", "hello"]
    other.close(3001)
    assert take(layer, "gone") == [{"path": "/number", "code": 3001}]


def test_a_stopping_worker_finishes_what_runs_and_others_go_on(site: Site) -> None:
    server, workers = site.serve(*SOON), site.work()
    layer = site.layer()
    client = site.open(server, "/wait")
    client.send("wait")
    client.send("next")
    take(layer, "waiting")
    workers.signal(signal.SIGTERM)
    workers.wait_for("stopping: SIGTERM")
    site.work()
    layer.send("go", {})
    assert [text(client), text(client)] == ["went", "next"]
    assert workers.wait() == 0


def test_a_full_channel_closes_with_1013_and_each_disconnect_follows_its_receive(
    tmp_path: Path, stack: contextlib.ExitStack
) -> None:
    site = Site(tmp_path, stack, query="?channel_capacity=websocket.receive:2")
    server, workers = site.serve(*SOON), site.work()
    layer = site.layer()
    clients = [site.open(server, "/record") for _ in range(4)]
    assert workers.stop() == 0
    for client in clients:
        client.send("hello")
    assert [close_code(client) for client in clients] == [1013] * 4
    server.wait_for(
        "closing the WebSocket at /record with 1013: the workers do not keep up: channel 'websocket.receive' holds 2 "
        r"messages, which is its capacity, and no place was free within 3 s \(--dispatch-timeout\)",
        times=2,
    )
    server.wait_for(
        "closing the WebSocket at /record with 1013: no worker took a message on websocket.receive", times=2
    )
    site.work()
    seen: dict[str, list[str]] = {}
    for record in take(layer, "record", 6):
        seen.setdefault(record["who"], []).append(record["what"])
    received, only_left = ["websocket.receive", "websocket.disconnect"], ["websocket.disconnect"]
    assert sorted(seen.values()) == sorted([received, received, only_left, only_left])


def test_a_stopping_server_leaves_its_disconnects_to_workers_that_come(
    tmp_path: Path,
    redis_server: RedisServer,  # noqa: F811
    stack: contextlib.ExitStack,
) -> None:
    site = Site(tmp_path, stack, redis_server.url)
    server, workers = site.serve("--drain-timeout", "1", workers=2), site.work()
    layer = site.layer()
    for _ in range(5):
        site.open(server, "/number")
    assert workers.stop() == 0
    assert server.stop() == 0
    assert layer.receive(["gone"], 0) is None
    site.work()
    assert take(layer, "gone", 5) == [{"path": "/number", "code": 1001}] * 5


def test_a_stopping_server_waits_for_places_for_its_disconnects(
    tmp_path: Path,
    redis_server: RedisServer,  # noqa: F811
    stack: contextlib.ExitStack,
) -> None:
    site = Site(tmp_path, stack, redis_server.url, query="?channel_capacity=websocket.disconnect:2")
    server, workers = site.serve(), site.work()
    layer = site.layer()
    for _ in range(12):
        site.open(server, "/number")
    assert workers.stop() == 0
    server.signal(signal.SIGTERM)
    server.wait_for(r"\d+ disconnect messages wait to be sent before this process ends")
    site.work()
    assert take(layer, "gone", 12) == [{"path": "/number", "code": 1001}] * 12
    assert server.wait() == 0
    assert "does not run" not in server.log


def test_redis_that_stays_away_refuses_handshakes_and_closes_who_speaks(
    tmp_path: Path,
    redis_server: RedisServer,  # noqa: F811
    stack: contextlib.ExitStack,
) -> None:
    site = Site(tmp_path, stack, redis_server.url, query="?timeout=1&expiry=3")
    server = site.serve("--dispatch-timeout", "2")
    site.work()
    speaks, idle = site.open(server, "/record"), site.open(server, "/number")
    redis_server.kill()
    speaks.send("hello")
    with pytest.raises(InvalidStatus) as refusal:
        site.open(server, "/number")
    assert refusal.value.response.status_code == 503
    server.wait_for("the handshake at '/number' failed: layer 'redis'")
    assert close_code(speaks) == 1013
    server.wait_for("closing the WebSocket at /record with 1013: layer 'redis'")
    redis_server.start()
    server.wait_for("layer 'redis' is back")
    idle.send("hello")
    assert text(idle).split()[1:] == ["1", "hello"]
    # Who spoke in vain is disconnected once the layer is back.
    assert [record["what"] for record in take(site.layer(), "record")] == ["websocket.disconnect"]


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (
            ["routes", "--dispatch", "layer", "--layer", "memory://"],
            "--dispatch layer needs a layer that workers share, and the memory layer is one process's own; "
            "use --layer ipc: on one machine, redis://HOST:PORT/DB on several",
            2,
        ),
        (["routes", "--dispatch", "remote"], "--dispatch is 'remote'; choose one of local, layer", 2),
        (["routes", "--dispatch-timeout", "1"], "--dispatch-timeout is 1.0, but it must be 2 or more", 2),
        (
            ["bare", "--dispatch", "layer"],
            "--dispatch layer needs routes of WebSockets; name them with --routing MODULE:NAME, "
            "or as channel_routing in the module of APP",
            3,
        ),
        (
            ["plain", "--dispatch", "layer", "--routing", "plain:wrong"],
            "the consumer of plain.wrong[0] is 'no path'; write it as package.module.name",
            3,
        ),
    ],
)
def test_what_cannot_be_dispatched_through_the_layer_is_one_line(
    site: Site, arguments: list[str], message: str, status: int
) -> None:
    (site.directory / "bare.py").write_text("def application(environ, start_response): ...\n")
    (site.directory / "plain.py").write_text(
        "from offload import route\ndef application(environ, start_response): ...\n"
        "wrong = [route('websocket.receive', 'no path')]\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "offload", *arguments, "-b", "127.0.0.1:0"],
        cwd=site.directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OFFLOAD_RUNTIME_DIR": str(site.directory / "run")},
        capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert [line for line in result.stderr.splitlines() if not line.startswith("[")] == [f"offload: error: {message}"]
    assert result.returncode == status

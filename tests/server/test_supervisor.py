"""The supervisor: forks, watches, restarts and stops real server processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.server.children import begin_waiting, is_running, start, wait_gone
from tests.serving import DEADLINE, ROOT, Server, serving

APP = """
import os
from offload import route

def application(environ, start_response):
    body = str(os.getpid()).encode()
    if environ["PATH_INFO"] == "/wait":
        # Says that it has begun, then takes the client's word for when to end.
        environ["wsgi.input"].read(1)
        body = b"waited"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def connect(message):
    message.reply_channel.send({"text": str(os.getpid())})

def disconnect(message):
    with open("closes", "a") as file:
        file.write(f"{message['code']}\\n")

channel_routing = [
    route("websocket.connect", connect),
    route("websocket.disconnect", disconnect),
]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def get(server: Server, path: str = "/") -> str:
    with urllib.request.urlopen(server.url(path), timeout=DEADLINE) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_all_processes_with_status_0(project: Path, number: int) -> None:
    server = start(project, workers=2)
    try:
        pids = server.pids
        assert len(set(pids)) == 2
        server.signal(number)
        assert server.wait() == 0
        assert not any(map(is_running, pids))
        assert "Traceback" not in server.log
    finally:
        server.stop()


@pytest.mark.chaos("R3: a killed process is replaced, others' connections are untouched")
def test_a_killed_server_process_is_replaced_and_others_connections_stay(project: Path) -> None:
    with (
        serving("shop", "--layer", "memory://", workers=2, cwd=project, env=_env(project)) as server,
        contextlib.ExitStack() as clients,
    ):
        sockets: dict[int, list[ClientConnection]] = {}
        for _ in range(10):
            websocket = clients.enter_context(connect(server.url("/", "ws")))
            sockets.setdefault(int(websocket.recv(DEADLINE)), []).append(websocket)
        assert set(sockets) == set(server.pids), "both processes accept"
        victim, survivor = sockets
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        server.wait_for(r"server process \d+ is ready", times=3)
        assert time.monotonic() - killed < 5
        assert re.search(rf"server process {victim} was killed by SIGKILL; starting another", server.log)
        for websocket in sockets[survivor]:
            websocket.ping().wait(DEADLINE)
        assert int(get(server)) in server.pids


def _env(project: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{project}:{ROOT}"}


def test_connections_spread_over_the_server_processes(project: Path) -> None:
    with (
        serving("shop", "--layer", "memory://", workers=2, cwd=project, env=_env(project)) as server,
        contextlib.ExitStack() as clients,
    ):
        sockets = [clients.enter_context(connect(server.url("/", "ws"))) for _ in range(40)]
        pids = [websocket.recv(DEADLINE) for websocket in sockets]
        shares = [pids.count(pid) for pid in set(pids)]
        assert len(shares) == 2
        assert min(shares) >= 10


def test_server_processes_end_when_the_supervisor_is_killed(project: Path) -> None:
    server = start(project, workers=2)
    try:
        server.signal(signal.SIGKILL)
        server.process.wait(DEADLINE)
        for pid in server.pids:
            wait_gone(pid)
    finally:
        server.stop()


@pytest.mark.chaos("R11: a stop finishes requests and closes WebSockets")
def test_a_running_request_is_finished_before_the_stop(project: Path) -> None:
    server = start(project)
    try:
        with server.connect() as sock:
            begin_waiting(sock)
            server.signal(signal.SIGTERM)
            server.wait_for("stopping: SIGTERM")
            sock.sendall(b"x")
            answer = b"".join(iter(lambda: sock.recv(1000), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.endswith(b"waited")
        assert server.wait() == 0
    finally:
        server.stop()


@pytest.mark.chaos("R11: a stop finishes requests and closes WebSockets")
def test_websockets_get_1001_at_the_stop_and_their_disconnect_consumers_run(project: Path) -> None:
    server = start(project)
    try:
        with connect(server.url("/", "ws")) as websocket:
            websocket.recv(DEADLINE)
            server.signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv(DEADLINE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        assert server.wait() == 0
        assert (project / "closes").read_text() == "1001\n"
    finally:
        server.stop()


def test_a_second_signal_does_not_wait(project: Path) -> None:
    server = start(project, "--graceful-timeout", "60")
    try:
        with server.connect() as sock:
            begin_waiting(sock)
            server.signal(signal.SIGTERM)
            server.wait_for("stopping: SIGTERM")
            server.signal(signal.SIGTERM)
            began = time.monotonic()
            server.wait()
            assert time.monotonic() - began < 10
    finally:
        server.stop()


def test_the_pid_file_is_there_while_it_serves(project: Path) -> None:
    server = start(project, "--pid", "offload.pid")
    try:
        assert int((project / "offload.pid").read_text()) == server.process.pid
    finally:
        server.stop()
    assert not (project / "offload.pid").exists()


def test_a_unix_socket_is_served_and_a_stale_one_replaced(project: Path) -> None:
    path = project / "offload.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    server = start(project, "--bind", f"unix:{path}")
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(str(path))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b"200 OK" in b"".join(iter(lambda: sock.recv(1000), b""))
    finally:
        server.stop()
    assert not path.exists()


def test_a_unix_socket_in_use_is_not_taken(project: Path) -> None:
    path = project / "offload.sock"
    first = start(project, "--bind", f"unix:{path}")
    try:
        with pytest.raises(AssertionError, match="the address is in use"):
            start(project, "--bind", f"unix:{path}")
        assert path.exists()
    finally:
        first.stop()


def test_several_addresses_are_served(project: Path) -> None:
    path = project / "offload.sock"
    with serving(
        "shop", "--layer", "memory://", "-b", "127.0.0.1:0", "-b", f"unix:{path}", cwd=project, env=_env(project)
    ) as server:
        assert get(server)
        assert path.is_socket()


def test_a_process_that_cannot_start_again_is_tried_with_pauses(project: Path) -> None:
    with serving("shop", "--layer", "memory://", workers=2, cwd=project, env=_env(project)) as server:
        first, second = server.pids
        (project / "shop.py").write_text("raise RuntimeError('broken since the last deployment')")
        os.kill(first, signal.SIGKILL)
        server.wait_for("broken since the last deployment")
        # The other one goes on.
        assert get(server) == str(second)
        (project / "shop.py").write_text(APP)
        server.wait_for(r"server process \d+ is ready", times=3)


def test_many_clients_at_once_are_all_answered(project: Path) -> None:
    with serving("shop", "--layer", "memory://", workers=2, cwd=project, env=_env(project)) as server:
        answers: list[str] = []
        threads = [threading.Thread(target=lambda: answers.append(get(server))) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert len(answers) == 50


def test_a_full_process_leaves_further_connections_in_the_backlog(project: Path) -> None:
    with serving("shop", "--layer", "memory://", "--worker-connections", "2", cwd=project, env=_env(project)) as server:
        first, second = server.connect(), server.connect()
        with server.connect() as third:
            third.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            third.settimeout(0.3)
            with pytest.raises(TimeoutError):
                third.recv(1)
            first.close()
            third.settimeout(DEADLINE)
            assert third.recv(12) == b"HTTP/1.1 200"
        second.close()


def test_a_reload_closes_websockets_with_1012(project: Path) -> None:
    with (
        serving("shop", "--layer", "memory://", cwd=project, env=_env(project)) as server,
        connect(server.url("/", "ws")) as websocket,
    ):
        websocket.recv(DEADLINE)
        server.signal(signal.SIGHUP)
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(DEADLINE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        server.wait_for("was replaced and ended with status 0")
        assert (project / "closes").read_text() == "1012\n"


@pytest.mark.chaos("R2: a reload of broken code leaves the old processes serving")
def test_a_reload_whose_code_does_not_import_leaves_the_old_processes_serving(project: Path) -> None:
    with serving("shop", "--layer", "memory://", workers=2, cwd=project, env=_env(project)) as server:
        (project / "shop.py").write_text("raise RuntimeError('broken since the last deployment')")
        server.signal(signal.SIGHUP)
        server.wait_for("not reloaded, the old server processes go on: .*broken since the last deployment")
        assert int(get(server)) in server.pids
        assert len(server.pids) == 2
        # What is mended is taken by the next reload.
        (project / "shop.py").write_text(APP)
        server.signal(signal.SIGHUP)
        server.wait_for("was replaced and ended with status 0", times=2)
        assert int(get(server)) in server.pids[2:]


def test_another_servers_pid_file_stays(project: Path) -> None:
    server = start(project, "--pid", "offload.pid")
    try:
        with pytest.raises(AssertionError, match="the address is in use"):
            start(project, "--pid", "offload.pid", "--bind", f"127.0.0.1:{server.port}")
        assert int((project / "offload.pid").read_text()) == server.process.pid
    finally:
        server.stop()
    assert not (project / "offload.pid").exists()


def test_an_inherited_unix_socket_is_left_to_its_owner(project: Path) -> None:
    path = project / "inherited.sock"
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(str(path))
        inherited.listen()
        command = [sys.executable, "-m", "offload", "shop", "--layer", "memory://", "-b", f"fd://{inherited.fileno()}"]
        process = subprocess.Popen(
            command, cwd=project, env={**os.environ, **_env(project)}, pass_fds=[inherited.fileno()],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        try:
            assert any("is ready" in line for line in process.stderr)
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
            process.stderr.close()
            assert process.wait(DEADLINE) == 0
    assert path.is_socket()


def test_a_stop_at_any_moment_of_the_start_is_quick(project: Path) -> None:
    env = {**os.environ, **_env(project)}
    for attempt in range(6):
        process = subprocess.Popen(
            [sys.executable, "-m", "offload", "shop", "--layer", "memory://", "-b", "127.0.0.1:0", "-w", "6"],
            cwd=project, env=env, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        # The first is ready; the others are being forked.
        assert any("is ready" in line for line in process.stderr)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        process.stderr.close()
        assert process.wait(DEADLINE) == 0, attempt
        assert time.monotonic() - began < 10, attempt

"""Reloads, kills, stops and applications that misbehave, while clients ask without a pause.

``OFFLOAD_TEST_FULL=1`` reloads twenty times; otherwise it is three times.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.server.children import begin_waiting, start, wait_gone
from tests.server.load import Load
from tests.serving import DEADLINE
from tests.stalls import Stalls

RELOADS = 20 if os.environ.get("OFFLOAD_TEST_FULL") == "1" else 3
APP = """
import os
import sys
import time

import gevent.event
from offload import route

def application(environ, start_response):
    body = str(os.getpid()).encode()
    path = environ["PATH_INFO"]
    if path == "/wait":
        environ["wsgi.input"].read(1)
        body = b"waited"
    elif path == "/raise":
        raise RuntimeError("of the application")
    elif path == "/exit":
        sys.exit("of the application")
    elif path == "/end":
        os._exit(7)
    elif path == "/hold":
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass
    elif path == "/leak":
        gevent.spawn(lambda: 1 / 0)
        gevent.spawn(gevent.event.Event().wait)
        gevent.Timeout(0.01).start()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def connect(message):
    message.reply_channel.send({"text": str(os.getpid())})

channel_routing = [route("websocket.connect", connect)]
"""
Saw = Callable[[str], None]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


@pytest.mark.chaos("R1: a reload fails no request")
@pytest.mark.parametrize("arguments", [(), ("--preload",), ("--reload-parallel", "2")], ids=" ".join)
def test_reloads_under_load_fail_no_request_and_refuse_no_connection(
    project: Path, arguments: tuple[str, ...], saw: Saw
) -> None:
    server = start(project, *arguments, workers=2)
    try:
        with Load(server.port) as load:
            for number in range(1, RELOADS + 1):
                load.wait_for_more()
                server.signal(signal.SIGHUP)
                server.wait_for(r"server process \d+ was replaced and ended with status 0", times=2 * number)
            load.wait_for_more()
        assert load.failures == []
        assert set(load.answers) == {str(pid).encode() for pid in server.pids}
        assert len(server.pids) == 2 * (RELOADS + 1)
        saw(f"{RELOADS} reloads, {load.answered} requests")
    finally:
        assert server.stop() == 0, server.log


@pytest.mark.chaos("R2: a reload of broken code leaves the old processes serving")
def test_a_reload_of_broken_code_under_load_fails_no_request(project: Path, saw: Saw) -> None:
    server = start(project, workers=2)
    try:
        with Load(server.port) as load:
            load.wait_for_more()
            (project / "shop.py").write_text("raise RuntimeError('broken since the last deployment')")
            for number in range(1, RELOADS + 1):
                server.signal(signal.SIGHUP)
                server.wait_for("not reloaded, the old server processes go on", times=number)
                load.wait_for_more()
        assert load.failures == []
        assert set(load.answers) == {str(pid).encode() for pid in server.pids}
        saw(f"{RELOADS} reloads, {load.answered} requests")
    finally:
        assert server.stop() == 0, server.log


@pytest.mark.chaos("R3: a killed process is replaced, others' connections are untouched")
@pytest.mark.parametrize("arguments", [(), ("--preload",), ("--spare", "1")], ids=" ".join)
def test_a_process_killed_under_load_is_replaced_at_once(project: Path, arguments: tuple[str, ...], saw: Saw) -> None:
    server = start(project, *arguments, workers=2)
    clients, seconds = 12, []
    try:
        with Stalls() as stalls, Load(server.port, clients) as load:
            for number in range(1, 4):
                load.wait_for_more()
                if arguments == ("--spare", "1"):
                    server.wait_for(r"spare server process \d+ is ready", times=number)
                victim = re.findall(r"\] server process (\d+) is ready", server.log)[-1]
                killed = time.monotonic()
                os.kill(int(victim), signal.SIGKILL)
                server.wait_for(r"\] server process \d+ is ready", times=2 + number)
                seconds.append(time.monotonic() - killed)
                load.wait_for_more()
        # What the killed process was about to answer is lost, and nothing else.
        assert len(load.failures) <= 3 * clients, load.failures
        assert not [failure for failure in load.failures if "refused" in failure.lower()]
        saw(f"replaced after {', '.join(f'{each:.2f}' for each in seconds)} s, {len(load.failures)} requests failed")
        # Importing offload and the application takes longer on a machine that is busy with other things.
        assert min(seconds) < (1.0 if arguments else 3.0) + stalls.seconds, seconds
    finally:
        assert server.stop() == 0, server.log


@pytest.mark.chaos("R11: a stop finishes requests and closes WebSockets")
def test_a_stop_under_load_cuts_no_answer_off_finishes_requests_and_closes_websockets(project: Path, saw: Saw) -> None:
    server = start(project, workers=2)
    try:
        with server.connect() as sock, connect(server.url("/", "ws")) as websocket, Load(server.port) as load:
            websocket.recv(DEADLINE)
            begin_waiting(sock)
            load.wait_for_more()
            server.signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv(DEADLINE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
            sock.sendall(b"x")
            answer = b"".join(iter(lambda: sock.recv(1000), b""))
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert answer.endswith(b"waited")
            assert server.wait() == 0
            load.stop()
        # New connections are refused, at last; nothing that was answered is cut off.
        assert not [failure for failure in load.failures if "cut off" in failure or "HTTP" in failure]
        saw(f"{load.answered} requests")
    finally:
        server.stop()
    assert "Traceback" not in server.log


@pytest.mark.chaos("R10: an application that misbehaves harms nobody else")
@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/raise", b"HTTP/1.1 500 ", r"RuntimeError: of the application"),
        ("/exit", b"HTTP/1.1 500 ", r"SystemExit: of the application"),
        ("/hold", b"HTTP/1.1 200 ", r"\[WARNING\] server process \d+: a task has held its loop for"),
        ("/leak", b"HTTP/1.1 200 ", r"ZeroDivisionError: division by zero"),
    ],
)
def test_a_view_that_misbehaves_harms_no_other_request(project: Path, path: str, status: bytes, told: str) -> None:
    server = start(project, "--blocked-after", "0.1", workers=2)
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    try:
        with Load(server.port) as load:
            load.wait_for_more()
            for _ in range(10 if path != "/hold" else 2):
                assert server.ask(request).startswith(status)
            server.wait_for(told)
            load.wait_for_more()
        assert load.failures == []
        assert len(server.pids) == 2, "no process has died of it"
    finally:
        assert server.stop() == 0, server.log


@pytest.mark.chaos("R10: an application that misbehaves harms nobody else")
def test_a_view_that_ends_its_process_costs_the_requests_of_that_process_alone(project: Path) -> None:
    server = start(project, workers=2)
    clients = 12
    try:
        with Load(server.port, clients) as load:
            load.wait_for_more()
            assert server.ask(b"GET /end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") == b""
            ended = int(server.wait_for(r"server process (\d+) ended with status 7; starting another")[1])
            wait_gone(ended)
            server.wait_for(r"\] server process \d+ is ready", times=3)
            load.wait_for_more()
        assert len(load.failures) <= clients
        assert not [failure for failure in load.failures if "refused" in failure.lower()]
    finally:
        assert server.stop() == 0, server.log

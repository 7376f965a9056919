"""A stop or reload with clients that do not answer: everybody's end is told to consumers and applications in time."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.protocol.frames import message
from tests.serving import serving
from tests.websocket.raw import ROUTED, RawClient

MEMORY = ("--layer", "memory://")
COUNT = 30
FLOOD = """
import sys

def application(environ, start_response):
    socket = environ["wsgi.websocket"]
    socket.send("open")
    try:
        if environ["PATH_INFO"] == "/flood":
            while True:
                socket.send("x" * 65536)
        while socket.receive() is not None:
            pass
    finally:
        sys.stderr.write(f"ended {environ['PATH_INFO']}\\n")
        sys.stderr.flush()
"""


@pytest.mark.parametrize("seconds", ["0", "1", "3"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_silent_clients_have_their_disconnect_consumers_run_within_the_time(seconds: str, number: int) -> None:
    with serving(ROUTED, *MEMORY, "--graceful-timeout", seconds) as server:
        clients = [RawClient(server, f"/many/{count}") for count in range(COUNT)]
        (pid,) = server.pids
        began = time.monotonic()
        server.signal(number)
        if number == signal.SIGHUP:
            # By itself: the supervisor kills who takes five seconds longer than it may.
            server.wait_for(f"server process {pid} was replaced and ended with status 0")
        else:
            assert server.wait() == 0
            assert time.monotonic() - began < float(seconds) + 4
        lines = [line for line in server.log.splitlines() if line.startswith("disconnected /many/")]
        assert sorted(lines) == sorted(f"disconnected /many/{count} 1006 1" for count in range(COUNT))
        for client in clients:
            client.close()


def test_consumer_that_does_not_end_does_not_keep_others_disconnects_from_running() -> None:
    with serving(ROUTED, *MEMORY, "--graceful-timeout", "2") as server:
        stuck, silent = RawClient(server, "/wait/stuck"), RawClient(server, "/many/silent")
        stuck.send(b"".join(message("one")))
        server.wait_for("waiting one\n")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "disconnected /many/silent 1006 1\n" in server.log
        assert "1 tasks did not end within 2.0 s; they are cut off" in server.log
        for client in (stuck, silent):
            client.close()


def test_applications_of_silent_clients_have_their_end_within_the_time(tmp_path: Path) -> None:
    (tmp_path / "flood.py").write_text(FLOOD)
    with serving("flood", *MEMORY, "--graceful-timeout", "2", cwd=tmp_path, env={}) as server:
        clients = [RawClient(server, path, receive_buffer=4096) for path in ("/quiet", "/flood")]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "ended /quiet\n" in server.log
        assert "ended /flood\n" in server.log
        for client in clients:
            client.close()

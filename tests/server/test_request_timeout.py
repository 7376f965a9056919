"""--request-timeout: a request or consumer that runs for too long is ended, and others are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.server.children import start
from tests.serving import DEADLINE

APP = """
import threading
from offload import route

never, over = threading.Event(), threading.Event()

def application(environ, start_response):
    websocket = environ.get("wsgi.websocket")
    if websocket is not None:
        websocket.send("begun")
        over.wait(20)
        websocket.send("late")
        return []
    if environ["PATH_INFO"] == "/slow":
        never.wait(60)
    if environ["PATH_INFO"] == "/over":
        over.set()
    start_response("200 OK", [("Content-Length", "2")])
    if environ["PATH_INFO"] == "/streams":
        def pieces():
            yield b"a"
            never.wait(60)
        return pieces()
    return [b"ok"]

def ws_receive(message):
    if message["text"] == "slow":
        never.wait(60)
    message.reply_channel.send({"text": message["text"]})

channel_routing = [route("websocket.receive", ws_receive, path="^/routed")]
"""


def test_what_runs_too_long_is_ended_and_told_with_its_stack(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    server = start(tmp_path, "--request-timeout", "0.4")
    try:
        with connect(server.url("/raw", "ws")) as conversation:
            assert conversation.recv(DEADLINE) == "begun"
            answer = server.ask(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 503 ")
            server.wait_for(
                r"(?s)the application failed for GET /slow\n.*never\.wait\(60\).*TaskTimeout: it ran for more than"
            )
            assert server.ask(b"GET /streams HTTP/1.1\r\nHost: a\r\n\r\n").endswith(b"\r\n\r\na")
            # Requests of one connection have their time each; and so have its messages.
            with connect(server.url("/routed", "ws")) as websocket:
                websocket.send("quick")
                assert websocket.recv(DEADLINE) == "quick"
                websocket.send("slow")
                with pytest.raises(ConnectionClosed) as closed:
                    websocket.recv(DEADLINE)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1011
            # A conversation of an application's own is no request: it has outlasted all of these.
            assert server.ask(b"GET /over HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").endswith(b"ok")
            assert conversation.recv(DEADLINE) == "late"
    finally:
        assert server.stop() == 0

"""The programs of the page on gevent-websocket and its kin, each served and talked to by a real client."""

from __future__ import annotations

import threading
from pathlib import Path

import socketio
from websockets.sync.client import connect

from tests.serving import DEADLINE, ROOT, serving
from tests.test_docs import code_block

PAGE = ROOT / "docs" / "howto" / "from-gevent-websocket.md"


def test_a_program_for_gevent_websocket_runs_unchanged(tmp_path: Path) -> None:
    (tmp_path / "site_app.py").write_text(code_block(PAGE, "python", "while not socket.closed"))
    with serving("site_app", cwd=tmp_path) as server, connect(server.url("/", "ws")) as client:
        client.send("hello")
        assert client.recv(DEADLINE) == "hello"


def test_a_class_of_ten_lines_stands_for_flask_sockets_and_flask_sock(tmp_path: Path) -> None:
    (tmp_path / "site_app.py").write_text(code_block(PAGE, "python", "class Sockets"))
    with serving("site_app:app", cwd=tmp_path) as server, connect(server.url("/echo/ada", "ws")) as client:
        client.send("hello")
        assert client.recv(DEADLINE) == "ada: hello"


def test_flask_socketio_runs_unchanged_by_polling_and_by_websocket(tmp_path: Path) -> None:
    (tmp_path / "site_app.py").write_text(code_block(PAGE, "python", "SocketIO(app"))
    with serving("site_app:app", cwd=tmp_path) as server:
        heard = {transport: threading.Event() for transport in ("polling", "websocket")}
        clients = {transport: socketio.Client(reconnection=False) for transport in heard}
        try:
            for transport, client in clients.items():
                client.on("said", lambda text, event=heard[transport]: event.set())
                client.connect(server.url(), transports=[transport], wait_timeout=DEADLINE)
            clients["polling"].emit("say", "hello")
            for event in heard.values():
                assert event.wait(DEADLINE), server.log
        finally:
            for client in clients.values():
                client.disconnect()

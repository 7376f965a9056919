"""`offload.statistics()`: what it counts, where it is documented, and the signal that writes it into the log."""

from __future__ import annotations

import json
import re
import signal
import socket
from dataclasses import fields
from pathlib import Path

from offload.consumers.dispatch.remote_owner import DispatchCounters
from tests.protocol.frames import close, message
from tests.serving import ROOT, Server, read_all, serving
from tests.websocket.raw import RawClient, wait_state
from tests.websocket.sockets import upgrade

APP = "tests.websocket.apps.routed"
READING_APP = """
def application(environ, start_response):
    start_response("200 OK", [])
    return [environ["wsgi.input"].read()]
"""
PAGE = ROOT / "docs" / "reference" / "statistics.md"


def logged(server: Server) -> dict[str, float]:
    """The counters of the server's only process, as the log tells them."""
    before = server.log.count("statistics: ")
    server.signal(signal.SIGUSR1)
    server.wait_for("statistics: ", times=before + 1)
    found: dict[str, float] = json.loads(server.log.split("statistics: ")[-1].splitlines()[0])
    return found


def test_requests_and_refusals_and_websockets_are_counted() -> None:
    with serving(APP, "--layer", "memory://", cwd=ROOT) as server:
        for _ in range(3):
            answer = server.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        body = answer.partition(b"\r\n\r\n")[2]
        assert server.ask(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert server.ask(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert server.ask(upgrade("/echo", version="8")).startswith(b"HTTP/1.1 426")
        client = RawClient(server, "/echo")
        client.send(b"".join(message("hello")))
        assert client.receive() == "hello"
        counts = logged(server)
        assert counts["http.requests"] == 3
        assert counts["http.bytes"] == 3 * len(body)
        assert 0 < counts["http.seconds"] < 60
        assert (counts["http.refused"], counts["http.refused.400"], counts["http.refused.426"]) == (3, 2, 1)
        assert (counts["websocket.opened"], counts["websocket.bad_handshakes"], counts["websocket.members"]) == (
            1,
            1,
            1,
        )
        assert counts["layer.default.sent"] == counts["layer.default.received"] == 1
        client.send(close(1000))
        assert client.rest() == []
        wait_state(server, members=0)


def test_a_request_that_fails_while_its_application_reads_it_is_counted_as_refused(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(READING_APP)
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with serving("shop", "--layer", "memory://", cwd=tmp_path, env=env) as server:
        head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        with server.connect() as sock:
            sock.sendall(head)
            assert sock.recv(100).startswith(b"HTTP/1.1 100")
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock).startswith(b"HTTP/1.1 400")
        counts = logged(server)
        assert (counts["http.requests"], counts["http.refused"], counts["http.refused.400"]) == (0, 1, 1)


def test_every_number_is_documented_and_nothing_else() -> None:
    with serving(APP, "--layer", "memory://", cwd=ROOT) as server:
        with server.connect() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x" * 9000 + b"\r\n\r\n")
            assert read_all(sock).startswith(b"HTTP/1.1 431")
        names = set(logged(server))
    assert "http.refused.431" in names
    told = set(re.findall(r"`((?:http|process|websocket)\.[a-z_.]+)`", PAGE.read_text()))
    assert {name for name in names if name[-1].isalpha() and not name.startswith("layer.")} == told
    counted = {f"dispatch.{each.name}" for each in fields(DispatchCounters)}
    assert counted == set(re.findall(r"`(dispatch\.[a-z_]+)`", PAGE.read_text()))
    kinds = {name.rpartition(".")[2] for name in names if name.startswith("layer.default.")}
    assert all(f"`.{kind}`" in PAGE.read_text() or f"layer.default.{kind}" in PAGE.read_text() for kind in kinds)

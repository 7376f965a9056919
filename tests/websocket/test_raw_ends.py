"""How a raw WebSocket ends: whatever its application does, and whatever its client does."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from tests.protocol.frames import close, message
from tests.serving import ROOT, Server, serving
from tests.websocket.raw import RawClient

APP = "tests.websocket.apps.raw"
HELLO = b"".join(message("hello"))


@pytest.fixture
def server() -> Iterator[Server]:
    # No end here waits for a timeout: all are longer than the test's deadlines.
    with serving(APP, "--ws-close-timeout", "60", "--pool-size", "2", cwd=ROOT) as server:
        yield server


@pytest.mark.parametrize("ending", ["close", "reset", "eof"])
@pytest.mark.parametrize("said", [b"", HELLO, HELLO * 20], ids=["nothing", "one", "twenty"])
@pytest.mark.chaos("every connection ends")
def test_closed_is_true_where_messages_were_not_received(server: Server, said: bytes, ending: str) -> None:
    client = RawClient(server, "/push")
    client.send(said + (close(1000) if ending == "close" else b""))
    if ending == "close":
        assert (client.rest(), client.code) == ([], 1000)
    elif ending == "reset":
        client.reset()
    else:
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == []
    server.wait_for("push has ended, closed: True")
    # What came before the end is there all the same.
    first, second = ("None", "") if not said else ("'hello'", "None" if said == HELLO else "'hello'")
    if said:
        server.wait_for(f"push receives {first}, {second}")
    # Its greenlet is free for others.
    for _ in range(3):
        with RawClient(server, "/leave").sock:
            pass
    assert server.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").endswith(b"plain")


def test_paused_websocket_learns_by_its_pings_that_its_client_is_gone() -> None:
    with serving(APP, "--ws-queue", "2", "--ws-ping-interval", "0.1", cwd=ROOT) as server:
        client = RawClient(server, "/push")
        client.send(HELLO * 1000)
        client.reset()
        server.wait_for("push has ended, closed: True")


def test_application_that_has_received_is_not_waited_for_long(server: Server) -> None:
    client = RawClient(server, "/push?ask")
    client.send(HELLO)
    server.wait_for("push is asked hello")
    client.send(HELLO + close(1000))
    assert (client.rest(), client.code) == ([], 1000)
    server.wait_for("push has ended, closed: True")


def test_last_messages_are_received_and_answered_before_the_close(server: Server) -> None:
    client = RawClient(server, "/slowly")
    client.send(b"".join(b"".join(message(str(number))) for number in range(10)) + close(4001))
    assert client.rest() == [str(number) for number in range(10)]
    assert client.code == 4001
    server.wait_for("slowly has ended")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ("(4000, '\\ud83d')", 4000, b"?"),
        ("(4000.0,)", 1000, b""),
        ("('4000',)", 1000, b""),
        ("(None, None)", 1000, b""),
        ("(4000, None)", 4000, b""),
        ("(4000, 12)", 4000, b"12"),
        ("(4000, b'\\xff')", 4000, b"\xef\xbf\xbd"),
        ("(4000, memoryview(b'why'))", 4000, b"why"),
        ("(10 ** 30,)", 1000, b""),
        ("([],)", 1000, b""),
    ],
)
def test_close_that_cannot_be_sent_is_mended(server: Server, arguments: str, code: int, reason: bytes) -> None:
    client = RawClient(server, "/close_with")
    client.send(b"".join(message(arguments)))
    frame = client.next_frame()
    assert frame is not None
    assert bytes(frame.data) == code.to_bytes(2, "big") + reason
    server.wait_for("closed: True")
    client.close()


def test_timeout_of_the_handlers_socket_closes_and_returns_none(server: Server) -> None:
    client = RawClient(server, "/timeout")
    assert client.receive() == "[null, true, true, 0.05, 1]"
    client.rest_after_close()
    assert client.code == 1000
    server.wait_for("timeout receives None; closed: True; descriptor: True")


def test_shutdown_of_the_handlers_socket_ends_the_connection(server: Server) -> None:
    client = RawClient(server, "/hang_up")
    assert (client.rest(), client.code) == ([], None)
    server.wait_for("hang_up is closed: True, with descriptor -1")


@pytest.mark.parametrize("path", ["/suicide", "/murder"])
def test_killed_application_closes_with_1000_and_without_a_traceback(server: Server, path: str) -> None:
    for _ in range(5):
        client = RawClient(server, path)
        assert client.rest_after_close() == ["bye"]
        assert client.code == 1000
    assert "not dead" not in server.log
    assert not re.search("Traceback|ERROR", server.log)


def test_application_that_returns_none_closes_with_1000(server: Server) -> None:
    for path, said in (("/none", ["used"]), ("/none?unused", [])):
        client = RawClient(server, path)
        assert client.rest_after_close() == said
        assert client.code == 1000
    assert not re.search("Traceback|ERROR", server.log)

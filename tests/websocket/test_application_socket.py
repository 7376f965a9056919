"""``environ["wsgi.websocket"]``: from the offered handshake to the end of the application's call."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode

from tests.serving import ROOT, Server, read_all, serving
from tests.websocket.sockets import frame, is_silent, open_socket, payloads, receive_until, upgrade

APP = "tests.websocket.apps.raw"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # A warning anywhere, as in an import, would be an exception.
    with serving(APP, cwd=ROOT, env={"PYTHONWARNINGS": "error"}) as server:
        yield server
        assert "Warning" not in server.log


def closing(server: Server, path: str, *messages: str) -> tuple[int, str]:
    """The close frame with which a path ends."""
    with open_socket(server, path) as client:
        for message in messages:
            client.send(message)
        with contextlib.suppress(ConnectionClosed):
            for _ in client:
                pass
        assert client.protocol.close_rcvd is not None
        return client.protocol.close_rcvd.code, client.protocol.close_rcvd.reason


# The handshake.


def test_socket_is_gevent_websockets_and_knows_its_handshake(server: Server) -> None:
    with open_socket(
        server, "/facts?x=1", origin=f"http://127.0.0.1:{server.port}", subprotocols=["v1", "v2"]
    ) as client:  # fmt: skip
        assert json.loads(client.recv()) == [
            True, "/facts", f"http://127.0.0.1:{server.port}", "v1, v2", "13", "x=1", False,
        ]  # fmt: skip
        assert client.subprotocol is None


def test_handshake_waits_for_the_first_use(server: Server) -> None:
    assert server.ask(b"GET /begin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
    with server.connect() as sock:
        early = frame(Opcode.TEXT, b"behind the handshake")
        sock.sendall(upgrade("/late") + early[:9])
        server.ask(b"GET /entered HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        sock.sendall(early[9:])
        assert is_silent(sock)
        server.ask(b"GET /decide HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = receive_until(sock, b"behind the handshake")
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 101 Switching Protocols"
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head.split(b"\r\n")
    assert rest == b"\x81\x14behind the handshake"


def test_application_refuses_with_its_own_response(server: Server) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_socket(server, "/refuse", origin="http://evil.example")
    response = refused.value.response
    assert (response.status_code, response.headers["X-Why"]) == (403, "because")
    assert response.body == b"/refuse is not for http://evil.example"
    assert "evil.example" not in server.log, "who is refused anyway is not held against its Origin"


def test_plain_answer_to_an_upgrade_ends_the_connection(server: Server) -> None:
    answer = server.ask(upgrade("/refuse"))
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (upgrade("/kinds", version="8"), b"426 Upgrade Required"),
        (upgrade("/kinds", key=b"short"), b"400 Bad Request"),
        (upgrade("/kinds", "Origin: http://evil.example"), b"403 Forbidden"),
    ],
)
def test_unacceptable_handshake_is_refused_at_its_first_use(server: Server, request_: bytes, status: bytes) -> None:
    answer = server.ask(request_)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert (b"\r\nSec-WebSocket-Version: 13\r\n" in answer) == status.startswith(b"426")
    assert answer.count(b"HTTP/1.1") == 1, "what the application answered afterwards is dropped"


def test_refused_handshake_raises_in_the_application(server: Server) -> None:
    server.ask(upgrade("/guarded", "Origin: http://wrong.example"))
    server.wait_for("the handshake was refused: this Origin may not open WebSockets here; closed: True")
    server.wait_for("refused a WebSocket at '/guarded' from origin 'http://wrong.example'")
    assert "Traceback" not in server.log.partition("wrong.example")[2]


@pytest.mark.parametrize(
    "request_",
    [
        upgrade("/", method="POST"),
        upgrade("/", "Content-Length: 1") + b"x",
        upgrade("/").replace(b"HTTP/1.1", b"HTTP/1.0"),
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
    ],
)
def test_request_that_cannot_become_a_websocket_is_a_plain_one(server: Server, request_: bytes) -> None:
    with server.connect() as sock:
        sock.sendall(request_)
        assert receive_until(sock, b"plain").startswith(b"HTTP/1.1 200 OK")


def test_upgrade_is_offered_whatever_the_letter_case(server: Server) -> None:
    answer = server.ask(upgrade("/").replace(b"websocket", b"WebSocket", 1))
    assert answer.endswith(b"\r\n\r\nwebsocket")


def test_subprotocol_is_accepted_only_when_offered(server: Server) -> None:
    with open_socket(server, "/chosen", subprotocols=["v1", "v2"]) as client:
        assert client.recv() == "ready"
        assert client.subprotocol == "v2"
    server.wait_for("subprotocol 'v9' was not offered by the client")


def test_socket_cannot_be_used_after_a_response_has_begun(server: Server) -> None:
    assert server.ask(upgrade("/late-response")).endswith(b"\r\n\r\nbegun")
    server.wait_for("after the response: Socket is dead")


def test_generator_serves_or_refuses(server: Server) -> None:
    with open_socket(server, "/lazy") as client:
        assert client.recv() == "lazy"
        with pytest.raises(ConnectionClosed):
            client.recv()
        assert client.close_code == 1000
    with pytest.raises(InvalidStatus) as refused:
        open_socket(server, "/lazy?refuse")
    assert refused.value.response.body == b"not now"


# Messages.


def test_messages_of_all_sizes_come_back_as_they_are(server: Server) -> None:
    with open_socket(server, "/echo") as client:
        for message in payloads([0, 1, 125, 126, 65535, 65536, 1 << 20]):
            client.send(message)
            assert client.recv() == message


def test_text_is_str_and_binary_is_bytearray(server: Server) -> None:
    with open_socket(server, "/kinds") as client:
        for message in ("caf\u00e9", b"caf\xc3\xa9", "", b""):
            client.send(message)
        assert [client.recv() for _ in range(4)] == ["str 4", "bytearray 5", "str 0", "bytearray 0"]


def test_fragments_arrive_as_one_message(server: Server) -> None:
    with open_socket(server, "/echo") as client:
        client.send(["frag", "", "ments"])
        assert client.recv() == "fragments"


def test_several_greenlets_send_at_once(server: Server) -> None:
    with open_socket(server, "/many") as client:
        received = [client.recv() for _ in range(1000)]
    for number in range(10):
        own = [message for message in received if str(message).startswith(f"{number}:")]
        assert own == [f"{number}:{count}:" + "x" * 5000 for count in range(100)]


def test_several_greenlets_receive_each_message_once(server: Server) -> None:
    with open_socket(server, "/share") as client:
        for number in range(20):
            client.send(str(number))
        received = [str(client.recv()) for _ in range(20)]
    assert sorted(int(message.split()[1]) for message in received) == list(range(20))
    server.wait_for("both have ended")


def test_interrupted_receive_loses_nothing(server: Server) -> None:
    with open_socket(server, "/patience") as client:
        assert client.recv() == "nothing yet"
        client.send("still here")
        assert client.recv() == "still here"


def test_lower_half_of_the_interface(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(upgrade("/frames"))
        _, _, data = receive_until(sock, b"framed").partition(b"\r\n\r\n")
    assert data == b"".join(
        [
            b"\x81\x04text", b"\x82\x06binary", b"\x81\x05caf\xc3\xa9", b"\x82\x05caf\xc3\xa9", b"\x82\x05array",
            b"\x82\x04view", b"\x81\x00", b"\x89\x04beat", b"\x81\x09TypeError", b"\x81\x0aValueError",
            b"\x81\x0aValueError", b"\x81\x12UnicodeDecodeError", b"\x88\x08\x10\xe1framed",
        ]
    )  # fmt: skip


def test_handler_knows_the_clients_of_the_process(server: Server) -> None:
    with open_socket(server, "/members") as first:
        assert first.recv() == "1"
        first.send("ada")
        assert [first.recv(), first.recv()] == ["ada of 1", "True True True True"]
        with open_socket(server, "/members") as second:
            assert second.recv() == "2"
            second.send("bob")
            assert [second.recv(), second.recv()] == ["bob of 2", "True True True True"]
            assert first.recv() == "ada of 2"
    server.wait_for("a member has left", times=2)
    with open_socket(server, "/members") as third:
        assert third.recv() == "1", "those who left are forgotten"


# The end.


def test_return_closes_with_1000(server: Server) -> None:
    assert closing(server, "/leave") == (1000, "")


def test_return_without_a_use_opens_and_closes(server: Server) -> None:
    assert closing(server, "/unused") == (1000, "")


def test_exception_closes_with_1011_and_a_traceback(server: Server) -> None:
    assert closing(server, "/fail", "go")[0] == 1011
    server.wait_for(
        r"\[ERROR\] the application failed in the WebSocket at '/fail'\nTraceback (?s:.*?)RuntimeError: the app"
    )


def test_exception_before_any_use_refuses_with_500(server: Server) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_socket(server, "/fail_early")
    assert refused.value.response.status_code == 500
    server.wait_for("RuntimeError: before any use")


def test_server_error_after_a_use_closes_with_1011(server: Server) -> None:
    with open_socket(server, "/swallowed") as client:
        assert client.recv() == "working"
        with pytest.raises(ConnectionClosed):
            client.recv()
        assert client.close_code == 1011


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (1000, "", (1000, "")),
        (3456, "see you", (3456, "see you")),
        (1001, "x" * 200, (1001, "x" * 123)),
        (1006, "not to be sent", (1000, "not to be sent")),
    ],
)
def test_application_closes_as_it_says(server: Server, code: int, reason: str, expected: tuple[int, str]) -> None:
    before = len(re.findall("after close: True", server.log))
    assert closing(server, "/close", json.dumps([code, reason])) == expected
    server.wait_for("after close: True", times=before + 1)


def test_clients_close_is_none_once_then_an_error(server: Server) -> None:
    with open_socket(server, "/ends") as client:
        client.send("first")
        client.send(b"second")
        client.close(4001, "enough")
        assert client.protocol.close_rcvd is not None
        assert client.protocol.close_rcvd.code == 4001
    server.wait_for(
        r"received \['first', bytearray\(b'second'\), None\], "
        "then WebSocketError: Connection is already closed; closed: True\nsending: Socket is dead"
    )


def test_lost_connection_is_none_once_then_an_error(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(upgrade("/ends") + frame(Opcode.TEXT, b"only"))
        receive_until(sock, b"\r\n\r\n")
    server.wait_for(r"received \['only', None\], then WebSocketError: Connection is already closed; closed: True")


def test_leaving_client_is_no_error_of_the_application(server: Server) -> None:
    seen = len(server.log)
    with open_socket(server, "/hang") as client:
        assert client.recv() == "begun"
    server.wait_for("hang has ended, closed: True")
    assert "ERROR" not in server.log[seen:]


# What the client may not do, and what it asks the server itself.


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(Opcode.TEXT, b"\xff\xfe"), 1007),
        (frame(Opcode.BINARY, b"x" * ((1 << 20) + 1)), 1009),
        (frame(Opcode.CONT, b"x"), 1002),
        (frame(Opcode.CLOSE, (1005).to_bytes(2, "big")), 1002),
    ],
    ids=["text that is no UTF-8", "too large", "continuation of nothing", "forbidden close code"],
)
def test_broken_rules_close_with_their_code(server: Server, data: bytes, code: int) -> None:
    with server.connect() as sock:
        sock.sendall(upgrade("/ends"))
        receive_until(sock, b"\r\n\r\n")
        sock.sendall(data)
        answer = read_all(sock)
    assert (answer[0], int.from_bytes(answer[2:4], "big")) == (0x88, code)


def test_ping_is_answered_while_the_application_is_busy(server: Server) -> None:
    with open_socket(server, "/hang") as client:
        client.ping("are you there").wait(10)
        assert client.recv() == "begun"


def test_early_frames_of_a_refused_handshake_are_no_request(server: Server) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    assert server.ask(upgrade("/refuse") + smuggled).count(b"HTTP/1.1 ") == 1

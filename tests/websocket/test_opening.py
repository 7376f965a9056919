"""What a connect consumer decides, and what happens to those who do not wait for it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.protocol.frames import TEXT, close, frame, message
from tests.serving import Server, serving
from tests.websocket.raw import ROUTED, RawClient, ask, refusal, wait_state
from tests.websocket.sockets import receive_until, upgrade


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(ROUTED, "--layer", "memory://") as started:
        yield started


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("deny", 403),
        ("close", 403),
        ("false", 403),
        ("fail", 500),
        ("exit", 500),
        ("bad-close", 500),
        ("bad-text", 500),
    ],
)
def test_refusal_is_a_status_and_never_a_frame(server: Server, how: str, status: int) -> None:
    before = ask(server)
    found, answer = refusal(server, upgrade(f"/connect/{how}") + b"".join(message("early")))
    assert found == status
    assert answer.endswith((b"the WebSocket was refused\n", b"the server failed to open the WebSocket\n"))
    state = wait_state(server, members=0)
    assert state["denied"] + state["failed_handshakes"] == before["denied"] + before["failed_handshakes"] + 1
    assert f"disconnected /connect/{how}" not in server.log


def test_refusal_may_bring_its_own_answer(server: Server) -> None:
    status, answer = refusal(server, upgrade("/connect/answer"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (status, body) == (302, b"log in")
    assert head.startswith(b"HTTP/1.1 302 Found\r\n")
    assert b"\r\nLocation: /login" in head
    assert head.lower().count(b"content-length") == 1
    status, answer = refusal(server, upgrade("/connect/status-alone"))
    assert status == 410
    assert answer.endswith(b"410 Gone: the WebSocket was refused\n")


def test_header_fields_travel_with_the_answer_whatever_it_is(server: Server) -> None:
    client = RawClient(server, "/connect/headers")
    assert client.head.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSet-Cookie: a=b\r\nset-cookie: c=d" in client.head
    client.close()
    status, answer = refusal(server, upgrade("/connect/headers-deny"))
    assert status == 403
    assert b"\r\nSet-Cookie: a=b\r\n" in answer


def test_header_of_two_lines_opens_nothing(server: Server) -> None:
    status, answer = refusal(server, upgrade("/connect/header-of-two-lines"))
    assert status == 500
    assert b"a=b" not in answer
    server.wait_for("ValueError: the value of header 'X-Seen' has a control character")


def test_consumer_that_exits_leaves_the_process_alive(server: Server) -> None:
    pids = server.pids
    refusal(server, upgrade("/connect/exit"))
    assert ask(server)["members"] == 0
    assert server.pids == pids


@pytest.mark.parametrize(("field", "status"), [("Sec-WebSocket-Version: 8", 400), ("Origin: http://evil.example", 403)])
def test_bad_handshake_is_refused_before_any_consumer(server: Server, field: str, status: int) -> None:
    assert refusal(server, upgrade("/connect/plain", field))[0] == status


def test_other_version_is_told_the_right_one(server: Server) -> None:
    status, answer = refusal(server, upgrade("/echo", version="8"))
    assert status == 426
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in answer
    assert b"\r\nUpgrade: websocket\r\n" in answer
    assert b"\r\nConnection: close, Upgrade\r\n" in answer


def test_returning_accepts(server: Server) -> None:
    client = RawClient(server, "/connect/plain")
    assert client.head.startswith(b"HTTP/1.1 101 ")
    client.send(b"".join(message("hello")) + close(4000))
    assert client.rest() == ["hello"]
    assert client.code == 4000
    server.wait_for("disconnected /connect/plain 4000 2")


def test_words_that_decide_nothing_leave_it_to_the_return(server: Server) -> None:
    client = RawClient(server, "/connect/no-decision")
    assert client.head.startswith(b"HTTP/1.1 101 ")
    client.close()


def test_own_data_accepts_and_follows_the_answer(server: Server) -> None:
    client = RawClient(server, "/connect/text", behind=b"".join(message("third")))
    assert [client.receive() for _ in range(3)] == ["first", "second", "third"]
    client.close()


def test_words_of_a_thread_keep_their_order(server: Server) -> None:
    client = RawClient(server, "/connect/thread")
    assert [client.receive(), client.receive()] == ["first", "second"]
    client.close()


def test_own_data_and_close_open_and_close(server: Server) -> None:
    client = RawClient(server, "/connect/text-close")
    assert client.receive() == "bye"
    answer = client.next_frame()
    assert answer is not None
    assert bytes(answer.data) == (4001).to_bytes(2, "big")
    client.send(close(4001))
    assert client.rest() == []
    server.wait_for("disconnected /connect/text-close 4001 1")


def test_failure_after_acceptance_closes_with_1011_and_disconnects(server: Server) -> None:
    client = RawClient(server, "/connect/accept-fail")
    assert client.rest_after_close() == ["open"]
    assert client.code == 1011
    server.wait_for("disconnected /connect/accept-fail 1011 1")


def test_subprotocol_is_the_one_chosen(server: Server) -> None:
    client = RawClient(server, "/connect/protocol", "Sec-WebSocket-Protocol: v1.json, v2.json")
    assert b"\r\nSec-WebSocket-Protocol: v2.json" in client.head
    client.close()
    client = RawClient(server, "/connect/protocol", "Sec-WebSocket-Protocol: V2.json")
    assert b"Sec-WebSocket-Protocol" not in client.head
    client.close()
    server.wait_for("subprotocol 'v2.json' was not offered")


def test_others_messages_wait_for_the_decision(server: Server) -> None:
    client = RawClient(server, "/connect/others")
    assert client.head.startswith(b"HTTP/1.1 101 ")
    assert client.rest_after_close() == ["other"]
    assert client.code == 4002


def test_client_that_leaves_during_connect_is_disconnected_once(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(upgrade("/connect/hang-up"))
        server.wait_for("connecting hang-up\n")
    ask(server, "/open/hang-up")
    server.wait_for("disconnected /connect/hang-up 1006 1")
    wait_state(server, members=0)
    assert server.log.count("disconnected /connect/hang-up 1006") == 1


def test_client_that_leaves_before_it_is_denied_is_not_disconnected(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(upgrade("/connect/hang-up-deny"))
        server.wait_for("connecting hang-up-deny\n")
    ask(server, "/open/hang-up-deny")
    wait_state(server, members=0)
    assert "disconnected /connect/hang-up-deny" not in server.log


def test_messages_wait_for_a_consumer_that_accepted_by_hand(server: Server) -> None:
    client = RawClient(server, "/connect/long")
    client.send(b"".join(message("one") + message("two")))
    ask(server, "/open/long")
    assert [client.receive(), client.receive()] == ["one", "two"]
    client.reset()
    server.wait_for("disconnected /connect/long 1006 3")


def test_much_early_data_is_kept_and_bounded(server: Server) -> None:
    sent = b"".join(frame(TEXT, b"x" * 1000) for _ in range(300))
    with server.connect() as sock:
        sock.sendall(upgrade("/connect/plain") + sent + close(1000))
        data = receive_until(sock, b"\x88\x02\x03\xe8")
    assert data.count(b"x" * 1000) == 300


def test_path_is_decoded_and_may_be_anything(server: Server) -> None:
    client = RawClient(server, "/caf%C3%A9%00%ff?x=%20")
    client.send(b"".join(message("hello")))
    assert client.receive() == "hello"
    client.close()


def test_headers_of_the_handshake_are_known_to_later_messages(server: Server) -> None:
    fields = ["Cookie: session=abc", "X-Tenant: one", "X-Tenant: two"]
    first, second = RawClient(server, "/act", *fields), RawClient(server, "/act", "Cookie: session=def")
    for client in (first, second):
        client.send(b"".join(message("headers")))
    found = [json.loads(client.receive()) for client in (first, second)]
    theirs = [[pair for pair in pairs if pair[0] in ("host", "cookie", "x-tenant")] for pairs in found]
    host = ["host", "example.com"]
    assert theirs[0] == [host, ["cookie", "session=abc"], ["x-tenant", "one"], ["x-tenant", "two"]]
    assert theirs[1] == [host, ["cookie", "session=def"]]
    for client in (first, second):
        client.close()


# Who accepts.


def test_consumer_that_returns_without_accepting_refuses_where_it_has_to_say_so() -> None:
    with serving(ROUTED, "--layer", "memory://", "--accept", "explicit") as server:
        for path in ("/connect/nothing", "/connect/no-decision", "/echo"):
            assert refusal(server, upgrade(path))[0] == 403
            server.wait_for(
                rf"refused a WebSocket at '{path}' from 127\.0\.0\.1:\d+: "
                r"no connect consumer accepted it \(--accept explicit\)"
            )
        for path, said in (("/connect/text", "first"), ("/connect/protocol", None), ("/connect/accept-fail", "open")):
            client = RawClient(server, path)
            assert client.head.startswith(b"HTTP/1.1 101 "), path
            if said:
                assert client.receive() == said
            client.close()
        # It is accepted while the consumer runs, and not before it says so.
        client = RawClient(server, "/connect/long")
        client.send(frame(TEXT, b"early"))
        assert b"200" in server.ask(b"GET /open/long HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.receive() == "early"
        client.close()
        assert refusal(server, upgrade("/connect/fail"))[0] == 500
        state = wait_state(server, members=0)
        assert (state["denied"], state["failed_handshakes"], state["undecided"]) == (3, 1, 0)
        assert "disconnected /connect/nothing" not in server.log


# The log of refusals.


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("deny", "its connect consumer refused it"),
        ("close", "its connect consumer refused it"),
        ("deny-because", r"not \\nyou\\x1b"),
    ],
)
def test_refusal_is_one_line_with_path_client_and_reason(server: Server, how: str, reason: str) -> None:
    with server.connect() as sock:
        address = "{}:{}".format(*sock.getsockname())
        sock.sendall(upgrade(f"/connect/{how}"))
        assert receive_until(sock, b"refused\n").startswith(b"HTTP/1.1 403 ")
    server.wait_for(rf"\[INFO\] refused a WebSocket at '/connect/{how}' from {address}: {reason}\n")


def test_refusals_by_the_dozen_are_not_a_line_each() -> None:
    with serving(ROUTED, "--layer", "memory://") as server:
        for _ in range(12):
            refusal(server, upgrade("/connect/deny"))
            refusal(server, upgrade("/echo", "Origin: http://evil.example"))
        assert server.log.count("refused a WebSocket at '/connect/deny' from") == 10
        assert server.log.count("refused a WebSocket at '/echo' from") == 10

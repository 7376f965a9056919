"""The application's sockets under slow and silent clients, and in a server that stops."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode

from tests.redis_server import until
from tests.serving import DEADLINE, ROOT, Server, read_all, serving
from tests.websocket.raw import RawClient
from tests.websocket.sockets import frame, open_socket, receive_until, resident_bytes, upgrade

APP = "tests.websocket.apps.raw"
MIB = 1 << 20


def ask(server: Server, path: str) -> None:
    assert server.ask(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()).startswith(b"HTTP/1.1 2")


def open_by_hand(server: Server, path: str, until: bytes = b"\r\n\r\n") -> socket.socket:
    sock = server.connect()
    sock.sendall(upgrade(path))
    receive_until(sock, until)
    return sock


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(APP, "--ws-queue", "4", cwd=ROOT) as server:
        yield server


# Slow applications, and slow clients.


def test_client_that_pings_and_does_not_read_the_pongs_costs_a_bounded_amount(server: Server) -> None:
    pings = frame(Opcode.PING, b"x" * 125) * 4000
    with open_by_hand(server, "/echo") as sock:
        before = resident_bytes(server.pids[0])
        for _ in range(80):
            sock.sendall(pings)
        assert resident_bytes(server.pids[0]) - before < 8 * MIB
        # The latest pong is owed all the same, behind those that the kernel holds.
        sock.sendall(frame(Opcode.PING, b"last"))
        receive_until(sock, b"\x8a\x04last")


def test_application_that_does_not_receive_holds_its_client_back() -> None:
    # Without pings, which would come between the messages.
    with serving(APP, "--ws-queue", "4", "--ws-ping-interval", "0", cwd=ROOT) as server:
        ask(server, "/begin")
        message = frame(Opcode.BINARY, b"x" * 65536)
        with open_by_hand(server, "/later", until=b"begun") as sock:
            before = resident_bytes(server.pids[0])
            # A second without room means that nobody reads.
            sock.settimeout(1)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    sent += sock.send(message[sent % len(message) :])
                    assert sent < 64 * MIB, "the server reads all that comes"
            assert resident_bytes(server.pids[0]) - before < 8 * MIB
            ask(server, "/decide")
            # Whole messages come back; the last one was cut off by the time-out.
            sock.settimeout(DEADLINE)
            expected = sent // len(message)
            reader = sock.makefile("rb")
            for _ in range(expected):
                head = reader.read(10)
                assert head == b"\x82\x7f" + (65536).to_bytes(8, "big")
                assert len(reader.read(65536)) == 65536


def test_unread_client_is_not_taken_for_a_dead_one() -> None:
    with serving(
        APP, "--ws-queue", "1", "--ws-ping-interval", "0.1", "--ws-ping-timeout", "0.1", cwd=ROOT
    ) as server:  # fmt: skip
        ask(server, "/begin")
        with open_by_hand(server, "/later", until=b"begun") as sock, open_by_hand(server, "/ends") as silent:
            sock.sendall(b"".join(frame(Opcode.TEXT, b"word") for _ in range(8)))
            # Another client's death tells that time enough has passed.
            read_all(silent)
            ask(server, "/decide")
            receive_until(sock, b"\x81\x04word")


def test_slow_client_holds_up_only_its_own_sender(server: Server) -> None:
    with open_socket(server, "/pour", max_queue=1) as client:
        before = resident_bytes(server.pids[0])
        client.send("64")
        # It does not read, and others are served meanwhile.
        for _ in range(20):
            with open_socket(server, "/echo") as other:
                other.send("hello")
                assert other.recv() == "hello"
        assert resident_bytes(server.pids[0]) - before < 8 * MIB
        for number in range(64):
            assert client.recv() == bytes([number]) * MIB
    server.wait_for("poured")


def test_pings_are_answered_while_the_application_sends_without_a_pause(server: Server) -> None:
    with open_by_hand(server, "/pour") as sock:
        sock.sendall(frame(Opcode.TEXT, b"64"))
        received = sock.recv(MIB)
        for number in range(20):
            sock.sendall(frame(Opcode.PING, b"ping-%02d" % number))
        # No message has such a byte.
        while b"\x8a\x07ping-19" not in received:
            received += sock.recv(MIB)
            assert len(received) < 16 * MIB, "the last of them waits behind everything"


@pytest.mark.parametrize("words", [[], ["one", "two"]])
def test_pongs_that_wait_leave_before_what_is_sent_after_them_and_the_close_after_all(
    server: Server, words: list[str]
) -> None:
    client = RawClient(server, "/behind", receive_buffer=4096)
    # From here on nothing leaves until it is read.
    server.wait_for("behind is full", times=server.log.count("behind is closed") + 1)
    client.send(b"".join(frame(Opcode.PING, b"ping-%d" % number) for number in range(5)))
    client.send(frame(Opcode.TEXT, json.dumps(words).encode()))
    server.wait_for("behind is closed", times=server.log.count("behind is full"))
    found = []
    while (answer := client.next_frame()) is not None:
        found.append((answer.opcode, bytes(answer.data)))
        if answer.opcode is Opcode.CLOSE:
            client.send(frame(Opcode.CLOSE, bytes(answer.data)))
    client.close()
    data = (Opcode.BINARY, b"x" * 1000)
    assert found == [
        *[data] * found.count(data),
        (Opcode.PONG, b"ping-0"),
        # One pong answers all pings before it.
        (Opcode.PONG, b"ping-4"),
        *[(Opcode.TEXT, word.encode()) for word in words],
        (Opcode.CLOSE, (4000).to_bytes(2, "big")),
    ]


def test_client_that_takes_nothing_is_cut_off_after_the_send_timeout() -> None:
    with serving(APP, "--send-timeout", "0.2", cwd=ROOT) as server, open_by_hand(server, "/pour") as sock:
        sock.sendall(frame(Opcode.TEXT, b"64"))
        server.wait_for(r"\[WARNING\] closing 127.0.0.1:\d+: it took nothing for 0.2 s \(--send-timeout\)")
        assert "poured" not in server.log
        assert "Traceback" not in server.log


def test_flood_of_senders_closes_a_slow_client(server: Server) -> None:
    with open_by_hand(server, "/flood") as sock:
        sock.sendall(frame(Opcode.TEXT, b"go"))
        server.wait_for(r"\[WARNING\] closing 127.0.0.1:\d+ with 1013: over 1048576 bytes are unsent \(")
        assert read_all(sock).endswith(b"\x88\x1d" + (1013).to_bytes(2, "big") + b"the client reads too slowly")
    server.wait_for("flood: some failed")


# Silent clients.


@pytest.mark.parametrize("path", ["/ends", "/hang"])
def test_silent_client_is_found_while_the_application_waits(path: str) -> None:
    with serving(APP, "--ws-ping-interval", "0.2", "--ws-ping-timeout", "0.2", cwd=ROOT) as server:
        with open_by_hand(server, path) as sock:
            assert b"\x89" in read_all(sock), "it was asked for a sign of life"
        server.wait_for("no sign of life since the last ping")
        server.wait_for("received .*None.*, then" if path == "/ends" else "hang has ended, closed: True")


def test_answering_client_stays() -> None:
    # The client answers from a thread of this process, which a busy machine may keep waiting.
    pings = ("--ws-ping-interval", "0.1", "--ws-ping-timeout", "1")
    with serving(APP, *pings, cwd=ROOT) as server, open_socket(server, "/echo") as client:
        for _ in range(2):
            # Each time a silent one is found, the answering one was pinged, too.
            with open_by_hand(server, "/ends") as silent:
                read_all(silent)
        client.send("still here")
        assert client.recv() == "still here"


def test_latency_is_known_after_the_first_pong() -> None:
    with serving(APP, "--ws-ping-interval", "0.1", cwd=ROOT) as server, open_socket(server, "/latency") as client:
        assert json.loads(client.recv()) is None

        def latency() -> float | None:
            client.send("now?")
            found: float | None = json.loads(client.recv())
            return found

        until(lambda: latency() is not None, "a pong")
        assert 0 < (latency() or 0.0) < DEADLINE


# A stopping server.


def test_stop_closes_with_1001_and_lets_the_application_finish() -> None:
    with serving(APP, "--graceful-timeout", "20", cwd=ROOT) as server:
        with open_socket(server, "/ends") as waiting, open_socket(server, "/hang") as busy:
            assert busy.recv() == "begun"
            server.signal(signal.SIGTERM)
            for client in (waiting, busy):
                with pytest.raises(ConnectionClosed):
                    client.recv()
                assert client.close_code == 1001
        assert server.wait() == 0
        assert "received [None], then WebSocketError" in server.log
        assert "hang has ended, closed: True" in server.log
        assert "cut off" not in server.log


def test_stopping_server_opens_no_socket() -> None:
    with serving(APP, cwd=ROOT) as server:
        ask(server, "/begin")
        with server.connect() as sock, open_socket(server, "/ends") as told:
            sock.sendall(upgrade("/late"))
            ask(server, "/entered")
            with server.connect() as decider:
                # It is on its way already when the server stops.
                decider.sendall(b"GET /decide HTTP/1.1\r\nHost: a\r\n")
                server.signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosed):
                    told.recv()
                decider.sendall(b"\r\n")
                assert read_all(sock).startswith(b"HTTP/1.1 503 ")
        assert server.wait() == 0


def test_nothing_is_left_of_closed_sockets(server: Server) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{server.pids[0]}/fd"))

    ask(server, "/begin")
    before = descriptors()
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(open_socket(server, "/ends")) for _ in range(20)]
            for client in clients:
                client.send("x")
    server.wait_for("received .*, then WebSocketError", times=60)
    with open_socket(server, "/members") as last:
        assert last.recv() == "1"
        assert descriptors() <= before + 1


# The limits of all WebSockets.


def test_inflated_message_over_the_limit_closes_with_1009() -> None:
    with serving(APP, "--ws-max-size", "100000", cwd=ROOT) as server:
        for size, code in ((100_000, None), (100_001, 1009)):
            with open_socket(server, "/echo", compression="deflate") as client:
                assert client.response is not None
                assert "permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"]
                client.send(b"x" * size)
                if code is None:
                    assert client.recv() == b"x" * size
                else:
                    with pytest.raises(ConnectionClosed):
                        client.recv()
                    assert client.close_code == code


def test_many_large_messages_in_few_bytes_wait_for_the_application() -> None:
    def peak(pid: int) -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    with serving(APP, cwd=ROOT) as server, open_socket(server, "/later", compression="deflate") as client:
        assert client.recv() == "begun"
        before = peak(server.pids[0])
        for _ in range(100):
            client.send(b"\0" * MIB)
        ask(server, "/decide")
        for _ in range(100):
            assert client.recv() == b"\0" * MIB
        assert peak(server.pids[0]) - before < 32 * MIB


def test_client_that_sends_too_fast_is_closed_with_1008() -> None:
    with serving(APP, "--ws-rate", "20", cwd=ROOT) as server, open_by_hand(server, "/ends") as sock:
        sock.sendall(b"".join(frame(Opcode.TEXT, b"%d" % number) for number in range(30)))
        answer = read_all(sock)
        assert (answer[0], int.from_bytes(answer[2:4], "big")) == (0x88, 1008)
        server.wait_for(r"closing .* with 1008: over 20 messages a second \(--ws-rate\)")
        server.wait_for(r"received \['0', .*'19', None\], then WebSocketError")


def test_clients_of_one_address_are_limited_whoever_serves_them() -> None:
    arguments = ("tests.websocket.apps.echo", "--layer", "memory://", "--ws-limit-per-ip", "2")
    with serving(*arguments, cwd=ROOT) as server, open_socket(server, "/socket/") as first:
        with open_socket(server, "/routed/") as second:
            for path in ("/socket/", "/routed/"):
                answer = server.ask(upgrade(path))
                assert answer.startswith(b"HTTP/1.1 429 Too Many Requests")
            second.send("both")
            assert second.recv() == "both"
        first.send("one")
        assert first.recv() == "one"


def test_reload_and_access_log_know_the_application_sockets(tmp_path: Path) -> None:
    access = tmp_path / "access.log"
    with serving(APP, "--access-logfile", str(access), cwd=ROOT) as server:
        with open_socket(server, "/hang") as client:
            assert client.recv() == "begun"
            server.signal(signal.SIGHUP)
            with pytest.raises(ConnectionClosed):
                client.recv()
            assert client.close_code == 1012
        server.ask(upgrade("/refuse"))
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    statuses = [line.split('"')[2].split()[0] for line in access.read_text().splitlines()]
    assert statuses == ["101", "403"]

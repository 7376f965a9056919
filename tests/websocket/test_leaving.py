"""How WebSockets end: by their client, by the application, by a stop or a reload; disconnect consumers run once."""

from __future__ import annotations

import selectors
import signal
import time

import pytest

from tests.protocol.frames import PING, TEXT, close, frame, message
from tests.serving import DEADLINE, Server, serving
from tests.websocket.raw import ROUTED, RawClient, ask, wait_state

MEMORY = ("--layer", "memory://")


@pytest.fixture(scope="module")
def server():  # type: ignore[no-untyped-def]
    with serving(ROUTED, *MEMORY) as started:
        yield started


def disconnects(server: Server, path: str) -> list[str]:
    """The disconnect consumer's words for a path."""
    return [line for line in server.log.splitlines() if line.startswith(f"disconnected {path} ")]


def test_close_waits_for_the_messages_before_it(server: Server) -> None:
    client = RawClient(server, "/wait/close")
    client.send(b"".join(message("one") + message("two")) + close(3999, b"bye"))
    server.wait_for("waiting one\n")
    ask(server, "/open/wait-close")
    assert client.rest() == ["one", "two"]
    assert client.code == 3999
    server.wait_for("disconnected /wait/close 3999 3")
    wait_state(server, members=0)
    assert len(disconnects(server, "/wait/close")) == 1


def test_disconnect_does_not_wait_for_the_end_of_the_connection(server: Server) -> None:
    client = RawClient(server, "/echo/stays")
    client.send(close(4007))
    answer = client.next_frame()
    assert answer is not None
    # The client keeps its end open; our own patience with that is ten seconds.
    server.wait_for("disconnected /echo/stays 4007 1", timeout=5)
    assert len(disconnects(server, "/echo/stays")) == 1
    client.close()
    wait_state(server, members=0)
    assert len(disconnects(server, "/echo/stays")) == 1


def test_fault_waits_for_the_messages_before_it(server: Server) -> None:
    client = RawClient(server, "/wait/fault")
    client.send(b"".join(message("one")) + frame(3))
    ask(server, "/open/wait-fault")
    assert client.rest() == ["one"]
    assert client.code == 1002
    server.wait_for("disconnected /wait/fault 1002 2")


def test_client_that_ends_its_half_after_its_close_still_gets_answers(server: Server) -> None:
    import socket

    client = RawClient(server, "/wait/half")
    client.send(b"".join(message("one")) + close(1000))
    client.sock.shutdown(socket.SHUT_WR)
    server.wait_for("waiting one\n")
    ask(server, "/open/wait-half")
    assert client.rest() == ["one"]
    assert client.code == 1000
    server.wait_for("disconnected /wait/half 1000 2")


@pytest.mark.parametrize("way", ["close", "reset"])
def test_client_that_leaves_without_a_word_is_1006(server: Server, way: str) -> None:
    client = RawClient(server, f"/gone/{way}")
    getattr(client, way)()
    server.wait_for(f"disconnected /gone/{way} 1006 1")
    wait_state(server, members=0)
    assert len(disconnects(server, f"/gone/{way}")) == 1


def test_messages_before_a_reset_are_consumed_before_the_disconnect(server: Server) -> None:
    client = RawClient(server, "/wait/reset")
    client.send(b"".join(message("one") + message("two")))
    server.wait_for("waiting one\n")
    client.reset()
    ask(server, "/open/wait-reset")
    server.wait_for("disconnected /wait/reset 1006 3")
    wait_state(server, members=0)


def test_application_closes_with_its_code_and_the_clients_answer_counts(server: Server) -> None:
    client = RawClient(server, "/act")
    client.send(b"".join(message("close 4321")))
    found = client.next_frame()
    assert found is not None
    assert bytes(found.data) == (4321).to_bytes(2, "big")
    # What still comes is not for the consumers.
    client.send(b"".join(message("close 4999")) + frame(PING) + close(4321))
    assert client.rest() == []
    server.wait_for("disconnected /act 4321 2")


def test_both_may_close_at_once(server: Server) -> None:
    client = RawClient(server, "/act")
    client.send(b"".join(message("close 4005")) + close(4006))
    client.rest()
    assert client.code in (4005, 4006)
    server.wait_for("disconnected /act 4006 2")


def test_wrong_close_code_of_the_application_is_an_error_in_the_log(server: Server) -> None:
    client = RawClient(server, "/act")
    client.send(b"".join(message("close 1006") + message("latency")))
    assert client.receive() == "null"
    client.close()
    server.wait_for("a reply's close is 1006; it is True, or a code such as 1000 or 3000 to 4999")


@pytest.mark.parametrize("word", ["exit", "timeout"])
def test_consumer_that_raises_no_exception_leaves_the_connection_usable(server: Server, word: str) -> None:
    client = RawClient(server, "/act")
    client.send(b"".join(message(word) + message("latency")))
    assert client.receive() == "null"
    client.send(close(4000 + len(word)))
    client.rest()
    server.wait_for(f"disconnected /act {4000 + len(word)} 3")


def open_many(server: Server, count: int) -> list[RawClient]:
    return [RawClient(server, f"/many/{number}") for number in range(count)]


def closes(clients: list[RawClient]) -> list[tuple[float, int, int]]:
    """When each client got its close frame, which client, and the code; each answers."""
    found = []
    with selectors.DefaultSelector() as selector:
        for number, client in enumerate(clients):
            selector.register(client.sock, selectors.EVENT_READ, number)
        deadline = time.monotonic() + DEADLINE
        while len(found) < len(clients):
            assert time.monotonic() < deadline
            for key, _ in selector.select(1.0):
                client = clients[key.data]
                answer = client.next_frame()
                assert answer is not None
                if answer.opcode == PING:
                    continue
                found.append((time.monotonic(), key.data, int.from_bytes(answer.data[:2], "big")))
                selector.unregister(client.sock)
                client.send(close(found[-1][2]))
                client.close()
    return found


def test_stop_closes_with_1001_spread_over_the_drain_time_in_random_order() -> None:
    count, seconds = 60, 3.0
    with serving(ROUTED, *MEMORY, "--drain-timeout", str(seconds)) as server:
        clients = open_many(server, count)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        found = closes(clients)
        assert {code for _, _, code in found} == {1001}
        moments = [moment - began for moment, _, _ in found]
        assert moments[0] < 1.0
        assert seconds * 0.8 < moments[-1] < seconds + 2
        # Evenly: half of them in half the time, give or take what a busy machine does.
        assert seconds * 0.25 < moments[count // 2] < seconds * 0.75 + 1
        order = [number for _, number, _ in found]
        assert order != sorted(order)
        assert order != sorted(order, reverse=True)
        assert server.wait() == 0
        lines = sorted(line for line in server.log.splitlines() if line.startswith("disconnected /many/"))
        assert lines == sorted(f"disconnected /many/{number} 1001 1" for number in range(count))


def test_few_clients_do_not_make_a_stop_long() -> None:
    with serving(ROUTED, *MEMORY) as server:
        clients = open_many(server, 3)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        closes(clients)
        assert server.wait() == 0
        assert time.monotonic() - began < 5


def test_reload_closes_with_1012_and_the_new_process_takes_the_clients_back() -> None:
    with serving(ROUTED, *MEMORY, "--drain-timeout", "1") as server:
        clients = open_many(server, 10)
        server.signal(signal.SIGHUP)
        found = closes(clients)
        assert {code for _, _, code in found} == {1012}
        server.wait_for(r"server process \d+ is ready", times=2)
        again = RawClient(server)
        again.send(b"".join(message("back")))
        assert again.receive() == "back"
        again.close()
        server.wait_for("disconnected /many/", times=10)
        assert server.log.count("disconnected /many/") == 10


def test_client_that_closes_but_does_not_leave_is_cut_off_after_the_close_timeout() -> None:
    with serving(ROUTED, *MEMORY, "--ws-close-timeout", "0.3") as server:
        client = RawClient(server, "/echo/lingers")
        client.send(close(4007))
        assert client.next_frame() is not None
        server.wait_for("disconnected /echo/lingers 4007 1")
        # Our sending half has ended; the client's own never does.
        assert client.next_frame() is None
        wait_state(server, closing=0, members=0)
        assert is_refused(client)
        client.close()


def is_refused(client: RawClient) -> bool:
    """Whether the server's end is gone, so that what the client sends comes back as a reset."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            client.send(frame(PING))
        except OSError:
            return True
    return False


def test_consumer_that_outlasts_the_close_timeout_does_not_keep_the_client_waiting() -> None:
    with serving(ROUTED, *MEMORY, "--ws-close-timeout", "0.3") as server:
        client = RawClient(server, "/wait/long")
        client.send(b"".join(message("one")) + close(4008))
        server.wait_for("waiting one\n")
        assert client.rest() == []
        assert client.code == 4008
        ask(server, "/open/wait-long")
        server.wait_for("disconnected /wait/long 4008 2")


def test_client_that_does_not_answer_the_close_is_cut_off_with_1006() -> None:
    with serving(ROUTED, *MEMORY, "--drain-timeout", "0", "--ws-close-timeout", "0.5") as server:
        client = RawClient(server)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        found = client.next_frame()
        assert found is not None
        assert bytes(found.data[:2]) == (1001).to_bytes(2, "big")
        client.send(frame(TEXT, b"I do not mind"))
        assert client.rest() == []
        assert 0.5 <= time.monotonic() - began < 8
        assert server.wait() == 0
        server.wait_for("disconnected /echo 1006 1")

"""What one client may do, and what slow, silent and hasty ones meet. Each end has its code, log line and counter."""

from __future__ import annotations

import json
import select
import socket
import threading

import pytest
from websockets.extensions.permessage_deflate import PerMessageDeflate

from tests.protocol.frames import CONT, PING, PONG, TEXT, close, frame, message
from tests.serving import serving
from tests.websocket.raw import ROUTED, RawClient, ask, refusal, wait_state
from tests.websocket.sockets import resident_bytes, upgrade

MEMORY = ("--layer", "memory://")


def test_messages_past_the_limits_of_size_frames_and_rate_close() -> None:
    with serving(ROUTED, *MEMORY, "--ws-max-size", "1000", "--ws-rate", "20") as server:
        client = RawClient(server)
        client.send(b"".join(message("x" * 1001)))
        assert (client.rest(), client.code) == ([], 1009)
        server.wait_for(r"closing \S+ with 1009: a message has over 1000 bytes")
        client = RawClient(server)
        client.send(frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * 1024)
        assert (client.rest(), client.code) == ([], 1008)
        server.wait_for("with 1008: a message has over 1024 frames")
        client = RawClient(server)
        client.send(b"".join(message("m") * 30))
        assert client.rest() == []
        assert client.code == 1008
        server.wait_for("with 1008: over 20 messages a second")
        client = RawClient(server)
        client.send(b"".join(message("m") * 20))
        assert [client.receive() for _ in range(20)] == ["m"] * 20
        client.close()
        state = wait_state(server, members=0)
        assert (state["too_big"], state["too_many_frames"], state["too_fast"]) == (1, 1, 1)
        server.wait_for("disconnected /echo 1009 1")
        assert server.log.count("disconnected /echo 1008") == 2


def test_client_that_sent_less_than_its_rate_may_send_the_rest_at_once() -> None:
    with serving(ROUTED, *MEMORY, "--ws-rate", "1000") as server:
        client = RawClient(server)
        client.send(b"".join(message("m")))
        assert client.receive() == "m"
        # As when a network stands still for as long, or the server is busy with others.
        select.select([], [], [], 0.3)
        client.send(b"".join(message("m") * 1250))
        assert [client.receive() for _ in range(1250)] == ["m"] * 1250
        client.send(b"".join(message("m") * 3000))
        client.rest()
        assert client.code == 1008


def test_address_with_too_many_websockets_gets_429_until_one_leaves() -> None:
    with serving(ROUTED, *MEMORY, "--ws-limit-per-ip", "3") as server:
        clients = [RawClient(server) for _ in range(3)]
        status, _ = refusal(server, upgrade("/echo"))
        assert status == 429
        server.wait_for("3 WebSockets are open from this address")
        clients.pop().reset()
        wait_state(server, members=2, too_many_per_address=1)
        clients.append(RawClient(server))
        for client in clients:
            client.close()
        wait_state(server, members=0)
        for _ in range(4):
            # Refused ones do not count.
            assert refusal(server, upgrade("/connect/deny"))[0] == 403


def test_handshakes_in_progress_are_bounded() -> None:
    with serving(ROUTED, *MEMORY, "--ws-handshakes", "2") as server:
        waiting = [server.connect() for _ in range(2)]
        for number, sock in enumerate(waiting):
            sock.sendall(upgrade("/connect/hang-up"))
            server.wait_for("connecting hang-up\n", times=number + 1)
        assert refusal(server, upgrade("/echo"))[0] == 503
        server.wait_for("2 WebSocket handshakes are undecided")
        waiting.pop().close()
        wait_state(server, too_many_handshakes=1)
        # The one that left gave its place back; the consumer that still runs for it is not in anybody's way.
        client = RawClient(server)
        client.close()
        ask(server, "/open/hang-up")
        waiting.pop().close()


def test_reading_stops_while_messages_wait_and_goes_on_when_they_do_not() -> None:
    # A busy machine may let this client read slower than its answers come, which is not what this is about.
    with serving(ROUTED, *MEMORY, "--ws-queue", "4", "--ws-send-buffer", "1000000000") as server:
        client = RawClient(server, "/wait")
        payload = "x" * 60_000
        sent = 0
        client.sock.setblocking(False)
        stream = b"".join(message(payload))
        rest = memoryview(stream)
        while True:
            try:
                taken = client.sock.send(rest)
            except BlockingIOError:
                _, writable = socket_ready(client.sock, 0.5)
                if not writable:
                    break
                continue
            rest = rest[taken:]
            if not rest:
                sent += 1
                rest = memoryview(stream)
                assert sent < 5000, "the server reads without bound"
        client.sock.settimeout(20)
        writer = threading.Thread(target=client.sock.sendall, args=(rest,))
        ask(server, "/open/wait")
        writer.start()
        assert [client.receive() == payload for _ in range(sent + 1)] == [True] * (sent + 1)
        writer.join()
        client.close()


def socket_ready(sock: socket.socket, seconds: float) -> tuple[bool, bool]:
    import select

    readable, writable, _ = select.select([sock], [sock], [], seconds)
    return bool(readable), bool(writable) and not readable


def test_slow_consumer_is_no_silence_of_its_client() -> None:
    with serving(
        ROUTED, *MEMORY, "--ws-queue", "1", "--ws-ping-interval", "0.1", "--ws-ping-timeout", "0.1"
    ) as server:  # fmt: skip
        client = RawClient(server, "/wait")
        client.send(b"".join(message("m") * 5))
        # Pings go unanswered, and would be unread if they were not.
        for _ in range(5):
            answer = client.next_frame()
            assert answer is not None
            assert answer.opcode == PING
        ask(server, "/open/wait")
        assert [client.receive() for _ in range(5)] == ["m"] * 5
        client.close()


def test_silence_after_a_ping_ends_a_websocket_and_any_byte_is_life() -> None:
    with serving(ROUTED, *MEMORY, "--ws-ping-interval", "0.2", "--ws-ping-timeout", "0.3") as server:
        silent = RawClient(server)
        lively = RawClient(server, "/act")
        pings = 0
        while (found := silent.next_frame()) is not None:
            assert found.opcode == PING
            pings += 1
            found = lively.next_frame()
            assert found is not None
            lively.send(frame(PONG, bytes(found.data)))
        silent.close()
        assert pings >= 1
        server.wait_for("no sign of life since the last ping")
        server.wait_for("disconnected /echo 1006 1")
        lively.send(b"".join(message("latency")))
        latency = json.loads(lively.receive())
        assert 0 < latency < 5
        lively.close()
        assert wait_state(server, members=0)["silent"] == 1


def test_messages_that_come_together_reach_each_member_in_order_up_to_its_close() -> None:
    small = [{"text": f"{number}"} for number in range(20)]
    mixed = [
        {"text": "a"},
        {"text": "b"},
        {"text": "c" * 3000},
        {"txt": "no reply"},
        {"text": "d", "close": 4001},
        {"text": "e"},
    ]
    with serving(ROUTED, *MEMORY) as server:
        teller = RawClient(server, "/act")
        members = [RawClient(server, "/group") for _ in range(3)]
        deflating = RawClient(
            server,
            "/group",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
            extensions=[PerMessageDeflate(True, True, 15, 15)],
        )
        members.append(deflating)
        teller.send(b"".join(message(f"together {json.dumps(small)}")))
        teller.send(b"".join(message(f"together {json.dumps(small)}")))
        for member in members:
            assert [member.receive() for _ in range(40)] == [content["text"] for content in small] * 2
        teller.send(b"".join(message(f"together {json.dumps(mixed)}")))
        for member in members:
            assert member.rest_after_close() == ["a", "b", "c" * 3000, "d"]
            assert member.code == 4001
        assert server.log.count("a reply at '/group' was dropped") == 1
        teller.close()
        wait_state(server, members=0)


@pytest.mark.parametrize("policy", ["close", "drop-oldest", "drop-newest"])
def test_client_that_reads_too_slowly_meets_the_policy(policy: str) -> None:
    with serving(
        ROUTED, *MEMORY, "--ws-overflow", policy, "--ws-send-buffer", "200000", "--ws-compression", "off"
    ) as server:  # fmt: skip
        client = RawClient(server, "/act", receive_buffer=4096)
        count = 1200
        client.send(b"".join(message(f"flood {count} 10000")))
        # The consumer is never held up, whatever its client does.
        server.wait_for("flooded")
        client.send(frame(PING, b"are you there?"))
        pong_at = None
        numbers = []
        while (found := client.next_frame()) is not None:
            if found.opcode == PONG:
                pong_at = len(numbers)
                client.send(close(1000))
            elif found.opcode == TEXT:
                assert len(found.data) == 10_000
                numbers.append(int(bytes(found.data[:6])))
            else:
                client.code = int.from_bytes(found.data[:2], "big")
        client.close()
        assert numbers == sorted(set(numbers))
        assert numbers[0] == 0
        state = wait_state(server, members=0)
        if policy == "close":
            assert client.code == 1013
            assert state["too_slow"] == 1
            server.wait_for(r"with 1013: over 200000 bytes are unsent \(--ws-send-buffer\)")
            server.wait_for("disconnected /act 1013 2")
            return
        assert client.code == 1000
        # The pong passed what waited, and nothing was lost that was not counted.
        assert pong_at is not None
        assert pong_at < len(numbers)
        assert len(numbers) + state["dropped_oldest"] + state["dropped_newest"] == count
        assert (state["dropped_oldest"] > 0) == (policy == "drop-oldest")
        assert (numbers[-1] == count - 1) == (policy == "drop-oldest")
        server.wait_for(r"messages for \S+ are dropped from now on")
        server.wait_for(r"\d+ messages for \S+ were dropped")


def test_group_goes_on_past_a_member_that_does_not_read() -> None:
    """R6 in small; the full size is in test_faults."""
    members = 20
    with serving(ROUTED, *MEMORY, "--ws-send-buffer", "100000") as server:
        stuck = RawClient(server, "/group", receive_buffer=4096)
        clients = [RawClient(server, "/group") for _ in range(members)]
        before = resident_bytes(server.pids[-1])
        for _ in range(100):
            # Less than their limit at a time: however busy the machine is, those that read are never too slow.
            ask(server, "/group/10/9000")
            for client in clients:
                assert [client.receive() for _ in range(10)] == ["x" * 9000] * 10
        state = wait_state(server, too_slow=1)
        assert state["members"] <= members + 1
        assert resident_bytes(server.pids[-1]) - before < 40 << 20
        for client in (stuck, *clients):
            client.close()
        wait_state(server, members=0)


def test_group_of_compressing_and_plain_members_reads_the_same() -> None:
    with serving(ROUTED, *MEMORY) as server:
        from websockets.extensions.permessage_deflate import PerMessageDeflate

        offers = ["", "", "; server_max_window_bits=9", "; server_max_window_bits=10"]
        clients = []
        for number, offer in enumerate(offers):
            fields = [f"Sec-WebSocket-Extensions: permessage-deflate{offer}"] if number else []
            theirs = [PerMessageDeflate(True, True, 15, 15)] if number else []
            clients.append(RawClient(server, "/group", *fields, extensions=theirs))
        ask(server, "/group/3/5000")
        for client in clients:
            assert [client.receive() for _ in range(3)] == ["x" * 5000] * 3
        ask(server, "/kick/4100")
        for client in clients:
            assert client.rest_after_close() == []
            assert client.code == 4100
        wait_state(server, members=0)


def test_compression_can_be_switched_off() -> None:
    with serving(ROUTED, *MEMORY, "--ws-compression", "off") as server:
        client = RawClient(server, "/echo", "Sec-WebSocket-Extensions: permessage-deflate")
        assert b"Sec-WebSocket-Extensions" not in client.head
        client.close()


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--ws-overflow", "drop", "--ws-overflow is 'drop'; choose one of close, drop-oldest, drop-newest"),
        ("--ws-compression", "on", "--ws-compression is 'on'; choose one of auto, off"),
        ("--ws-close-timeout", "0", "--ws-close-timeout is 0.0, but it must be 0.1 or more"),
        ("--ws-close-timeout", "soon", "--ws-close-timeout is 'soon', which is not a number"),
        ("--ws-rate", "-1", "--ws-rate is -1.0, but it must be 0 or more"),
    ],
)
def test_wrong_limit_is_one_clear_line(flag: str, value: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    from offload.cli import main

    assert main([ROUTED, flag, value]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "outcome", "max_size"),
    [
        ({"text": "short"}, "sent", 1000),
        ({"text": "x" * 300}, "sent", 1000),
        ({"bytes": b"", "text": ""}, "sent", 1000),
        ({"text": "x" * 2000}, "MessageTooLarge", 1000),
        ({"text": "x" * 230}, "MessageTooLarge", 200),
        ({"text": ("a",)}, "TypeError", 1000),
        ({"txt": "a"}, "ValueError", 1000),
        ({}, "ValueError", 1000),
        ("text", "TypeError", 1000),
        ({"close": 1005}, "ValueError", 1000),
    ],
)
def test_own_reply_is_checked_and_counted_as_by_the_layer(content: object, outcome: str, max_size: int) -> None:
    with serving(ROUTED, "--layer", f"memory://?max_size={max_size}", "--ws-ping-interval", "0") as server:
        client = RawClient(server, "/act")
        client.send(b"".join(message(f"try {content!r}")))
        told = []
        while len(told) < 2:
            received = client.receive()
            if isinstance(received, str) and received.startswith("["):
                told.append(json.loads(received))
        assert told[0] == told[1]
        assert told[0][0].startswith(outcome)
        assert told[0][1] == ([1, 1] if outcome == "sent" else [0, 0])
        client.close()

"""The closing handshake in bytes: each row of the protocol's table, and what never leaves a WebSocket half closed."""

from __future__ import annotations

import pytest

from offload.protocol.websocket import deflate as deflating
from offload.protocol.websocket.connection import Close, Failure, Ping, State, WebSocketProtocol
from offload.protocol.websocket.frames import close_frame
from tests.protocol.frames import PING, TEXT, agreement, close, deflated, frame, message

SENT = {
    "close": close(1000, b"bye"),
    "fault": frame(TEXT, b"not masked", mask=False),
    "code 4999": close(4999),
    "no code": close(),
    "code 1006": close(1006),
    "one byte": frame(8, b"x"),
    "no text": close(1000, b"\xff"),
}


def protocol(state: State = State.OPEN) -> WebSocketProtocol:
    """A WebSocket in a state, reached as it is reached in life."""
    made = WebSocketProtocol(1000, state=State.CONNECTING)
    if state is not State.CONNECTING:
        made.open(None)
    if state is State.ENDING:
        made.receive(close(4001))
    elif state is State.CLOSING:
        made.close(4000)
    elif state is State.CLOSED:
        made.abandon()
    assert made.state is state
    return made


@pytest.mark.parametrize(
    ("state", "sent", "after"),
    [
        (State.OPEN, "close", State.ENDING),
        (State.OPEN, "fault", State.ENDING),
        (State.CLOSING, "close", State.CLOSED),
        (State.CLOSING, "fault", State.CLOSED),
        (State.ENDING, "close", State.ENDING),
        (State.CLOSED, "close", State.CLOSED),
        (State.CONNECTING, "close", State.CONNECTING),
    ],
)
def test_what_the_client_sends_ends_what_it_may_end(state: State, sent: str, after: State) -> None:
    made = protocol(state)
    events = made.receive(SENT[sent])
    assert made.state is after
    assert [type(event) for event in events] == ([] if after is state else [Close if sent == "close" else Failure])


@pytest.mark.parametrize("state", State)
def test_our_close_frame_is_sent_once_whatever_the_order(state: State) -> None:
    for order in ("close answer fail", "answer close fail", "fail answer close", "close fail answer"):
        made = protocol(state)
        arguments = {"close": (4000,), "answer": (), "fail": (1011, "")}
        sent = [getattr(made, word)(*arguments[word]) for word in order.split()]
        assert sum(map(bool, sent)) == (state in (State.OPEN, State.ENDING)), (state, order)
        assert made.state is State.CLOSED


@pytest.mark.parametrize(
    ("sent", "answer", "code"),
    [
        ("close", close_frame(1000), 1000),
        ("code 4999", close_frame(4999), 4999),
        ("no code", close_frame(1000), 1005),
        ("code 1006", close_frame(1002, "a close frame has no valid code"), 1002),
        ("one byte", close_frame(1002, "a close frame has no valid code"), 1002),
        ("no text", close_frame(1007, "a close frame's reason is not UTF-8"), 1007),
    ],
)
def test_clients_end_is_answered_behind_the_last_messages(sent: str, answer: bytes, code: int) -> None:
    made = protocol()
    events = made.receive(b"".join(message("last")) + SENT[sent] + b"".join(message("behind the end")))
    assert events[0] == "last"
    assert len(events) == 2
    assert made.code == code
    assert made.close(4000) == b"", "what we have to say is the answer"
    assert made.answer() == answer
    assert made.answer() == b""


def test_code_is_the_clients_own_or_else_ours_or_else_1006() -> None:
    closing = protocol(State.CLOSING)
    assert closing.code == 1006
    closing.receive(close(4000))
    assert closing.code == 4000
    broken = protocol(State.CLOSING)
    broken.receive(SENT["fault"])
    assert broken.code == 1006
    failed = protocol()
    assert failed.fail(1008, "too fast") == close_frame(1008, "too fast")
    assert failed.code == 1008
    late = protocol(State.ENDING)
    assert late.fail(1013, "") == close_frame(1013)
    assert late.code == 4001


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("\ud83d", b"?"),
        ("fine \udc80 and \u20ac", b"fine ? and \xe2\x82\xac"),
        ("x" * 200, b"x" * 123),
        ("\u20ac" * 42, "\u20ac".encode() * 41),
        ("\0\r\n", b"\0\r\n"),
    ],
)
def test_reason_that_cannot_be_sent_is_mended(reason: str, sent: bytes) -> None:
    made = protocol()
    assert made.close(4000, reason) == bytes((0x88, 2 + len(sent))) + (4000).to_bytes(2, "big") + sent
    assert made.state is State.CLOSING


@pytest.mark.parametrize("code", [4000.0, "4000", None, -1, 70000])
def test_code_that_cannot_be_sent_raises_and_changes_nothing(code: object) -> None:
    made = protocol()
    with pytest.raises((TypeError, AttributeError, OverflowError)):
        made.close(code)  # type: ignore[arg-type]
    assert made.state is State.OPEN
    assert made.close(1000) == close_frame(1000)


def test_messages_behind_our_close_frame_are_dropped_and_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    made = WebSocketProtocol(1000, agreement(), is_lazy=True)
    parts = message("in three parts", (2, 3))
    assert made.receive(parts[0]) == []
    made.close(1000)
    monkeypatch.setattr(deflating.zlib, "decompressobj", None)
    compressed = frame(TEXT, deflated(b"x" * 100_000), rsv=4)
    assert made.receive(b"".join(parts[1:]) + compressed * 200 + frame(PING, b"p") + b"".join(message("more"))) == [
        Ping(b"p")
    ]
    assert not made.held
    # What breaks the rules does so behind a close frame as well.
    assert made.receive(frame(TEXT, b"x" * 2000)) == [Failure(1009, "a message has over 1000 bytes")]
    assert made.state is State.CLOSED


def test_nothing_is_read_after_the_end() -> None:
    made = protocol()
    assert made.receive(b"".join(message("one")) + frame(TEXT, b"half")[:4]) == ["one"]
    made.abandon()
    assert made.receive(b"".join(message("two"))) == []
    assert made.code == 1006

"""WebSocket frames: bytes to messages and control events, and back.

The server's side: it takes masked frames and sends unmasked ones. Pure: no sockets, no clock. Follows RFC 6455,
sections 5 to 8.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from websockets.speedups import apply_mask

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FIN = 0x80
_WHOLE_TEXT, _WHOLE_BINARY = _FIN | TEXT, _FIN | BINARY

NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_CODE, ABNORMAL, INVALID_DATA, TOO_BIG, INTERNAL_ERROR = (
    1000,
    1001,
    1002,
    1005,
    1006,
    1007,
    1009,
    1011,
)
TRY_AGAIN_LATER = 1013


@dataclass(frozen=True)
class Ping:
    """The client asks for a `Pong` with the same payload."""

    payload: bytes


@dataclass(frozen=True)
class Pong:
    """The client answers a ping, or shows that it lives."""

    payload: bytes


@dataclass(frozen=True)
class Close:
    """The client's close frame; nothing follows it.

    Attributes:
        code: the code sent, or 1005 when there was none.
    """

    code: int
    reason: str


@dataclass(frozen=True)
class Failure:
    """The client broke the rules; the connection is to be closed with `code`. Nothing follows it."""

    code: int
    reason: str


Event = str | bytes | Ping | Pong | Close | Failure
"""Text messages are `str`, binary ones `bytes`: the hot path makes no wrapper objects."""


class WebSocketProtocol:
    """Reads what one client sends.

    Args:
        max_size: bytes of the largest message taken; larger ones fail with 1009.
    """

    __slots__ = ("_decoder", "_ended", "_have", "_message_size", "_need", "_opcode", "_parts", "_pending", "max_size")

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self._ended = False
        # What arrived of a frame that is not whole yet; it is looked at again when `_need` bytes are there.
        self._pending: list[bytes] | None = None
        self._have = 0
        self._need = 0
        # A message in fragments: the first frame's opcode, and the parts so far.
        self._opcode = 0
        self._parts: list[str] | list[bytes] | None = None
        self._message_size = 0
        self._decoder: codecs.IncrementalDecoder | None = None

    def receive(self, data: bytes) -> list[Event]:
        """Feed what arrived; the events in order."""
        if self._ended:
            return []
        if self._pending is not None:
            self._pending.append(data)
            self._have += len(data)
            if self._have < self._need:
                return []
            data = b"".join(self._pending)
            self._pending = None
        events: list[Event] = []
        at, size = 0, len(data)
        while at < size:
            body = at + 6
            if body > size:
                # The two bytes that can be wrong by themselves are checked as soon as they are there.
                need = 2 if size - at < 2 else 6
                if need == 6 and self._refuses(data[at], data[at + 1], events):
                    break
                self._wait(data, at, need)
                break
            first, second = data[at], data[at + 1]
            length = second & 0x7F
            if (second < 0x80 or (first != _WHOLE_TEXT and first != _WHOLE_BINARY) or self._parts is not None) and (
                self._refuses(first, second, events)
            ):
                break
            if length > 125:
                wide = 2 if length == 126 else 8
                body += wide
                if body > size:
                    self._wait(data, at, body - at)
                    break
                length = int.from_bytes(data[at + 2 : at + 2 + wide], "big")
                if length < (126 if wide == 2 else 65536) or length >> 63:
                    self._fail(events, PROTOCOL_ERROR, "a frame's length is not in its shortest form")
                    break
            if length + self._message_size > self.max_size and not first & 0x8:
                self._fail(events, TOO_BIG, f"a message has over {self.max_size} bytes")
                break
            end = body + length
            if end > size:
                self._wait(data, at, end - at)
                break
            payload = apply_mask(data[body:end], data[body - 4 : body])
            at = end
            if first == _WHOLE_TEXT:
                try:
                    events.append(payload.decode())
                except UnicodeDecodeError:
                    self._fail(events, INVALID_DATA, "a text message is not UTF-8")
                    break
            elif first == _WHOLE_BINARY:
                events.append(payload)
            elif first & 0x8:
                self._control(first & 0xF, payload, events)
                if self._ended:
                    break
            elif not self._fragment(first, payload, events):
                break
        return events

    def _wait(self, data: bytes, at: int, need: int) -> None:
        self._pending = [data[at:] if at else data]
        self._have = len(data) - at
        self._need = need

    def _fail(self, events: list[Event], code: int, reason: str) -> None:
        self._ended = True
        self._parts = None
        events.append(Failure(code, reason))

    def _refuses(self, first: int, second: int, events: list[Event]) -> bool:
        opcode = first & 0xF
        if first & 0x70:
            reason = "a frame has a reserved bit set"
        elif second < 0x80:
            reason = "a frame is not masked"
        elif opcode & 0x8:
            if opcode > PONG:
                reason = f"opcode {opcode} is reserved"
            elif first < 0x80:
                reason = "a control frame is fragmented"
            elif second & 0x7F > 125:
                reason = "a control frame has over 125 bytes"
            else:
                return False
        elif opcode > BINARY:
            reason = f"opcode {opcode} is reserved"
        elif opcode and self._parts is not None:
            reason = "a message begins inside another one"
        elif not opcode and self._parts is None:
            reason = "a continuation frame continues nothing"
        else:
            return False
        self._fail(events, PROTOCOL_ERROR, reason)
        return True

    def _fragment(self, first: int, payload: bytes, events: list[Event]) -> bool:
        final = first >= _FIN
        if first & 0xF:
            self._opcode = first & 0xF
            self._parts = []
            self._decoder = codecs.getincrementaldecoder("utf-8")() if self._opcode == TEXT else None
        self._message_size += len(payload)
        piece: str | bytes = payload
        if self._decoder is not None:
            try:
                piece = self._decoder.decode(payload, final)
            except UnicodeDecodeError:
                self._fail(events, INVALID_DATA, "a text message is not UTF-8")
                return False
        parts = self._parts
        assert parts is not None
        parts.append(piece)  # type: ignore[arg-type]
        if final:
            events.append("".join(parts) if self._opcode == TEXT else b"".join(parts))  # type: ignore[arg-type]
            self._parts = self._decoder = None
            self._message_size = 0
        return True

    def _control(self, opcode: int, payload: bytes, events: list[Event]) -> None:
        if opcode == PING:
            events.append(Ping(payload))
        elif opcode == PONG:
            events.append(Pong(payload))
        elif not payload:
            self._ended = True
            events.append(Close(NO_CODE, ""))
        elif len(payload) == 1 or not may_be_received(int.from_bytes(payload[:2], "big")):
            self._fail(events, PROTOCOL_ERROR, "a close frame has no valid code")
        else:
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError:
                self._fail(events, INVALID_DATA, "a close frame's reason is not UTF-8")
                return
            self._ended = True
            events.append(Close(int.from_bytes(payload[:2], "big"), reason))


def may_be_received(code: int) -> bool:
    """Whether a close frame may carry this code (RFC 6455, 7.4, and the registry)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, NO_CODE, ABNORMAL))


def may_be_sent(code: int) -> bool:
    """Whether an application may close with this code."""
    return may_be_received(code)


_TEXT_HEADERS = [bytes((_WHOLE_TEXT, length)) for length in range(126)]


def text_frame(text: str) -> bytes:
    """A whole text message."""
    payload = text.encode()
    size = len(payload)
    return _TEXT_HEADERS[size] + payload if size < 126 else _header(_WHOLE_TEXT, size) + payload


def binary_frame(payload: bytes) -> bytes:
    """A whole binary message."""
    return _header(_WHOLE_BINARY, len(payload)) + payload


def ping_frame(payload: bytes) -> bytes:
    """A ping; 125 bytes of payload at most."""
    return _header(_FIN | PING, len(payload)) + payload


def pong_frame(payload: bytes) -> bytes:
    """A pong; 125 bytes of payload at most."""
    return _header(_FIN | PONG, len(payload)) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; the reason is cut to what a control frame holds."""
    if code == NO_CODE:
        return _header(_FIN | CLOSE, 0)
    payload = code.to_bytes(2, "big") + reason.encode()[:123].decode(errors="ignore").encode()
    return _header(_FIN | CLOSE, len(payload)) + payload


def _header(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")

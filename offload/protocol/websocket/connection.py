"""One WebSocket: bytes to messages and control events, and the closing handshake.

The server's side: it takes masked frames and sends unmasked ones. Pure: no sockets, no clock; the caller sends what the
methods return. Follows RFC 6455, sections 5 to 8, and RFC 7692, section 7.2.

==========  =====================================  =============================
state       event                                  next state, and what is sent
==========  =====================================  =============================
CONNECTING  `open`                                 OPEN
OPEN        the client's close frame, or a fault   ENDING
OPEN        `close`                                CLOSING, our close frame
ENDING      `answer`                               CLOSED, our close frame
CLOSING     the client's close frame, or a fault   CLOSED
any         `fail`                                 CLOSED, our close frame unless it is sent
any         `abandon`                              CLOSED
==========  =====================================  =============================
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from enum import Enum

from websockets.speedups import apply_mask

from offload.protocol.websocket.deflate import TooBig
from offload.protocol.websocket.frames import (
    ABNORMAL,
    BINARY,
    FIN,
    INVALID_DATA,
    NO_CODE,
    NORMAL,
    PING,
    POLICY_VIOLATION,
    PONG,
    PROTOCOL_ERROR,
    RSV1,
    TEXT,
    TOO_BIG,
    WHOLE_BINARY,
    WHOLE_TEXT,
    Extension,
    close_frame,
    may_be_received,
)

_FEWEST_FRAMES = 1024
_BYTES_PER_FRAME = 16
"""A message may come in as many frames as if each had this many bytes of the largest message."""
_INFLATED_AT_ONCE = 1 << 20


class State(Enum):
    """Where a WebSocket is between its handshake and its end."""

    CONNECTING = "the handshake is not decided"
    OPEN = "messages pass both ways"
    ENDING = "nothing more is taken from the client; our close frame follows the last messages"
    CLOSING = "our close frame is sent, and the client's awaited"
    CLOSED = "nothing passes any more"


# The hot path compares with these.
_CONNECTING, _OPEN, _ENDING, _CLOSING, _CLOSED = State


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


class _Message:
    """A data message that is not whole yet, and its frame of which more is to come."""

    __slots__ = ("buffer", "checked", "compressed", "final", "frames", "mask", "opcode", "remaining")

    def __init__(self, opcode: int, compressed: bool) -> None:
        self.opcode = opcode
        self.compressed = compressed
        self.buffer = bytearray()
        # How much of the buffer is known to be UTF-8.
        self.checked = 0
        self.frames = 0
        # The frame that is being read: bytes to come, and how those are masked.
        self.remaining = 0
        self.mask = b""
        self.final = False


class WebSocketProtocol:
    """One WebSocket.

    Args:
        max_size: bytes of the largest message taken, after it is inflated; larger ones fail with 1009.
        extension: the agreement with the client, or None.
        is_lazy: hold back what follows once much has been inflated, until `receive` is called again: few bytes can
            hold many large messages, and the caller may not want all of them at once.
        state: ``State.CONNECTING`` where the handshake is not decided yet.

    Attributes:
        held: whether messages are held back; call ``receive(b"")`` for them when there is room.
        code: what it was closed with: the code of the client's close frame (1005 for an empty one), without one the
            code that we failed it with, or else 1006.
    """

    __slots__ = ("_buffered", "_farewell", "_is_lazy", "_message", "code", "extension", "held", "max_size", "state")

    def __init__(
        self, max_size: int, extension: Extension | None = None, is_lazy: bool = False, state: State = _OPEN
    ) -> None:
        self.max_size = max_size
        self.extension = extension
        self.state = state
        self.code = ABNORMAL
        self.held = False
        self._is_lazy = is_lazy
        # A header or a control frame that is not whole yet. The payload of a data frame never waits here.
        self._buffered = b""
        self._message: _Message | None = None
        # Our close frame while the last messages are answered.
        self._farewell = b""

    # The handshakes at both ends.

    def open(self, extension: Extension | None) -> None:
        """The handshake is accepted, with this agreement."""
        self.state = _OPEN
        self.extension = extension

    def close(self, code: int, reason: str = "") -> bytes:
        """Begin the closing handshake.

        Args:
            code: one that `may_be_sent`.
            reason: cut to what a close frame holds; what UTF-8 cannot express becomes question marks.

        Returns:
            The frame to send behind all data; b"" when the closing handshake has begun, or nothing is open.
        """
        if self.state is not _OPEN:
            return b""
        frame = close_frame(code, reason)
        self.state = _CLOSING
        return frame

    def answer(self) -> bytes:
        """The last messages are answered: the frame to send behind all data, unless somebody ended it meanwhile."""
        if self.state is not _ENDING:
            return b""
        self.state = _CLOSED
        return self._farewell

    def fail(self, code: int, reason: str) -> bytes:
        """End it from our side without waiting for anything. Returns what to send, as `close` does."""
        state = self.state
        frame = close_frame(code, reason) if state is _OPEN or state is _ENDING else b""
        if state is _OPEN:
            self.code = code
        self.abandon()
        return frame

    def abandon(self) -> None:
        """The connection is lost, or the handshake refused."""
        self.state = _CLOSED
        self._message = None
        self._buffered = b""
        self.held = False

    # What the client sends.

    def receive(self, data: bytes) -> list[Event]:
        """Feed what arrived; the events in order. After `Close` or `Failure` nothing more comes.

        Messages that arrive behind our own close frame are dropped; compressed ones are not inflated.
        """
        state = self.state
        if state is not _OPEN and state is not _CLOSING:
            return []
        message, size = self._message, len(data)
        is_idle = message is None and not self._buffered and state is _OPEN
        if (
            is_idle
            and 6 < size <= 131
            and data[0] == WHOLE_TEXT
            and data[1] == size + 122
            and size - 6 <= self.max_size
        ):
            # Mostly it is one short message, whole and masked, which needs nothing of the rest.
            try:
                return [apply_mask(data[6:], data[2:6]).decode()]
            except UnicodeDecodeError:
                pass  # told of below
        events: list[Event] = []
        at, inflated = 0, 0
        if message is not None and message.remaining:
            at = message.remaining
            if not self._take(message, memoryview(data)[:at], events):
                return events if state is _OPEN else _without_messages(events)
        elif self._buffered:
            data = self._buffered + data
            self._buffered = b""
        self.held = False
        size = len(data)
        while at < size:
            body = at + 6
            if body > size:
                # The two bytes that can be wrong by themselves are looked at as soon as they are there.
                if size - at < 2 or not self._refuses(data[at], data[at + 1], events):
                    self._buffered = data[at:]
                break
            first, second = data[at], data[at + 1]
            length = second & 0x7F
            if (
                second < 0x80 or (first != WHOLE_TEXT and first != WHOLE_BINARY) or self._message is not None
            ) and self._refuses(first, second, events):
                break
            if length > 125:
                wide = 2 if length == 126 else 8
                body += wide
                if body > size:
                    self._buffered = data[at:]
                    break
                length = int.from_bytes(data[at + 2 : at + 2 + wide], "big")
                if length < (126 if wide == 2 else 65536) or length >> 63:
                    self._fail(events, PROTOCOL_ERROR, "a frame's length is not in its shortest form")
                    break
            end = body + length
            if WHOLE_TEXT <= first <= WHOLE_BINARY and end <= size and length <= self.max_size:
                payload = apply_mask(data[body:end], data[body - 4 : body])
                at = end
                if first == WHOLE_BINARY:
                    events.append(payload)
                    continue
                try:
                    events.append(payload.decode())
                except UnicodeDecodeError:
                    self._fail(events, INVALID_DATA, "a text message is not UTF-8")
                    break
            elif first & 0x8:
                if end > size:
                    self._buffered = data[at:]
                    break
                if self._ends(first & 0xF, apply_mask(data[body:end], data[body - 4 : body]), events):
                    break
                at = end
            else:
                message = self._begin_frame(first, length, data[body - 4 : body], events)
                if message is None or not self._take(message, memoryview(data)[body:end], events):
                    break
                at = end
                if message.compressed and self._message is None and self._is_lazy:
                    inflated += len(events[-1]) if state is _OPEN else 0  # type: ignore[arg-type]
                    if inflated >= _INFLATED_AT_ONCE and at < size:
                        self._buffered = data[at:]
                        self.held = True
                        break
        return events if state is _OPEN else _without_messages(events)

    def _fail(self, events: list[Event], code: int, reason: str) -> None:
        if self.state is _OPEN:
            self.code = code
        self._end(close_frame(code, reason))
        events.append(Failure(code, reason))

    def _end(self, farewell: bytes) -> None:
        """Nothing more is read."""
        is_open = self.state is _OPEN
        self.abandon()
        if is_open:
            self.state = _ENDING
            self._farewell = farewell

    def _refuses(self, first: int, second: int, events: list[Event]) -> bool:
        opcode = first & 0xF
        if first & 0x70 and (first & 0x70 != RSV1 or self.extension is None or opcode not in (TEXT, BINARY)):
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
        elif opcode and self._message is not None:
            reason = "a message begins inside another one"
        elif not opcode and self._message is None:
            reason = "a continuation frame continues nothing"
        else:
            return False
        self._fail(events, PROTOCOL_ERROR, reason)
        return True

    def _begin_frame(self, first: int, length: int, mask: bytes, events: list[Event]) -> _Message | None:
        """A data frame's header is whole; None when it is one too many, or too long."""
        message = self._message
        if message is None:
            message = self._message = _Message(first & 0xF, bool(first & RSV1))
        max_size = self.max_size
        message.frames += 1
        # What cannot be compressed grows a little.
        limit = max_size + (max_size >> 3) + 64 if message.compressed else max_size
        if len(message.buffer) + length > limit:
            self._fail(events, TOO_BIG, f"a message has over {max_size} bytes")
            return None
        if message.frames > max(_FEWEST_FRAMES, max_size // _BYTES_PER_FRAME):
            self._fail(events, POLICY_VIOLATION, f"a message has over {message.frames - 1} frames")
            return None
        message.remaining = length
        message.mask = mask
        message.final = first >= FIN
        return message

    def _take(self, message: _Message, masked: memoryview, events: list[Event]) -> bool:
        """Payload of the current frame has arrived; False when nothing more is to be read now."""
        size = len(masked)
        buffer = message.buffer
        if size:
            mask = message.mask
            buffer += apply_mask(masked, mask)
            message.remaining -= size
            shift = size & 3
            if message.remaining and shift:
                message.mask = mask[shift:] + mask[:shift]
        whole = not message.remaining and message.final
        if message.opcode == TEXT and not message.compressed:
            # Wrong bytes are refused as soon as they are here, in the middle of a frame as well.
            try:
                if whole and not message.checked:
                    events.append(buffer.decode())
                    self._message = None
                    return True
                with memoryview(buffer)[message.checked :] as fresh:
                    message.checked += codecs.utf_8_decode(fresh, "strict", whole)[1]
            except UnicodeDecodeError:
                self._fail(events, INVALID_DATA, "a text message is not UTF-8")
                return False
        if not whole:
            return not message.remaining
        self._message = None
        return self._finish(message, events)

    def _finish(self, message: _Message, events: list[Event]) -> bool:
        payload: bytes | bytearray = message.buffer
        try:
            if message.compressed and self.extension is not None:
                if self.state is not _OPEN:
                    return True
                payload = self.extension.inflate(payload, self.max_size)
            events.append(payload.decode() if message.opcode == TEXT else bytes(payload))
        except UnicodeDecodeError:
            self._fail(events, INVALID_DATA, "a text message is not UTF-8")
        except TooBig as error:
            self._fail(events, TOO_BIG, str(error))
        except ValueError:
            self._fail(events, INVALID_DATA, "a message's compressed data is damaged")
        else:
            return True
        return False

    def _ends(self, opcode: int, payload: bytes, events: list[Event]) -> bool:
        """A control frame; returns whether it is the last one."""
        if opcode == PING:
            events.append(Ping(payload))
        elif opcode == PONG:
            events.append(Pong(payload))
        else:
            self._take_close(payload, events)
            return True
        return False

    def _take_close(self, payload: bytes, events: list[Event]) -> None:
        code, reason = NO_CODE, ""
        if payload:
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1 or not may_be_received(code):
                self._fail(events, PROTOCOL_ERROR, "a close frame has no valid code")
                return
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError:
                self._fail(events, INVALID_DATA, "a close frame's reason is not UTF-8")
                return
        self.code = code
        self._end(close_frame(NORMAL if code == NO_CODE else code))
        events.append(Close(code, reason))


def _without_messages(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, (str, bytes))]

"""Frames that the server sends, and the numbers in them: opcodes, close codes, and who may use which code.

Pure, and apart from the connection: consumers name close codes also where no WebSocket is served. Follows RFC 6455,
sections 5 and 7.4, the registry of IANA, and RFC 7692, section 7.2.
"""

from __future__ import annotations

from typing import Protocol, TypeGuard

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1 = 0x80, 0x40
WHOLE_TEXT, WHOLE_BINARY = FIN | TEXT, FIN | BINARY

SMALLEST_BYTES = 256
"""Shorter payloads are not compressed: what is saved is not worth either side's time."""

NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013

NO_CODE = 1005
"""Stands for a close frame without a code; never sent."""
ABNORMAL = 1006
"""Stands for an end without a close frame; never sent."""
_RESERVED = 1004

_REGISTERED = range(NORMAL, 1015)
_FREE = range(3000, 5000)
"""Those of libraries, frameworks and applications."""


def may_be_received(code: int) -> bool:
    """Whether a close frame may carry this code."""
    return code in _FREE or (code in _REGISTERED and code not in (_RESERVED, NO_CODE, ABNORMAL))


def may_be_sent(code: object) -> TypeGuard[int]:
    """Whether an application may close with this code."""
    return isinstance(code, int) and may_be_received(code)


class Extension(Protocol):
    """An agreement to send messages in another form, which frames tell by their first reserved bit; without a state."""

    answer: bytes
    """The value of the answer's Sec-WebSocket-Extensions."""

    def compress(self, payload: bytes) -> bytes:
        """A message's payload in that form. One that is not smaller is sent as it is."""

    def inflate(self, payload: bytes | bytearray, max_size: int) -> bytes:
        """The payload itself. Raises ``TooBig`` for more bytes than `max_size`, and ``ValueError`` for damaged data."""


_TEXT_HEADERS = [bytes((WHOLE_TEXT, length)) for length in range(126)]


def data_frame(opcode: int, payload: bytes) -> bytes:
    """A whole message; `opcode` is `TEXT` or `BINARY`."""
    return _header(FIN | opcode, len(payload)) + payload


def message_frame(opcode: int, payload: bytes, extension: Extension | None) -> bytes:
    """A whole message, compressed where that was agreed to and makes it smaller."""
    if extension is not None and len(payload) >= SMALLEST_BYTES:
        smaller = extension.compress(payload)
        if len(smaller) < len(payload):
            return _header(FIN | RSV1 | opcode, len(smaller)) + smaller
    return data_frame(opcode, payload)


def text_frame(text: str) -> bytes:
    """A whole text message."""
    payload = text.encode()
    size = len(payload)
    return _TEXT_HEADERS[size] + payload if size < 126 else _header(WHOLE_TEXT, size) + payload


def binary_frame(payload: bytes) -> bytes:
    """A whole binary message."""
    return _header(WHOLE_BINARY, len(payload)) + payload


def ping_frame(payload: bytes) -> bytes:
    """A ping; 125 bytes of payload at most."""
    return _header(FIN | PING, len(payload)) + payload


def pong_frame(payload: bytes) -> bytes:
    """A pong; 125 bytes of payload at most."""
    return _header(FIN | PONG, len(payload)) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; the reason is cut to what a control frame holds, and mended where UTF-8 cannot express it."""
    if code == NO_CODE:
        return _header(FIN | CLOSE, 0)
    payload = code.to_bytes(2, "big") + reason.encode(errors="replace")[:123].decode(errors="ignore").encode()
    return _header(FIN | CLOSE, len(payload)) + payload


def _header(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")

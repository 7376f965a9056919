"""What consumers send to a client: a message's content to frames, a close, or the handshake's decision."""

from __future__ import annotations

from offload.interfaces import DECIDES_KEY, Content
from offload.protocol.http.response_head import field_lines
from offload.protocol.websocket.connection import (
    BINARY,
    NORMAL,
    TEXT,
    binary_frame,
    data_frame,
    deflated_frame,
    may_be_sent,
    text_frame,
)
from offload.protocol.websocket.deflate import SMALLEST_BYTES, Deflate

_OF_HANDSHAKE = frozenset(("headers", "status", "content"))
_KEYS = frozenset(("text", "bytes", "close", "accept", "subprotocol", DECIDES_KEY)) | _OF_HANDSHAKE


class Reply:
    """A reply that is more than one small message. It is shared by all receivers of a delivery.

    Attributes:
        text, data: the payloads of a text message and of a binary one that follows it; None for none.
        accept: the handshake's decision; None where it says nothing of it.
        subprotocol: chosen with `accept`.
        close: the code to close with, or None.
        fields: header lines for the handshake's answer, whatever it is.
        status, body: of the answer that refuses the handshake; None for the server's own.
    """

    __slots__ = ("_deflated", "_plain", "accept", "body", "close", "data", "fields", "status", "subprotocol", "text")

    def __init__(
        self,
        text: bytes | None,
        data: bytes | None,
        accept: bool | None = None,
        subprotocol: str | None = None,
        close: int | None = None,
    ) -> None:
        self.text = text
        self.data = data
        self.accept = accept
        self.subprotocol = subprotocol
        self.close = close
        self.fields = b""
        self.status: int | None = None
        self.body: bytes | None = None
        self._plain: bytes | None = None
        self._deflated: dict[int, bytes] | None = None

    @property
    def has_data(self) -> bool:
        """Whether it holds a message."""
        return self.text is not None or self.data is not None

    def frames(self, deflate: Deflate | None) -> bytes:
        """The messages as frames, built and compressed once for all connections that agreed to the same.

        Args:
            deflate: a connection's agreement.
        """
        if deflate is None:
            if self._plain is None:
                self._plain = self._build(None)
            return self._plain
        if self._deflated is None:
            self._deflated = {}
        frames = self._deflated.get(deflate.bits)
        if frames is None:
            frames = self._deflated[deflate.bits] = self._build(deflate)
        return frames

    def _build(self, deflate: Deflate | None) -> bytes:
        frames = b""
        if self.text is not None:
            frames = message_frame(TEXT, self.text, deflate)
        if self.data is not None:
            frames += message_frame(BINARY, self.data, deflate)
        return frames


def message_frame(opcode: int, payload: bytes, deflate: Deflate | None) -> bytes:
    """A whole message, compressed where that was agreed to and makes it smaller."""
    if deflate is not None and len(payload) >= SMALLEST_BYTES:
        smaller = deflate.compress(payload)
        if len(smaller) < len(payload):
            return deflated_frame(opcode, smaller)
    return data_frame(opcode, payload)


def prepare(content: Content) -> bytes | Reply:
    """The frame of a small message, which is the same for all receivers; a `Reply` for everything else.

    Raises:
        ValueError, TypeError: a key is unknown, a value of the wrong type, or the close code reserved.
    """
    text, data = content.get("text"), content.get("bytes")
    if len(content) == 1:
        if type(text) is str and len(text) < SMALLEST_BYTES:
            return text_frame(text)
        if type(data) is bytes and len(data) < SMALLEST_BYTES:
            return binary_frame(data)
    unknown = content.keys() - _KEYS
    if unknown or not content:
        raise ValueError(
            f"a reply has the keys text, bytes, close, accept and subprotocol; this one has {sorted(content) or 'none'}"
        )
    if text is not None and not isinstance(text, str):
        raise TypeError(f"a reply's text is a {type(text).__name__}, not a str; encode it, for instance as JSON")
    if data is not None and not isinstance(data, bytes):
        raise TypeError(f"a reply's bytes are a {type(data).__name__}, not bytes")
    accept = content.get("accept")
    reply = Reply(
        None if text is None else text.encode(),
        data,
        None if accept is None else bool(accept),
        content.get("subprotocol"),
        _close_code(content.get("close")),
    )
    if not _OF_HANDSHAKE.isdisjoint(content):
        _read_handshake(reply, content)
    return reply


def _read_handshake(reply: Reply, content: Content) -> None:
    """What is said of the answer: ``headers`` at any time before, ``status`` and ``content`` with a refusal."""
    status, body = content.get("status"), content.get("content")
    if status is not None or body is not None:
        if reply.accept is not False:
            raise ValueError('a reply\'s status and content refuse a handshake; say {"accept": False}, too')
        if status is not None and not (type(status) is int and 200 <= status <= 599):
            raise ValueError(f"a refused handshake's status is {status!r}; it is a number from 200 to 599")
        if body is not None and not isinstance(body, bytes):
            raise TypeError(f"a refused handshake's content is a {type(body).__name__}, not bytes")
    reply.fields = field_lines(content.get("headers") or ())
    reply.status, reply.body = status, body


def _close_code(close: object) -> int | None:
    if close is None or close is False:
        return None
    if close is True:
        return NORMAL
    if not isinstance(close, int) or not may_be_sent(close):
        raise ValueError(f"a reply's close is {close!r}; it is True, or a code such as 1000 or 3000 to 4999")
    return close

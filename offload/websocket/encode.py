"""What consumers send to a client: a message's content to frames, a close, or the handshake's decision."""

from __future__ import annotations

from dataclasses import dataclass, field

from offload.consumers.reply_check import check_reply
from offload.interfaces import Content
from offload.protocol.http.response_head import field_lines
from offload.protocol.websocket.frames import (
    BINARY,
    NORMAL,
    SMALLEST_BYTES,
    TEXT,
    Extension,
    binary_frame,
    message_frame,
    text_frame,
)


@dataclass(slots=True, eq=False)
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

    text: bytes | None
    data: bytes | None
    accept: bool | None = None
    subprotocol: str | None = None
    close: int | None = None
    fields: bytes = b""
    status: int | None = None
    body: bytes | None = None
    _frames: dict[Extension | None, bytes] = field(default_factory=dict)

    @property
    def has_data(self) -> bool:
        """Whether it holds a message."""
        return self.text is not None or self.data is not None

    def frames(self, extension: Extension | None) -> bytes:
        """The messages as frames, built and compressed once for all connections that agreed to the same.

        Args:
            extension: a connection's agreement.
        """
        frames = self._frames.get(extension)
        if frames is None:
            frames = b""
            if self.text is not None:
                frames = message_frame(TEXT, self.text, extension)
            if self.data is not None:
                frames += message_frame(BINARY, self.data, extension)
            self._frames[extension] = frames
        return frames


def prepare(content: Content) -> bytes | Reply:
    """The frame of a small message, which is the same for all receivers; a `Reply` for everything else.

    Raises:
        ValueError, TypeError: a key is unknown, a value of the wrong type, or the close code reserved.
    """
    text = content.get("text")
    if len(content) == 1 and type(text) is str and len(text) < SMALLEST_BYTES:
        return text_frame(text)
    data = content.get("bytes")
    if len(content) == 1 and type(data) is bytes and len(data) < SMALLEST_BYTES:
        return binary_frame(data)
    check_reply(content)
    accept, close = content.get("accept"), content.get("close")
    return Reply(
        text=None if text is None else text.encode(),
        data=data,
        accept=None if accept is None else bool(accept),
        subprotocol=content.get("subprotocol"),
        close=None if close is None or close is False else NORMAL if close is True else close,
        fields=field_lines(content.get("headers") or ()),
        status=content.get("status"),
        body=content.get("content"),
    )


def join(prepared: list[bytes | Reply | None]) -> bytes | None:
    """The frames of several small messages, to be sent together; b"" where they are to be sent one by one.

    Args:
        prepared: of each message, in order; None where it is not prepared yet, and so is the whole.
    """
    if None in prepared:
        return None
    frames = [frame for frame in prepared if isinstance(frame, bytes)]
    return b"".join(frames) if len(frames) == len(prepared) else b""

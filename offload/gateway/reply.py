"""What consumers send to a client: a message's content to frames, a close, or the handshake's decision."""

from __future__ import annotations

from typing import NamedTuple

from offload.interfaces import Content
from offload.protocol.websocket import NORMAL, binary_frame, may_be_sent, text_frame

_KEYS = frozenset(("text", "bytes", "close", "accept", "subprotocol"))


class Reply(NamedTuple):
    """A reply that is more than data.

    Attributes:
        frames: encoded data, b"" for none.
        accept: the handshake's decision; None where it says nothing of it.
        subprotocol: chosen with `accept`.
        close: the code to close with, or None.
    """

    frames: bytes
    accept: bool | None
    subprotocol: str | None
    close: int | None


def prepare(content: Content) -> bytes | Reply:
    """The frames of a reply, or a `Reply` where it says more than data.

    Raises:
        ValueError, TypeError: a key is unknown, a value of the wrong type, or the close code reserved.
    """
    if len(content) == 1:
        text = content.get("text")
        if type(text) is str:
            return text_frame(text)
    unknown = content.keys() - _KEYS
    if unknown or not content:
        raise ValueError(
            f"a reply has the keys text, bytes, close, accept and subprotocol; this one has {sorted(content) or 'none'}"
        )
    frames = b""
    text, data = content.get("text"), content.get("bytes")
    if text is not None:
        if not isinstance(text, str):
            raise TypeError(f"a reply's text is a {type(text).__name__}, not a str; encode it, for instance as JSON")
        frames = text_frame(text)
    if data is not None:
        if not isinstance(data, bytes):
            raise TypeError(f"a reply's bytes are a {type(data).__name__}, not bytes")
        frames += binary_frame(data)
    accept, close = content.get("accept"), _close_code(content.get("close"))
    if accept is None and close is None:
        return frames
    return Reply(frames, None if accept is None else bool(accept), content.get("subprotocol"), close)


def _close_code(close: object) -> int | None:
    if close is None or close is False:
        return None
    if close is True:
        return NORMAL
    if not isinstance(close, int) or not may_be_sent(close):
        raise ValueError(f"a reply's close is {close!r}; it is True, or a code such as 1000 or 3000 to 4999")
    return close

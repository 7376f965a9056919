"""What a client's reply channel takes: checked in the consumer's own ``send``, where its author sees the mistake.

The process that owns the socket checks again what others have put there, for instance by way of a group.
"""

from __future__ import annotations

from offload.exceptions import near_matches
from offload.interfaces import DECIDES_KEY, Content
from offload.protocol.http.response_head import field_lines
from offload.protocol.websocket.frames import may_be_sent

REPLY_PREFIX = "websocket.send."
KEYS = ("text", "bytes", "close", "accept", "subprotocol", "headers", "status", "content")
HTTP_REPLY_PREFIX = "http.response."
HTTP_KEYS = ("status", "headers", "content", "more_content")


def check_reply(content: object) -> None:
    """Refuse what cannot be sent to a WebSocket. What is no dict is the layer's to refuse.

    Raises:
        ValueError: a key is unknown, or there is none, or the close code is reserved.
        TypeError: a value is of the wrong type.
    """
    if not isinstance(content, dict):
        return
    text = content.get("text")
    if len(content) == 1 and type(text) is str:
        return
    _check_keys(content, KEYS)
    if text is not None and not isinstance(text, str):
        raise TypeError(f"a reply's text is a {type(text).__name__}, not a str; encode it, for instance as JSON")
    data = content.get("bytes")
    if data is not None and not isinstance(data, bytes):
        raise TypeError(f"a reply's bytes are a {type(data).__name__}, not bytes")
    subprotocol = content.get("subprotocol")
    if subprotocol is not None and not isinstance(subprotocol, str):
        raise TypeError(f"a reply's subprotocol is a {type(subprotocol).__name__}, not a str")
    close = content.get("close")
    if close is not None and not isinstance(close, bool) and not (isinstance(close, int) and may_be_sent(close)):
        raise ValueError(f"a reply's close is {close!r}; it is True, or a code such as 1000 or 3000 to 4999")
    _check_answer(content)


def check_http_reply(content: object) -> None:
    """Refuse what cannot be a piece of an answer to a request. What is no dict is the layer's to refuse.

    Raises:
        ValueError: a key is unknown, or there is none, or the status is no answer's.
        TypeError: a value is of the wrong type.
    """
    if not isinstance(content, dict):
        return
    _check_keys(content, HTTP_KEYS)
    status, body = content.get("status"), content.get("content")
    if status is not None and not (type(status) is int and 200 <= status <= 599):
        raise ValueError(f"an answer's status is {status!r}; it is a number from 200 to 599")
    if headers := content.get("headers"):
        field_lines(headers)
    if body is not None and not isinstance(body, bytes):
        raise TypeError(f"an answer's content is a {type(body).__name__}, not bytes")


def _check_keys(content: Content, keys: tuple[str, ...]) -> None:
    for key in content:
        if key not in keys and key != DECIDES_KEY:
            near = near_matches(str(key), keys)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(keys)}"
            raise ValueError(f"a reply has no key {key!r}; {hint}")
    if not content:
        raise ValueError(f"a reply is empty; it has {', '.join(keys)}")


def _check_answer(content: Content) -> None:
    if headers := content.get("headers"):
        field_lines(headers)
    status, body = content.get("status"), content.get("content")
    if status is None and body is None:
        return
    accept = content.get("accept")
    if accept is None or accept:
        raise ValueError('a reply\'s status and content refuse a handshake; say {"accept": False}, too')
    if status is not None and not (type(status) is int and 200 <= status <= 599):
        raise ValueError(f"a refused handshake's status is {status!r}; it is a number from 200 to 599")
    if body is not None and not isinstance(body, bytes):
        raise TypeError(f"a refused handshake's content is a {type(body).__name__}, not bytes")

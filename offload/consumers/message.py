"""`Message`: what a consumer is called with."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from offload.consumers.channel import Channel
from offload.interfaces import Content, Layer


class Message(Mapping[str, Any]):
    """One message; also a mapping over its content. Decorators may hang further attributes on it.

    Args:
        content: the dict that was sent; its ``reply_channel`` names the client's channel.
        channel_name: the channel it was taken from.
        channel_layer: the layer it came through.
        reply_channel: the client's channel as an object, where there is one already.

    Attributes:
        content: the dict that was sent.
        reply_channel: the client's own channel, or None when the message comes from no client.
        channel_layer: the layer it came through.
        channel_session: the connection's session, with the decorator; else None.
        http_request: with Django, the handshake as it came through the project's middleware; None on later messages.
    """

    content: Content
    # A consumer of WebSockets always has one: type checkers must not ask it to look for None.
    reply_channel: Channel | Any
    channel_layer: Layer
    channel_session: Any = None
    http_request: Any = None
    _connection: Any = None
    """What the dispatch keeps for this message's connection, where it has one."""

    def __init__(
        self,
        content: Content,
        channel_name: str,
        channel_layer: Layer,
        reply_channel: Channel | None = None,
    ) -> None:
        self.content = content
        self.channel_name = channel_name
        self.channel_layer = channel_layer
        if reply_channel is None and isinstance(name := content.get("reply_channel"), str) and name:
            reply_channel = Channel(name, channel_layer=channel_layer)
        self.reply_channel = reply_channel

    @property
    def channel(self) -> Channel:
        """The channel it was taken from."""
        return Channel(self.channel_name, channel_layer=self.channel_layer)

    @property
    def latency(self) -> float | None:
        """Seconds that the client's last pong took; None before the first one, and where no client is."""
        return getattr(self._connection, "latency", None)

    @property
    def headers(self) -> list[list[bytes]] | None:
        """The handshake's header fields, ``[name, value]`` pairs with names in lower case, on all messages of a client.

        Later messages have them without the Sec-WebSocket-Key. None where no client is; and in `offload worker`
        processes (``--dispatch layer``) on all but connect messages.
        """
        headers: list[list[bytes]] | None = self.content.get("headers")
        return headers if headers is not None else getattr(self._connection, "headers", None)

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.content[key] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)

    def __bool__(self) -> bool:
        return True

    def copy(self) -> Message:
        """Another message with a deep copy of the content; without what decorators hung on this one."""
        content = copy.deepcopy(self.content)
        message = type(self)(content, self.channel_name, self.channel_layer, self.reply_channel)
        message._connection = self._connection
        return message

    # A message stands for itself: two clients may well say the same.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<Message on {self.channel_name} with {', '.join(self.content) or 'nothing'}>"


def message_among(arguments: Iterable[object]) -> Message:
    """The message that a decorated consumer was called with; a method has others before it.

    Raises:
        ValueError: there is none.
    """
    for argument in arguments:
        if isinstance(argument, Message):
            return argument
    raise ValueError("a decorator of consumers was called without a Message; it decorates what takes one by position")

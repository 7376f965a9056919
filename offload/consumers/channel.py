"""`Channel` and `Group`: the names through which consumers, views and scripts send."""

from __future__ import annotations

from typing import TypeVar

from offload.consumers import configuration
from offload.consumers.reply_check import HTTP_REPLY_PREFIX, REPLY_PREFIX, check_http_reply, check_reply
from offload.exceptions import InvalidChannelName, LayerUnreachable
from offload.interfaces import Client, Content, Layer

C = TypeVar("C", bound="Channel")


DELAY_CHANNEL = "asgi.delay"


class Channel(str):
    """A named queue, or one client's reply channel. It is its name: a string to store, pass on and compare.

    Args:
        name: letters, digits and ``-_.``, at most one ``!`` or ``?``, under 100 characters.
        alias: which configured layer carries it.
        channel_layer: that layer itself, where it is at hand.
    """

    __slots__ = ("_layer", "alias")
    alias: str
    _layer: Layer | None

    def __new__(cls: type[C], name: str, alias: str = configuration.DEFAULT, channel_layer: Layer | None = None) -> C:
        if not isinstance(name, str):
            raise InvalidChannelName(f"a channel's name is a {type(name).__name__}, not a str")
        self = super().__new__(cls, name)
        self.alias = alias
        self._layer = channel_layer
        return self

    @property
    def name(self) -> str:
        """The name as a plain `str`."""
        return str.__str__(self)

    @property
    def channel_layer(self) -> Layer:
        """The layer that carries this channel."""
        # Asked each time: a name lives longer than the layer that it was first used with.
        return self._layer or configuration.layer_for(self.alias)

    def send(self, content: Content, immediately: bool = True, delay: float = 0.0) -> None:
        """Put a message into the channel; it leaves at once.

        Args:
            content: a dict of str keys to None, bool, int, float, str, bytes, list or dict.
            immediately: accepted for code written for Channels 1; sends are always immediate.
            delay: seconds from now after which it is in the channel; what else it finds there was sent before.

        On ``asgi.delay`` a message is ``{"channel": ..., "content": {...}, "delay": milliseconds}``, as in Channels 1.

        Raises:
            ChannelFull: the queue is full. Reply channels of clients that are gone take messages and do nothing.
            TypeError, MessageTooLarge, LayerUnavailable: as they say.
            ValueError: no client's channel takes a reply with such keys.
        """
        if self.startswith(REPLY_PREFIX):
            check_reply(content)
        elif self.startswith(HTTP_REPLY_PREFIX):
            check_http_reply(content)
        try:
            layer = self._layer or self.channel_layer
            if self == DELAY_CHANNEL:
                _send_later(layer, content)
            elif delay:
                layer.send(self, content, delay)
            else:
                layer.send(self, content)
        except LayerUnreachable as error:
            configuration.unreachable(error)

    def __repr__(self) -> str:
        return f"Channel({str.__repr__(self)})"

    def __reduce__(self) -> tuple[type[Channel], tuple[str, str]]:
        return Channel, (self.name, self.alias)


class ReplyChannel(Channel):
    """One client's reply channel, as that client's own consumers have it.

    Attributes:
        client: takes what is sent while this process holds the client's WebSocket; else None.
    """

    __slots__ = ("client",)
    client: Client | None

    def __new__(cls, name: str, channel_layer: Layer) -> ReplyChannel:
        self = super().__new__(cls, name, channel_layer=channel_layer)
        self.client = None
        return self

    def send(self, content: Content, immediately: bool = True, delay: float = 0.0) -> None:
        """See `Channel.send`.

        Raises:
            ValueError: the content is no reply, such as one with an unknown key.
        """
        client = self.client
        if delay or client is None or not client.reply(content):
            super().send(content, delay=delay)


class Group:
    """A named set of channels; a message to it reaches each of them.

    Args:
        name: letters, digits and ``-_.``, under 100 characters.
        alias: which configured layer keeps it.
        channel_layer: that layer itself, where it is at hand.
    """

    __slots__ = ("_layer", "alias", "name")

    def __init__(self, name: str, alias: str = configuration.DEFAULT, channel_layer: Layer | None = None) -> None:
        self.name = name
        self.alias = alias
        self._layer = channel_layer

    @property
    def channel_layer(self) -> Layer:
        """The layer that keeps this group."""
        # Asked each time: a name lives longer than the layer that it was first used with.
        return self._layer or configuration.layer_for(self.alias)

    def add(self, channel: str) -> None:
        """Make a channel (or its name) a member. On return every later send, by anyone, reaches it."""
        self.channel_layer.group_add(self.name, _plain(channel))

    def discard(self, channel: str) -> None:
        """End a channel's membership. Not being a member is no error."""
        self.channel_layer.group_discard(self.name, _plain(channel))

    def send(self, content: Content, immediately: bool = True) -> None:
        """Send to each member at most once; never raises ChannelFull.

        Args:
            content: as for `Channel.send`.
            immediately: accepted for code written for Channels 1; sends are always immediate.
        """
        try:
            self.channel_layer.group_send(self.name, content)
        except LayerUnreachable as error:
            configuration.unreachable(error)

    def __repr__(self) -> str:
        return f"Group({self.name!r})"


def _send_later(layer: Layer, content: Content) -> None:
    """A message on ``asgi.delay``."""
    if not isinstance(content, dict) or content.keys() != {"channel", "content", "delay"}:
        raise ValueError('a message on "asgi.delay" is {"channel": ..., "content": {...}, "delay": milliseconds}')
    if isinstance(content["delay"], bool) or not isinstance(content["delay"], (int, float)):
        raise TypeError(f"the delay is a {type(content['delay']).__name__}, not a number of milliseconds")
    Channel(content["channel"], channel_layer=layer).send(content["content"], delay=content["delay"] / 1000)


def _plain(channel: str) -> str:
    # What a layer keeps for long should not keep this object, and the layer it points to, alive.
    return channel.name if isinstance(channel, Channel) else channel

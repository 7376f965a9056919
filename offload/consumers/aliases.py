"""`channel_layers` and `get_channel_layer`: the configured layers by alias, as Channels 1 has them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from offload.consumers import configuration
from offload.consumers.routing import Router
from offload.exceptions import ChannelFull, MessageTooLarge
from offload.interfaces import Content, Layer

DEFAULT_CHANNEL_LAYER = configuration.DEFAULT
"""The alias of the layer that is used where none is named."""


def get_channel_layer(alias: str = configuration.DEFAULT) -> Layer:
    """The layer of an alias.

    Raises:
        ConfigurationError: it was never configured, or its address is wrong.
    """
    return configuration.layer_for(alias)


class AliasedLayer:
    """A configured layer, with what Channels 1 had beside it; all other names are the layer's own.

    Args:
        alias: under which it is configured.
    """

    ChannelFull = ChannelFull
    MessageTooLarge = MessageTooLarge

    def __init__(self, alias: str) -> None:
        self.alias = alias

    @property
    def channel_layer(self) -> Layer:
        """The layer itself."""
        return configuration.layer_for(self.alias)

    @property
    def router(self) -> Router:
        """The routing of this alias, checked."""
        return configuration.router_for(self.alias)

    @property
    def routing(self) -> Any:
        """The routing as it was configured."""
        return configuration.router_source(self.alias) or []

    def receive_many(self, channels: Collection[str], block: bool = False) -> tuple[str, Content] | tuple[None, None]:
        """The next message of any of these channels, and its channel; ``(None, None)`` when there is none.

        Args:
            channels: names.
            block: whether to wait for one.
        """
        return self.channel_layer.receive(channels, None if block else 0) or (None, None)

    def send_group(self, group: str, content: Content) -> None:
        """See `offload.Group.send`."""
        self.channel_layer.group_send(group, content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.channel_layer, name)

    def __str__(self) -> str:
        return f"{self.alias} ({type(self.channel_layer).__qualname__})"


class _ChannelLayers(Mapping[str, AliasedLayer]):
    """The configured layers by alias."""

    def __getitem__(self, alias: str) -> AliasedLayer:
        if not configuration.is_configured(alias):
            raise KeyError(alias)
        return AliasedLayer(alias)

    def __iter__(self) -> Iterator[str]:
        return iter(configuration.aliases())

    def __len__(self) -> int:
        return len(configuration.aliases())


channel_layers = _ChannelLayers()
"""The configured layers, by their aliases."""

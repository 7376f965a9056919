"""What applications are written with: channels, groups, messages, routing, class-based consumers, sessions."""

from offload.consumers.aliases import DEFAULT_CHANNEL_LAYER, channel_layers, get_channel_layer
from offload.consumers.channel import Channel, Group
from offload.consumers.classes import (
    BaseConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
    WebsocketDemultiplexer,
    WebsocketMultiplexer,
)
from offload.consumers.configuration import configure, statistics
from offload.consumers.message import Message
from offload.consumers.routing import include, route, route_class

__all__ = [
    "DEFAULT_CHANNEL_LAYER",
    "BaseConsumer",
    "Channel",
    "Group",
    "JsonWebsocketConsumer",
    "Message",
    "WebsocketConsumer",
    "WebsocketDemultiplexer",
    "WebsocketMultiplexer",
    "channel_layers",
    "configure",
    "get_channel_layer",
    "include",
    "route",
    "route_class",
    "statistics",
]

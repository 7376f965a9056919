"""What applications are written with: channels, groups, messages, routing, class-based consumers, sessions."""

from offload.consumers.channel import Channel, Group
from offload.consumers.classes import BaseConsumer, JsonWebsocketConsumer, WebsocketConsumer
from offload.consumers.configuration import configure
from offload.consumers.message import Message
from offload.consumers.routing import include, route, route_class

__all__ = [
    "BaseConsumer",
    "Channel",
    "Group",
    "JsonWebsocketConsumer",
    "Message",
    "WebsocketConsumer",
    "configure",
    "include",
    "route",
    "route_class",
]

"""WebSockets for synchronous Python: a gevent WSGI server, consumers, and channel layers."""

from offload.consumers import (
    DEFAULT_CHANNEL_LAYER,
    Channel,
    Group,
    Message,
    channel_layers,
    configure,
    get_channel_layer,
    include,
    route,
    route_class,
    statistics,
)
from offload.consumers.user import User
from offload.exceptions import ConsumeLater, DenyConnection

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_CHANNEL_LAYER",
    "Channel",
    "ConsumeLater",
    "DenyConnection",
    "Group",
    "Message",
    "User",
    "channel_layers",
    "configure",
    "get_channel_layer",
    "include",
    "route",
    "route_class",
    "statistics",
]

"""WebSockets for synchronous Python: a gevent WSGI server, consumers, and channel layers.

The names that applications use are imported when first asked for: the supervisor has no use for them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from offload.exceptions import ConsumeLater, DenyConnection

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    if name not in __all__ and name != "consumers":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module("offload.consumers.user" if name == "User" else "offload.consumers")
    found = module if name == "consumers" else getattr(module, name)
    globals()[name] = found
    return found

"""Names of Channels 1.1 and its layers, and what stands for each here.

The page ``docs/howto/from-channels-1.md`` tells the same to people.
"""

from __future__ import annotations

Place = tuple[str, str]
"""A module, and a name in it."""

_DECORATORS = "django_offload.decorators"
_CONSUMERS = "offload.consumers"
_TESTING = "django_offload.testing"


def _all(module: str, *names: str) -> dict[str, Place]:
    return {name: (module, name) for name in names}


_ROUTING = {
    **_all("offload", "route", "route_class", "include"),
    "Route": ("offload", "route"),
    "RouteClass": ("offload", "route_class"),
    "Include": ("offload", "include"),
    "Router": ("offload.consumers.routing", "Router"),
}
_LAYERS = _all("offload", "channel_layers", "get_channel_layer")
_SESSIONS = {
    **_all(_DECORATORS, "channel_session", "http_session", "channel_and_http_session", "enforce_ordering"),
    "session_for_reply_channel": ("offload.consumers.sessions", "session_for_reply_channel"),
}
_USERS = _all(
    _DECORATORS,
    "channel_session_user",
    "http_session_user",
    "channel_session_user_from_http",
    "channel_and_http_session_user_from_http",
    "transfer_user",
)
_BINDING = _all("django_offload.binding", "Binding", "CREATE", "UPDATE", "DELETE")
_TESTS = _all(
    _TESTING,
    "ChannelTestCase",
    "TransactionChannelTestCase",
    "ChannelLiveServerTestCase",
    "Client",
    "WSClient",
    "apply_routes",
) | {"HttpClient": (_TESTING, "WSClient")}

IMPORTS: dict[str, dict[str, Place]] = {
    "channels": {
        **_all("offload", "Channel", "Group", "DEFAULT_CHANNEL_LAYER", "route", "route_class", "include"),
        **_LAYERS,
    },
    "channels.channel": _all("offload", "Channel", "Group"),
    "channels.message": _all("offload", "Message"),
    "channels.routing": _ROUTING,
    "channels.asgi": _LAYERS,
    "channels.sessions": _SESSIONS,
    "channels.auth": {**_USERS, **_SESSIONS},
    "channels.security.websockets": _all(_DECORATORS, "allowed_hosts_only"),
    "channels.generic": _all(_CONSUMERS, "BaseConsumer"),
    "channels.generic.base": _all(_CONSUMERS, "BaseConsumer"),
    "channels.generic.websockets": _all(
        _CONSUMERS,
        "BaseConsumer",
        "WebsocketConsumer",
        "JsonWebsocketConsumer",
        "WebsocketDemultiplexer",
        "WebsocketMultiplexer",
    ),
    "channels.binding": _BINDING,
    "channels.binding.base": _BINDING,
    "channels.binding.websockets": _all("django_offload.binding", "WebsocketBinding", "WebsocketBindingWithMembers"),
    "channels.exceptions": _all(
        "offload.exceptions",
        "ConsumeLater",
        "DenyConnection",
        "ChannelSocketException",
        "WebsocketCloseException",
        "SendNotAvailableOnDemultiplexer",
        "ResponseLater",
        "RequestTimeout",
        "RequestAborted",
    ),
    "channels.handler": _all("django_offload.handler", "AsgiRequest", "AsgiHandler", "ViewConsumer"),
    "channels.signals": _all("django_offload.signals", "consumer_started", "consumer_finished", "worker_ready"),
    "channels.test": _TESTS,
    "channels.test.base": _TESTS,
    "channels.test.websocket": _TESTS,
    "channels.test.http": _TESTS,
    "channels.test.liveserver": _TESTS,
    "channels.tests": _TESTS,
    "channels.tests.base": _TESTS,
    "channels.tests.http": _TESTS,
    "asgiref.inmemory": {"ChannelLayer": ("offload.layers.memory", "MemoryLayer")},
    "asgi_redis": {"RedisChannelLayer": ("offload.layers.redis", "RedisLayer")},
    "asgi_redis.core": {"RedisChannelLayer": ("offload.layers.redis", "RedisLayer")},
    "asgi_ipc": {"IPCChannelLayer": ("offload.layers.ipc", "IPCLayer")},
}
"""By the module of Channels: its names, and what stands for them."""

PACKAGES = ("channels", "asgi_redis", "asgi_ipc", "asgi_rabbitmq", "asgiref.inmemory", "asgiref.base_layer", "daphne")
"""What an import begins with that has to go, whether or not it is in `IMPORTS`."""

BACKENDS = {
    "asgiref.inmemory.ChannelLayer": "offload.layers.memory.MemoryLayer",
    "asgi_ipc.IPCChannelLayer": "offload.layers.ipc.IPCLayer",
    "asgi_ipc.core.IPCChannelLayer": "offload.layers.ipc.IPCLayer",
    "asgi_redis.RedisChannelLayer": "offload.layers.redis.RedisLayer",
    "asgi_redis.core.RedisChannelLayer": "offload.layers.redis.RedisLayer",
    "asgi_redis.RedisLocalChannelLayer": "offload.layers.redis.RedisLayer",
    "asgi_redis.local.RedisLocalChannelLayer": "offload.layers.redis.RedisLayer",
    "channels_redis.core.RedisChannelLayer": "offload.layers.redis.RedisLayer",
    "channels_redis.pubsub.RedisPubSubChannelLayer": "offload.layers.redis.RedisLayer",
    "channels.layers.InMemoryChannelLayer": "offload.layers.memory.MemoryLayer",
}
"""By the ``BACKEND`` of other packages: the one to write."""

APPS = {"channels": "django_offload", "channels.delay": None, "daphne": None}
"""By the entry of ``INSTALLED_APPS``: the one to write; None for none."""

CONFIG_KEYS = {"symmetric_encryption_keys": "encryption_keys"}
"""Names in ``CONFIG`` that have another one here."""
KNOWN_CONFIG = frozenset(
    ("hosts", "prefix", "expiry", "capacity", "channel_capacity", "group_expiry", "encryption_keys", "path")
)
"""Names in ``CONFIG`` that mean the same here."""

SETTINGS = {
    "CHANNEL_SESSION_ENGINE": "channel sessions live in the layer; delete it",
    "ASGI_APPLICATION": "the server runs WSGI_APPLICATION; delete it",
}
"""Settings that mean nothing here."""

ATTRIBUTES = {
    "receive_many": "a layer has receive(channels, timeout); channel_layers[alias] has receive_many, too",
    "send_group": "a layer has group_send(group, content); so does Group(name).send(content)",
    "pending_message_store": "sends leave at once; nothing is pending",
}
"""Names of attributes that are worth a look."""

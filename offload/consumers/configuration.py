"""Which layer, routing and policies this process uses: what `configure` was told, by alias.

The only process-wide state of offload. Layers are imported, and built from their addresses, when first used: so
configuring costs nothing, a process may fork after it, and one without a layer has none of their code.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from json import JSONEncoder
from typing import Any

from offload import at_fork
from offload.consumers.routing import Router
from offload.exceptions import ConfigurationError, LayerUnreachable
from offload.interfaces import Layer

LayerSource = str | Sequence[str] | Layer | Callable[[], Layer]
RoutingSource = str | Sequence[Any]
OriginPolicy = Callable[[str, str], bool]
Hook = Callable[[], None]
StatisticsSource = Callable[[], Mapping[str, float]]
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

DEFAULT = "default"

log = logging.getLogger("offload.layer")


@dataclass
class _Alias:
    source: LayerSource
    routing: RoutingSource | None = None
    directory: str | None = None
    layer: Layer | None = None
    router: Router | None = None


@dataclass
class _State:
    aliases: dict[str, _Alias] = field(default_factory=dict)
    origins: OriginPolicy | None = None
    started: list[Hook] = field(default_factory=list)
    finished: list[Hook] = field(default_factory=list)
    after_request: list[Hook] = field(default_factory=list)
    worker_ready: list[Hook] = field(default_factory=list)
    decorators: dict[str, Decorator] = field(default_factory=dict)
    handshake: Decorator | None = None
    logs_unreachable: bool = False
    json_encoder: type[JSONEncoder] = JSONEncoder
    accept: str | None = None
    statistics: dict[str, StatisticsSource] = field(default_factory=dict)


_state = _State()
_lock = threading.RLock()


def _after_fork() -> None:
    # A thread that is not in the child may have been making a layer.
    global _lock
    _lock = threading.RLock()


at_fork.in_child(_after_fork)


def configure(
    layer: LayerSource | None = None,
    *,
    alias: str = DEFAULT,
    routing: RoutingSource | None = None,
    origins: OriginPolicy | None = None,
    started: Hook | None = None,
    finished: Hook | None = None,
    after_request: Hook | None = None,
    worker_ready: Hook | None = None,
    json_encoder: type[JSONEncoder] | None = None,
    decorators: Mapping[str, Decorator] | None = None,
    handshake: Decorator | None = None,
    missing_layer: str | None = None,
    accept: str | None = None,
) -> None:
    """Say once, at start, what `Channel` and `Group` of this process use.

    Args:
        layer: an address such as ``redis://127.0.0.1:6379/0`` (or several, for shards), a layer object, or a
            callable that makes one. It connects when it is first used. ``ipc:`` means the directory of this call.
        alias: the name under which ``Channel(name, alias=...)`` finds it. Configuring an alias again replaces it, and
            closes its layer, unless another alias has it or a callable made it.
        routing: a list of routes, or its dotted path, for the consumers of this alias.
        origins: ``policy(origin, host) -> bool`` decides which pages may open WebSockets; both as the handshake's
            header fields say, without one "" is given for the host.
        started, finished: called around each consumer, in its greenlet.
        after_request: called after each request of the WSGI application, in its greenlet, however it ended.
        worker_ready: called once in each `offload worker` process, when it is about to take messages.
        json_encoder: encodes what `WebsocketMultiplexer` sends.
        decorators: what wraps the handlers of consumer classes that set the attribute of this name, such as
            ``http_user``, to True.
        handshake: what wraps every connect consumer, also where none is routed. It may answer in the consumer's place
            by a reply ``{"accept": False, "status": 302, "headers": [[name, value]], "content": b""}``.
        missing_layer: what a send through a layer that cannot be reached does: ``raise`` (`LayerUnreachable`), or
            ``log`` a warning and lose the message.
        accept: ``implicit``: a connect consumer that returns accepts the handshake; ``explicit``: it refuses, unless it
            has said that it accepts. The server's own ``--accept`` goes before it.
    """
    if missing_layer not in (None, "raise", "log"):
        raise ConfigurationError(f"missing_layer is {missing_layer!r}; it is 'raise' or 'log'")
    if accept not in (None, "implicit", "explicit"):
        raise ConfigurationError(f"accept is {accept!r}; it is 'implicit' or 'explicit'")
    with _lock:
        if layer is not None:
            previous = _state.aliases.get(alias)
            # Not the one in which the process happens to be when the layer is first used.
            directory = os.getcwd() if isinstance(layer, str) and layer.lstrip().lower().startswith("ipc:") else None
            _state.aliases[alias] = _Alias(layer, routing, directory)
            if previous is not None:
                _close_unless_used(previous)
        elif routing is not None:
            if alias not in _state.aliases:
                raise ConfigurationError(f"alias {alias!r} has routing but no layer; give configure() its address, too")
            _state.aliases[alias].routing = routing
            _state.aliases[alias].router = None
        if origins is not None:
            _state.origins = origins
        for hook, hooks in (
            (started, _state.started),
            (finished, _state.finished),
            (after_request, _state.after_request),
            (worker_ready, _state.worker_ready),
        ):
            if hook is not None and hook not in hooks:
                hooks.append(hook)
        if json_encoder is not None:
            _state.json_encoder = json_encoder
        if decorators is not None:
            _state.decorators.update(decorators)
        if handshake is not None:
            _state.handshake = handshake
        if missing_layer is not None:
            _state.logs_unreachable = missing_layer == "log"
        if accept is not None:
            _state.accept = accept


def _close_unless_used(previous: _Alias) -> None:
    layer = previous.layer
    if layer is None or callable(previous.source):
        return  # what a callable has made may be what it, or another one, makes next time; dropped, it ends by itself
    if not any(layer is entry.source or layer is entry.layer for entry in _state.aliases.values()):
        layer.close()


def is_configured(alias: str = DEFAULT) -> bool:
    """Whether `configure` was given a layer for this alias."""
    return alias in _state.aliases


def aliases() -> list[str]:
    """The configured aliases."""
    return list(_state.aliases)


def layer_for(alias: str = DEFAULT) -> Layer:
    """The layer of an alias, built on first use.

    Raises:
        ConfigurationError: the alias was never configured, or its address is wrong.
    """
    entry = _state.aliases.get(alias)
    if entry is None:
        known = ", ".join(map(repr, _state.aliases)) or "none"
        raise ConfigurationError(
            f"no channel layer is configured as {alias!r} (configured: {known}); "
            'call offload.configure("redis://127.0.0.1:6379/0"), or set CHANNEL_LAYERS in Django\'s settings'
        )
    if entry.layer is None:
        with _lock:
            if entry.layer is None:
                entry.layer = _build(entry.source, entry.directory)
    return entry.layer


def _build(source: LayerSource, directory: str | None) -> Layer:
    if isinstance(source, (str, Sequence)):
        from offload.layers.addresses.urls import layer_from_url

        return layer_from_url(source if isinstance(source, str) else list(source), directory=directory)
    return source() if callable(source) else source


def router_for(alias: str = DEFAULT) -> Router:
    """The compiled routing of an alias; empty when it has none.

    Raises:
        ConfigurationError: a routing entry is wrong; the message names it.
    """
    entry = _state.aliases.get(alias)
    if entry is None:
        return Router([])
    if entry.router is None:
        router = Router(entry.routing if entry.routing is not None else [])
        router.check()
        entry.router = router
    return entry.router


def router_source(alias: str = DEFAULT) -> RoutingSource | None:
    """The routing that an alias was configured with, or None."""
    entry = _state.aliases.get(alias)
    return None if entry is None else entry.routing


def close(alias: str) -> None:
    """Give back the connections of an alias's layer, if it has been used."""
    entry = _state.aliases.get(alias)
    if entry is not None and entry.layer is not None:
        entry.layer.close()


def unreachable(error: LayerUnreachable) -> None:
    """A send found its layer away.

    Raises:
        LayerUnreachable: this one, unless `configure` was told to log it.
    """
    if not _state.logs_unreachable:
        raise error
    log.warning("a message is lost: %s", error)


def origin_policy() -> OriginPolicy | None:
    """The policy given to `configure`, or None."""
    return _state.origins


def accept_mode() -> str | None:
    """What was given to `configure` as ``accept``, or None."""
    return _state.accept


def hooks() -> tuple[list[Hook], list[Hook]]:
    """What runs before and after each consumer; the live lists."""
    return _state.started, _state.finished


def request_hooks() -> list[Hook]:
    """What runs after each request; the live list."""
    return _state.after_request


def handshake_decorator() -> Decorator | None:
    """What was given to `configure` to wrap connect consumers, or None."""
    return _state.handshake


def worker_hooks() -> list[Hook]:
    """What runs when a worker process is ready; the live list."""
    return _state.worker_ready


def json_encoder() -> type[JSONEncoder]:
    """The encoder given to `configure`, or Python's own."""
    return _state.json_encoder


def decorator_for(name: str) -> Decorator:
    """The decorator that a consumer class's attribute `name` stands for.

    Raises:
        ConfigurationError: nobody gave one.
    """
    try:
        return _state.decorators[name]
    except KeyError:
        raise ConfigurationError(
            f"{name} = True needs Django's sessions and users; add 'django_offload' to INSTALLED_APPS"
        ) from None


def add_statistics(name: str, source: StatisticsSource) -> None:
    """Have `statistics` ask this, too, and no other one that was added by this name."""
    _state.statistics[name] = source


def statistics() -> dict[str, float]:
    """What this process has counted since its start, by name.

    In a server process: its requests (``http.*``), its WebSockets (``websocket.*``) and each layer that it uses
    (``layer.ALIAS.*``); elsewhere the layers alone. Other processes count for themselves. The page "Statistics" of the
    reference says what each number means.
    """
    found: dict[str, float] = {}
    for source in list(_state.statistics.values()):
        found.update(source())
    for alias, entry in list(_state.aliases.items()):
        if entry.layer is not None:
            found.update({f"layer.{alias}.{name}": count for name, count in entry.layer.statistics().items()})
    return found


def reset() -> None:
    """Forget everything and close the layers. For tests."""
    global _state
    with _lock:
        old, _state = _state, _State()
        for entry in old.aliases.values():
            if entry.layer is not None:
                entry.layer.close()

"""Layer addresses, such as ``redis://host:6379/0?prefix=app:&expiry=30``, to layers.

Knows which backend a scheme means and loads it only then. Query arguments are the layer's settings. Addresses may hold
passwords: complaints show an address without them.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from offload.exceptions import ConfigurationError
from offload.interfaces import Layer
from offload.layers.base import LayerBase
from offload.layers.settings import SETTING_NAMES, unknown_setting

SCHEMES = {
    "memory": "memory",
    "ipc": "ipc",
    "redis": "redis",
    "rediss": "redis",
    "redis+unix": "redis",
    "redis+sentinel": "redis",
    "redis+cluster": "redis",
    "rediss+sentinel": "redis",
    "rediss+cluster": "redis",
}

_BACKENDS = {
    "memory": ("offload.layers.memory", "MemoryLayer"),
    "ipc": ("offload.layers.ipc", "IPCLayer"),
    "redis": ("offload.layers.redis", "RedisLayer"),
}
_BETWEEN_SHARDS = re.compile(r"\s*,\s*(?=[A-Za-z][A-Za-z0-9+.\-]*:/)")  # commas also stand between hosts
_CREDENTIALS = re.compile(r"//[^/?#\s]*@")


def layer_from_url(url: str | Iterable[str], max_size: int | None = None) -> Layer:
    """Build the layer that an address names; nothing is connected yet.

    Args:
        url: one address, several separated by commas, or several: the shards of one layer.
        max_size: the setting of this name where the address has none.

    Raises:
        ConfigurationError: one sentence, with the nearest right name.
    """
    addresses = [
        part for text in ([url] if isinstance(url, str) else url) for part in _BETWEEN_SHARDS.split(text.strip())
    ]
    if not addresses or not all(addresses):
        raise ConfigurationError(
            "layer address is empty; an address looks like 'memory://', 'ipc:' or 'redis://host:6379/0'"
        )
    kinds = {_kind(address): address for address in addresses}
    if len(kinds) > 1:
        raise ConfigurationError(f"layer addresses {', '.join(map(_shown, addresses))} name different kinds of layers")
    kind = next(iter(kinds))
    if kind != "redis" and len(addresses) > 1:
        raise ConfigurationError(f"layer {kind!r} takes one address, not {len(addresses)}; only Redis has shards")
    arguments = [_target(kind, address) for address in addresses]
    backend = _load(kind)
    settings = _settings(kind, backend, addresses)
    if max_size is not None:
        settings.setdefault("max_size", max_size)
    if kind == "redis":
        settings["hosts"] = arguments
    elif kind == "ipc":
        settings["path"] = arguments[0]
    # A backend is a subclass whose constructor takes more than the base's.
    return cast("Any", backend)(**settings)  # type: ignore[no-any-return]


def _kind(address: str) -> str:
    scheme, colon, _ = address.partition(":")
    if not colon:
        raise ConfigurationError(f"layer address {_shown(address)} has no scheme; did you mean 'redis://{address}'?")
    kind = SCHEMES.get(scheme.lower())
    if kind is None:
        near = difflib.get_close_matches(scheme.lower(), SCHEMES, 1)
        remedy = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(SCHEMES)}"
        raise ConfigurationError(f"layer address {_shown(address)} has the unknown scheme {scheme!r}; {remedy}")
    return kind


def _target(kind: str, address: str) -> str | None:
    """What the backend is given: the address without the settings, or a path."""
    parts = urlsplit(address)
    if kind == "memory":
        if parts.netloc or parts.path:
            raise ConfigurationError(f"layer address {_shown(address)} names a place; the memory layer is 'memory://'")
        return None
    if kind == "ipc":
        if parts.netloc:
            raise ConfigurationError(
                f"layer address {_shown(address)} names the host {parts.netloc!r};"
                " a socket's path takes three slashes: 'ipc:///path/to.sock'"
            )
        return unquote(parts.path) or None
    target = address.partition("?")[0].partition("#")[0]
    services = [value for name, value in parse_qsl(parts.query) if name == "service"]
    return f"{target}?service={quote(services[0])}" if services else target


def _load(kind: str) -> type[LayerBase]:
    module, name = _BACKENDS[kind]
    backend: type[LayerBase] = getattr(importlib.import_module(module), name)
    return backend


def _settings(kind: str, backend: type[LayerBase], addresses: Iterable[str]) -> dict[str, Any]:
    """The settings in all the addresses' queries; a later address may repeat one, but not with another value."""
    settings: dict[str, Any] = {}
    for address in addresses:
        found: dict[str, Any] = {}
        for name, text in parse_qsl(urlsplit(address).query, keep_blank_values=True):
            if kind == "redis" and name == "service":
                continue  # tells the address of a master, and sets nothing
            if name == "channel_capacity":
                glob, colon, number = text.rpartition(":")
                if not (colon and glob):
                    raise ConfigurationError(
                        f"layer setting channel_capacity={text!r} must be GLOB:NUMBER, such as 'thumbnails.*:500'"
                    )
                found.setdefault(name, {})[glob] = _value(name, number)
            elif name == "encryption_keys":
                found.setdefault(name, []).append(text)
            elif name in found:
                raise ConfigurationError(f"layer address {_shown(address)} sets {name!r} twice")
            elif name in backend.extra_settings:
                try:
                    found[name] = backend.extra_settings[name](text)
                except ValueError as error:
                    raise ConfigurationError(f"layer setting {name}={text!r} is wrong: {error}") from None
            elif name in SETTING_NAMES:
                found[name] = _value(name, text)
            else:
                raise unknown_setting(name, kind, backend.extra_settings)
        for name, value in found.items():
            if settings.setdefault(name, value) != value:
                if name == "encryption_keys":
                    raise ConfigurationError("layer addresses set different 'encryption_keys'; one layer has one list")
                raise ConfigurationError(
                    f"layer addresses set {name!r} to {settings[name]!r} and to {value!r}; one layer has one value"
                )
    return settings


def _value(name: str, text: str) -> Any:
    if name == "prefix":
        return text
    kind, noun = (float, "a number of seconds") if name.endswith("expiry") else (int, "a whole number")
    try:
        return kind(text)
    except ValueError:
        raise ConfigurationError(f"layer setting {name}={text!r} must be {noun}") from None


def _shown(address: str) -> str:
    return repr(_CREDENTIALS.sub("//***@", address.partition("?")[0]))

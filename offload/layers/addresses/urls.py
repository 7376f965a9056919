"""Layer addresses, such as ``redis://host:6379/0?prefix=app:&expiry=30``, to layers.

Knows which layer a scheme means and loads it only then: ours, or one that an installed package names in the entry point
group ``offload.layers``, whose class is called with the address and with settings. Query arguments are the layer's
settings. Addresses may hold passwords: complaints show an address without them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, quote, unquote

from offload.exceptions import ConfigurationError, near_matches
from offload.interfaces import Layer
from offload.layers.addresses.schemes import (
    SCHEMES,
    SECRET_SETTINGS,
    installed_layers,
    may_have_secrets,
    parts_of,
    shown,
    split_addresses,
)
from offload.layers.front import LayerBase
from offload.layers.words.settings import PREFIX, PREFIX_RULE, SETTING_NAMES, nearest_setting

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_BACKENDS = {
    "memory": ("offload.layers.memory", "MemoryLayer"),
    "ipc": ("offload.layers.ipc", "IPCLayer"),
    "redis": ("offload.layers.redis", "RedisLayer"),
}


def layer_from_url(url: str | Iterable[str], max_size: int | None = None, directory: str | None = None) -> Layer:
    """Build the layer that an address names; nothing is connected yet.

    Args:
        url: one address, several separated by commas, or several: the shards of one layer.
        max_size: the setting of this name where the address has none.
        directory: the project's, where the address is ``ipc:`` and no more; by default the current one.

    Raises:
        ConfigurationError: one sentence, with the nearest right name.
    """
    addresses = [part for text in ([url] if isinstance(url, str) else url) for part in split_addresses(text)]
    if not addresses or not all(addresses):
        raise ConfigurationError(
            "layer address is empty; an address looks like 'memory://', 'ipc:' or 'redis://host:6379/0'"
        )
    kinds = {_kind(address): address for address in addresses}
    if len(kinds) > 1:
        names = ", ".join(repr(shown(address)) for address in addresses)
        raise ConfigurationError(f"layer addresses {names} name different kinds of layers")
    kind = next(iter(kinds))
    if kind != "redis" and len(addresses) > 1:
        raise ConfigurationError(f"layer {kind!r} takes one address, not {len(addresses)}; only Redis has shards")
    arguments = [_target(kind, address) for address in addresses]
    backend = _load(kind)
    settings = _settings(kind, backend, addresses)
    if max_size is not None and "max_size" not in settings:
        largest = backend.largest_size(bool(settings.get("encryption_keys")))
        settings["max_size"] = max_size if largest is None else min(max_size, largest)
    if kind == "redis":
        settings["hosts"] = arguments
    elif kind == "ipc":
        settings.update(path=arguments[0], directory=directory)
    elif kind != "memory":
        settings["address"] = arguments[0]
    # A backend is a subclass whose constructor takes more than the base's.
    return cast("Any", backend)(**settings)  # type: ignore[no-any-return]


def _kind(address: str) -> str:
    scheme, colon, _ = address.partition(":")
    if not colon:
        raise ConfigurationError(
            f"layer address {shown(address)!r} has no scheme; did you mean 'redis://{shown(address)}'?"
        )
    kind = SCHEMES.get(scheme.lower())
    if kind is None:
        installed = installed_layers()
        if scheme.lower() in installed:
            return scheme.lower()
        known = [*SCHEMES, *sorted(installed)]
        near = near_matches(scheme.lower(), known)
        remedy = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        # Without a scheme, this is the user.
        named = f"the unknown scheme {scheme!r}" if shown(address).startswith(f"{scheme}:") else "an unknown scheme"
        raise ConfigurationError(f"layer address {shown(address)!r} has {named}; {remedy}")
    return kind


def _target(kind: str, address: str) -> str | None:
    """What the backend is given: the address without the settings, or a path."""
    parts = parts_of(address)
    if kind == "memory":
        if parts.netloc or parts.path:
            raise ConfigurationError(f"layer address {shown(address)!r} names a place; the memory layer is 'memory://'")
        return None
    if kind == "ipc":
        if parts.netloc:
            raise ConfigurationError(
                f"layer address {shown(address)!r} names a host; a socket's path takes three slashes:"
                " 'ipc:///path/to.sock'"
            )
        return unquote(parts.path) or None
    target = address.partition("?")[0]
    services = [value for name, value in parse_qsl(parts.query) if name == "service"]
    return f"{target}?service={quote(services[0])}" if services else target


def _load(kind: str) -> type[LayerBase]:
    if kind in _BACKENDS:
        module, name = _BACKENDS[kind]
        backend: type[LayerBase] = getattr(importlib.import_module(module), name)
        return backend
    point = installed_layers()[kind]
    try:
        found = point.load()
    except Exception as error:
        raise ConfigurationError(
            f"layer {kind!r} of the installed {_package(point)} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, LayerBase)):
        raise ConfigurationError(
            f"layer {kind!r} of the installed {_package(point)} is {point.value!r}, which is no subclass of"
            " offload.layers.front.LayerBase"
        )
    return found


def _package(point: EntryPoint) -> str:
    return f"package {point.dist.name!r}" if point.dist is not None else "package"


def _settings(kind: str, backend: type[LayerBase], addresses: Iterable[str]) -> dict[str, Any]:
    """The settings in all the addresses' queries; a later address may repeat one, but not with another value."""
    settings: dict[str, Any] = {}
    secret: set[str] = set(SECRET_SETTINGS)
    for address in addresses:
        found = _settings_of(kind, backend, address)
        if may_have_secrets(address):
            secret.update(found)
        for name, value in found.items():
            if settings.setdefault(name, value) != value:
                values = "several values" if name in secret else f"{settings[name]!r} and to {value!r}"
                raise ConfigurationError(f"layer addresses set {name!r} to {values}; one layer has one value")
    return settings


def _settings_of(kind: str, backend: type[LayerBase], address: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, text in parse_qsl(parts_of(address).query, keep_blank_values=True):
        if kind == "redis" and name == "service":
            continue  # tells the address of a master, and sets nothing
        if name not in SETTING_NAMES and name not in backend.extra_settings:
            raise _unknown(name, kind, backend, address)
        try:
            if name == "channel_capacity":
                found.setdefault(name, {}).update(_capacity(text))
            elif name == "encryption_keys":
                found.setdefault(name, []).append(text)
            elif name in found:
                raise ConfigurationError(f"layer address {shown(address)!r} sets {name!r} twice")
            else:
                found[name] = _value(name, text, backend)
        except ValueError as error:
            if may_have_secrets(address):
                raise ConfigurationError(
                    f"layer setting {name!r} has a wrong value in the address {shown(address)!r}"
                ) from None
            raise ConfigurationError(f"layer setting {name}={text!r} {error}") from None
    return found


def _unknown(name: str, kind: str, backend: type[LayerBase], address: str) -> ConfigurationError:
    near, remedy = nearest_setting(name, backend.extra_settings)
    # What is like no setting, or stands among secrets, may be a piece of one.
    what = f"no setting {name!r}" if near and not may_have_secrets(address) else "no such setting as the address has"
    return ConfigurationError(f"layer {kind!r} has {what}; {remedy}")


def _capacity(text: str) -> dict[str, int]:
    glob, colon, number = text.rpartition(":")
    if not (colon and glob and number.isdecimal() and int(number)):
        raise ValueError("must be GLOB:NUMBER, such as 'thumbnails.*:500'")
    return {glob: int(number)}


def _value(name: str, text: str, backend: type[LayerBase]) -> Any:
    """What a setting is set to by an address. Raises ``ValueError``."""
    if name in backend.extra_settings:
        try:
            return backend.extra_settings[name](text)
        except ValueError as error:
            raise ValueError(f"is wrong: {error}") from None
    if name == "prefix":
        if not PREFIX.fullmatch(text):
            raise ValueError(PREFIX_RULE)
        return text
    kind, noun = (float, "a number of seconds") if name.endswith("expiry") else (int, "a whole number")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"must be {noun}") from None

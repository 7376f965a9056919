"""The settings that all layers share: defaults, checks, and the capacity of a channel.

Knows no layer. Every complaint names the setting, the value, and what is allowed.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from offload.exceptions import ConfigurationError, near_matches

PREFIX = re.compile(r"[A-Za-z0-9_.:/@\-]{0,100}")  # nothing that means something in a Redis pattern or hash tag
PREFIX_RULE = "must be at most 100 letters, digits and '-_.:/@'"
_KEY_LENGTH = 20


@dataclass(frozen=True)
class LayerSettings:
    """Settings of a layer.

    Attributes:
        expiry: seconds after which a message that nobody took is dropped.
        capacity: messages that one channel holds; further sends raise ``ChannelFull``.
        channel_capacity: capacities of single channels by glob; the first glob that matches counts.
        group_expiry: seconds after which a membership ends unless it was added again.
        prefix: put before every name on the layer's server, so that several sites can share it.
        max_size: most bytes of one encoded message. Twice the largest WebSocket message by default, so that such
            a message always fits together with its path and keys.
        encryption_keys: texts with which messages and sessions are sealed (the first), and opened (any); a new one is
            first added behind, everywhere, and then put in front. Without any, nothing is sealed.
    """

    expiry: float = 60.0
    capacity: int = 100
    channel_capacity: Mapping[str, int] = field(default_factory=dict)
    group_expiry: float = 86_400.0
    prefix: str = ""
    max_size: int = 2 * 1024 * 1024
    encryption_keys: Sequence[str] = field(default=(), repr=False)
    _globs: tuple[tuple[re.Pattern[str], int], ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        for name in ("expiry", "group_expiry"):
            _check_seconds(name, getattr(self, name))
        for name in ("capacity", "max_size"):
            _check_count(name, getattr(self, name))
        if not (isinstance(self.prefix, str) and PREFIX.fullmatch(self.prefix)):
            raise ConfigurationError(f"layer setting prefix={self.prefix!r} {PREFIX_RULE}")
        keys = self.encryption_keys
        if isinstance(keys, (str, bytes)) or not isinstance(keys, Sequence) or not all(map(_is_key, keys)):
            # Without the value, which is a secret.
            raise ConfigurationError(
                f"layer setting encryption_keys must be a list of strings of {_KEY_LENGTH} or more characters,"
                " the newest first"
            )
        if not isinstance(self.channel_capacity, Mapping):
            raise ConfigurationError(
                f"layer setting channel_capacity={self.channel_capacity!r} must be a dict of glob to capacity,"
                " such as {'thumbnails.*': 500}"
            )
        for glob, capacity in self.channel_capacity.items():
            if not isinstance(glob, str):
                raise ConfigurationError(f"layer setting channel_capacity has the key {glob!r}; globs must be str")
            _check_count(f"channel_capacity[{glob!r}]", capacity)
        globs = tuple((re.compile(fnmatch.translate(glob)), n) for glob, n in self.channel_capacity.items())
        object.__setattr__(self, "_globs", globs)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], layer: str, extra: Iterable[str] = ()) -> LayerSettings:
        """From a layer's keyword arguments.

        Args:
            arguments: the keyword arguments that the layer does not take itself.
            layer: the layer's name in complaints, such as ``redis``.
            extra: names of the settings that the layer takes itself, to be suggested too.
        """
        for name in arguments:
            if name not in SETTING_NAMES:
                raise unknown_setting(name, layer, extra)
        return cls(**arguments)

    def capacity_of(self, channel: str) -> int:
        for glob, capacity in self._globs:
            if glob.match(channel):
                return capacity
        return self.capacity


SETTING_NAMES: tuple[str, ...] = tuple(item.name for item in fields(LayerSettings) if item.init)


def unknown_setting(name: str, layer: str, extra: Iterable[str] = ()) -> ConfigurationError:
    """The complaint about a setting that a layer does not have, with the nearest right name."""
    return ConfigurationError(f"layer {layer!r} has no setting {name!r}; {nearest_setting(name, extra)[1]}")


def nearest_setting(name: str, extra: Iterable[str] = ()) -> tuple[str | None, str]:
    """The setting that may have been meant, if any is near, and the remedy in words."""
    known = sorted({*SETTING_NAMES, *extra})
    for near in near_matches(name, known):
        return near, f"did you mean {near!r}?"
    return None, f"it has {', '.join(known)}"


def _is_key(key: object) -> bool:
    return isinstance(key, str) and len(key) >= _KEY_LENGTH


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 < value < math.inf):
        raise ConfigurationError(f"layer setting {name}={value!r} must be a number of seconds above 0")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"layer setting {name}={value!r} must be a whole number, 1 or more")

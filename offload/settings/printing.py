"""The settings in effect as text: one a line, as a configuration file would have it, and where each came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from offload.settings.groups import DEFAULT_LAYER, OPTIONS, Settings
from offload.settings.kinds import Number
from offload.settings.option import Option

_SOURCE_COLUMN = 48


def lines(settings: Settings, command: str) -> Iterator[str]:
    """A line for each option of a command, in the order of their declaration."""
    for name, option in OPTIONS.items():
        if command in option.commands:
            text = f"{name} = {_shown(option, settings.value_of(name))}"
            yield f"{text:<{_SOURCE_COLUMN}}  # {settings.sources.get(name, 'default')}"


def summary(settings: Settings) -> str:
    """Where the settings came from, in one line; empty where all are defaults."""
    places: dict[str, list[str]] = {}
    for source in (settings.sources[name] for name in OPTIONS if name in settings.sources):
        place = source.place or ("command line" if source.what.startswith("-") else "environment")
        places.setdefault(place, []).append(source.what)
    return "; ".join(f"{place} ({', '.join(names)})" for place, names in places.items())


def _shown(option: Option, value: Any) -> str:
    if isinstance(option.kind, Number) and value == option.kind.zero:
        return "0"
    if isinstance(value, tuple):
        return repr(list(value) or ([DEFAULT_LAYER] if option.name == "layer" else []))
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"
    return repr(value)

"""The settings of this app, each declared once: its default, and what it may be.

Everything begins with ``OFFLOAD_``, but ``CHANNEL_LAYERS``, which `django_offload.conf` reads.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings

PREFIX = "OFFLOAD_"


@dataclass(frozen=True)
class _Setting:
    default: Any
    allows: Callable[[Any], bool]
    wanted: str


def _one_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in values


def _some_of(*values: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple, set, frozenset)) and set(value) <= set(values)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


_SETTINGS = {
    "ACCEPT": _Setting("implicit", _one_of("implicit", "explicit"), "'implicit' or 'explicit'"),
    "DISCONNECT_AT": _Setting(
        (),
        _some_of("logout", "password_change", "deactivation", "session_expiry"),
        "a list of some of 'logout', 'password_change', 'deactivation' and 'session_expiry'",
    ),
    "MISSING_LAYER": _Setting("raise", _one_of("raise", "log"), "'raise' or 'log'"),
    "SESSION_KEY_IN_QUERY": _Setting(False, _is_bool, "True or False"),
    "USERS": _Setting(False, _is_bool, "True or False"),
}


def value_of(name: str) -> Any:
    """The value of a setting; its default where what is set is not allowed, of which `problems` tells.

    Args:
        name: without ``OFFLOAD_``.
    """
    declared = _SETTINGS[name]
    value = getattr(settings, PREFIX + name, declared.default)
    return value if declared.allows(value) else declared.default


def is_set(name: str) -> bool:
    """Whether the project says anything of a setting."""
    return hasattr(settings, PREFIX + name)


def problems() -> list[str]:
    """What is wrong: a sentence for each setting concerned."""
    found = []
    for full_name in sorted(dir(settings)):
        if not full_name.startswith(PREFIX):
            continue
        name, value = full_name.removeprefix(PREFIX), getattr(settings, full_name)
        declared = _SETTINGS.get(name)
        if declared is None:
            # A project may have names of its own; what is nearly one of ours is a mistake.
            if near := difflib.get_close_matches(name, _SETTINGS, 1, 0.75):
                found.append(f"unknown setting {full_name}; did you mean {PREFIX}{near[0]}?")
        elif not declared.allows(value):
            found.append(f"{full_name} is {value!r}; write {declared.wanted}")
    if value_of("DISCONNECT_AT") and not value_of("USERS"):
        found.append(
            "OFFLOAD_DISCONNECT_AT is about connections of users, and nobody joins them; write OFFLOAD_USERS = True"
        )
    return found

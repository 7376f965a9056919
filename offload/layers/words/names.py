"""Names of channels and groups: the rules, and how fresh names are made.

A channel name has letters, digits and ``-_.``, and at most one of two marks: ``!`` makes it process-specific
(``<prefix>.<process>!<random>``, kept by the process of that token), ``?`` single-reader (``<prefix>?<random>``).
A group name has no mark. Either is shorter than 100 characters. As in ASGI 1, section "Channel layers".
"""

from __future__ import annotations

import base64
import functools
import os
import re
import reprlib

from offload.exceptions import InvalidChannelName

MAX_LENGTH = 99

_CHANNEL = re.compile(r"[A-Za-z0-9_.\-]+(?:[!?][A-Za-z0-9_.\-]+)?")
_GROUP = re.compile(r"[A-Za-z0-9_.\-]+")
_SECRET_BYTES = 12  # 96 bits: sixteen characters of URL-safe base64, all of them allowed in names


def check_channel(name: object) -> None:
    """Raises ``InvalidChannelName`` unless this is a channel name."""
    if not (isinstance(name, str) and _is_channel(_plain(name))):
        raise InvalidChannelName(_complaint("channel", name))


def check_group(name: object) -> None:
    """Raises ``InvalidChannelName`` unless this is a group name."""
    if not (isinstance(name, str) and _is_group(_plain(name))):
        raise InvalidChannelName(_complaint("group", name))


def is_process_specific(channel: str) -> bool:
    return "!" in channel


def owner(channel: str) -> str:
    """The process token in ``<prefix>.<process>!<random>``; empty for a channel that no process owns."""
    head, mark, _ = channel.partition("!")
    return head.rpartition(".")[2] if mark else ""


def new_process_token() -> str:
    """A token for one process: at least 96 random bits, without a dot, so that `owner` finds it again."""
    return _random_text()


def _random_text() -> str:
    return base64.urlsafe_b64encode(os.urandom(_SECRET_BYTES)).decode()


def new_channel(prefix: str, process: str) -> str:
    """A fresh name: single-reader when the prefix ends in ``?``, otherwise specific to `process`."""
    if not (prefix and isinstance(prefix, str)):
        raise InvalidChannelName(_complaint("channel", prefix))
    random = _random_text()
    name = f"{prefix}{random}" if prefix.endswith("?") else f"{prefix}.{process}!{random}"
    check_channel(name)
    return name


def _plain(name: str) -> str:
    # What is looked up in a cache stays there, and a subclass may hold anything.
    return name if type(name) is str else str.__str__(name)


@functools.lru_cache(maxsize=4096)
def _is_channel(name: str) -> bool:
    return len(name) <= MAX_LENGTH and _CHANNEL.fullmatch(name) is not None


@functools.lru_cache(maxsize=4096)
def _is_group(name: str) -> bool:
    return len(name) <= MAX_LENGTH and _GROUP.fullmatch(name) is not None


def _complaint(kind: str, name: object) -> str:
    if not isinstance(name, str):
        # What is no name may be of any size.
        return f"{kind} name {reprlib.repr(name)} is a {type(name).__name__}, not a str; give one name, as text"
    # A subclass may show itself otherwise than its text.
    name = str.__str__(name)
    if len(name) > MAX_LENGTH:
        return f"{kind} name {name[:40]!r}... has {len(name)} characters; at most {MAX_LENGTH} are allowed"
    if kind == "group":
        return f"group name {name!r} must be one or more letters, digits, '-', '_' and '.'"
    return (
        f"channel name {name!r} must be letters, digits, '-', '_' and '.',"
        " with at most one '!' or '?', which neither begins nor ends it"
    )

"""Faults of a routing that can be used: routes that no message reaches, and consumers that fail on each message.

Looked for once, at start. Knows rules by what they match; how they are found is `offload.consumers.routing`'s.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from offload.consumers.synchronous import check_arguments
from offload.exceptions import RoutingError, near_matches

log = logging.getLogger("offload.consumer")

_LATER = ("reply_channel", "path", "order")
_REQUEST = ("reply_channel", "path", "root_path", "scheme", "query_string", "headers", "client", "server")
KEYS = {
    "websocket.connect": (*_REQUEST, "order"),
    "websocket.receive": (*_LATER, "text", "bytes"),
    "websocket.disconnect": (*_LATER, "code"),
    "http.request": (*_REQUEST, "http_version", "method", "body", "body_channel"),
    "http.disconnect": ("reply_channel", "path"),
}
"""What the messages of the server's own channels carry; those of others carry anything."""

Stage = Sequence[tuple[str, "re.Pattern[str]"]]


class Rule(Protocol):
    """One route with those that include it, outermost first."""

    @property
    def stages(self) -> Sequence[Stage]:
        """The filters of each."""

    @property
    def consumer(self) -> Any:
        """What is called."""

    @property
    def place(self) -> str:
        """Where it stands in the routing, for people."""


def check_rule(channel: str, rule: Rule, is_imported: bool) -> None:
    """
    Args:
        channel: of the messages.
        rule: for them.
        is_imported: whether its consumer is there to be looked at.

    Raises:
        RoutingError: no message matches, or the consumer does not take what the filters give it.
        ConfigurationError: the same for a consumer of a class.
    """
    groups: dict[str, None] = {}
    seen: set[str] = set()
    for stage in rule.stages:
        for key, pattern in stage:
            known = KEYS.get(channel)
            if known is not None and key not in known:
                near = near_matches(key, known)
                hint = f"did you mean {near[0]!r}?" if near else f"they carry {', '.join(known)}"
                raise RoutingError(f"{rule.place} filters by {key!r}, which no message on {channel!r} carries; {hint}")
            if key == "path" and known is not None and key not in seen:
                _check_path(pattern.pattern, rule.place)
            seen.add(key)
            groups.update(dict.fromkeys(pattern.groupindex))
    if is_imported:
        what = f"the consumer of {rule.place}"
        if hasattr(rule.consumer, "_offload_check_groups"):
            rule.consumer._offload_check_groups(what, channel, groups)
        else:
            check_arguments(rule.consumer, what, 1, groups)


def _check_path(pattern: str, place: str) -> None:
    # What begins with a letter that has to be there matches no path.
    if re.match(r"\^?[\w-](?![*?{])", pattern) and "|" not in pattern:
        right = f"^/{pattern.lstrip('^')}"
        raise RoutingError(f"{place} filters the path by {pattern!r}, and each path begins with '/'; write {right!r}")


def warn_of_undecided(connects: Iterable[Rule], receives: Iterable[Rule]) -> None:
    """Log which receive consumers have no connect consumer before them: everybody is let in there.

    Two routes may have a path in common where the text that one of them begins with is the beginning of the other's.
    """
    deciding = [(_beginning(rule), rule) for rule in connects]
    for rule in receives:
        begins = _beginning(rule)
        if any(other.startswith(begins) or begins.startswith(other) for other, _ in deciding):
            continue
        near = near_matches(begins, [other for other, _ in deciding])
        hint = f"did you mean the one of {near[0]!r}?" if near else "a consumer of websocket.connect decides"
        log.warning(
            "%s receives from %s..., and no connect consumer is routed there, so everybody is let in; %s",
            rule.place,
            begins or "every path",
            hint,
        )


def _beginning(rule: Rule) -> str:
    """The text that each path begins with which a rule matches, as far as the filters show it."""
    text = ""
    for stage in rule.stages:
        for key, pattern in stage:
            if key == "path":
                literal = re.match(r"\^?((?:[\w/-]|\\[./-])*)", pattern.pattern)
                part = literal[1] if literal is not None else ""
                rest = pattern.pattern[literal.end() :] if literal is not None else pattern.pattern
                if "|" in pattern.pattern:
                    return text
                if rest[:1] in ("*", "?", "{"):
                    part = part[:-1]
                text += part.replace("\\", "")
                if rest:
                    return text
    return text

"""Routes: which consumer runs for a message. The first match wins.

A routing is a list of `route`, `route_class` and `include` entries (and lists of them). `Router` checks it whole and
flattens it, so that a wrong entry is found at start and not by the first client.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from offload.consumers.routing_checks import check_rule, warn_of_undecided
from offload.consumers.synchronous import check_plain
from offload.exceptions import ConfigurationError, InvalidChannelName, OffloadError, RoutingError, near_matches
from offload.interfaces import Content
from offload.layers.words.names import check_channel

Consumer = Callable[..., Any]
CONNECT, RECEIVE, DISCONNECT = WEBSOCKET_CHANNELS = ("websocket.connect", "websocket.receive", "websocket.disconnect")
HTTP_REQUEST, HTTP_DISCONNECT = "http.request", "http.disconnect"
_DEEPEST = 20
_DOTTED = re.compile(r"^[^\W\d]\w*(\.[^\W\d]\w*)+$")


@dataclass(frozen=True)
class Route:
    """One entry: messages of these channels whose values match `filters` go to `consumer`."""

    channels: tuple[str, ...]
    consumer: Consumer | str
    filters: dict[str, str]


@dataclass(frozen=True)
class ClassRoute:
    """All channels of a consumer class."""

    consumer: Any
    filters: dict[str, str]


@dataclass(frozen=True)
class Include:
    """Another routing whose entries see the values without what `filters` matched."""

    routing: str | Sequence[Any]
    filters: dict[str, str]


def route(channel: str | Iterable[str], consumer: Consumer | str, **filters: str) -> Route:
    """Run `consumer` for messages of `channel`.

    Args:
        channel: ``websocket.connect``, ``websocket.receive``, ``websocket.disconnect`` or any name of your own; or
            several of them.
        consumer: a callable ``consumer(message, **named_groups)``, or its dotted path.
        filters: regular expressions, matched (`re.match`) against the content's values of these names; their named
            groups become keyword arguments.
    """
    # What it is, is checked where its place in the routing is known.
    channels = tuple(channel) if isinstance(channel, (list, tuple, set, frozenset)) else (channel,)
    return Route(channels, consumer, filters)


def route_class(consumer: Any, **filters: str) -> ClassRoute:
    """Run a consumer class for every channel of its ``method_mapping``; a class, or its dotted path."""
    return ClassRoute(consumer, filters)


def include(routing: str | Sequence[Any], **filters: str) -> Include:
    """Use another routing (a list, or its dotted path) where `filters` match, and strip what they matched."""
    return Include(routing, filters)


def is_routing(value: object) -> bool:
    """Whether it is a list of routing entries, or a dict that has WebSockets in it."""
    if isinstance(value, dict):
        return any(channel in value for channel in WEBSOCKET_CHANNELS)
    return isinstance(value, list) and any(isinstance(entry, (Route, ClassRoute, Include)) for entry in value)


class Named:
    """A consumer, or class of consumers, that is known by its dotted path alone, because it runs elsewhere."""

    # What a class consumes cannot be known without importing it; one that is routed by a path is a WebSocket's.
    method_mapping = dict.fromkeys(WEBSOCKET_CHANNELS, "")

    def __init__(self, path: str, what: str) -> None:
        _check_dotted(path, what)
        self.path = path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing of this process calls it."""
        raise OffloadError(f"the consumer {self.path!r} is not imported here; it runs in workers")


_Stage = tuple[tuple[str, "re.Pattern[str]"], ...]


@dataclass(frozen=True)
class _Rule:
    stages: tuple[_Stage, ...]
    consumer: Consumer
    place: str

    def match(self, content: Content, is_whole: bool = True) -> dict[str, Any] | None:
        """The keyword arguments for the consumer, or None when a filter does not match.

        Args:
            is_whole: whether what the content lacks, or has as None, fits no filter; otherwise it fits each.
        """
        arguments: dict[str, Any] = {}
        stripped: dict[str, str] = {}
        last = len(self.stages) - 1
        for number, stage in enumerate(self.stages):
            for key, pattern in stage:
                value = stripped[key] if key in stripped else _text(content.get(key))
                if value is None and not is_whole:
                    continue
                found = pattern.match(value) if value is not None else None
                if found is None:
                    return None
                arguments.update(found.groupdict())
                if number < last:
                    stripped[key] = value[found.end() :] if value is not None else ""
        return arguments

    def keys(self) -> set[str]:
        return {key for stage in self.stages for key, _ in stage}


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class Routed(Protocol):
    """A message, as far as routing looks at it."""

    channel_name: str
    content: Content


class Router:
    """A checked routing.

    Args:
        routing: a list of entries, or the dotted path of one.
        imports: whether consumers given by dotted paths are imported. Without them it can tell what is routed, and
            their consumers cannot be called. Routings given by dotted paths are always imported.

    Raises:
        RoutingError: an entry is wrong; the message names the entry and what to write instead.
    """

    def __init__(self, routing: str | Sequence[Any], imports: bool = True) -> None:
        self._rules: dict[str, list[_Rule]] = {}
        self._imports = imports
        where = routing if isinstance(routing, str) else "channel_routing"
        self._add(routing, where)

    def add_route(self, entry: Route | ClassRoute | Include) -> None:
        """Add an entry behind all others.

        Raises:
            RoutingError: it is wrong.
        """
        self._add([entry], "the added route")

    def _add(self, routing: str | Sequence[Any], where: str) -> None:
        for channel, rule in _flatten(routing, where, (), self._imports):
            self._rules.setdefault(channel, []).append(rule)
        self._keys = {channel: set().union(*(r.keys() for r in rules)) for channel, rules in self._rules.items()}

    @property
    def channels(self) -> set[str]:
        """The channels that have a consumer."""
        return set(self._rules)

    def consumers(self, channel: str) -> list[Consumer]:
        """The consumers that are routed for a channel, first to last."""
        return [rule.consumer for rule in self._rules.get(channel, ())]

    def check(self) -> None:
        """Find routes that cannot be of use, and log those that are doubtful.

        Raises:
            ConfigurationError: no message of a route's channel matches its filters, or its consumer does not take
                their named groups.
        """
        for channel, rules in self._rules.items():
            for rule in rules:
                check_rule(channel, rule, self._imports)
        warn_of_undecided(self._rules.get(CONNECT, ()), self._rules.get(RECEIVE, ()))

    def match(self, message: Routed) -> tuple[Consumer, dict[str, Any]] | None:
        """The first consumer whose filters match a message, with its keyword arguments; None when there is none."""
        return self.find(message.channel_name, message.content)

    def find(self, channel: str, content: Content) -> tuple[Consumer, dict[str, Any]] | None:
        """As `match`, for a message that is no object yet."""
        for rule in self._rules.get(channel, ()):
            arguments = rule.match(content)
            if arguments is not None:
                return rule.consumer, arguments
        return None

    def depends_on(self, channel: str) -> set[str]:
        """The content keys that decide over this channel's consumer."""
        return self._keys.get(channel, set())

    def accepts_websocket(self, content: Content) -> bool:
        """Whether any WebSocket consumer is routed for a handshake with this content.

        A filter on something that only later messages carry (say their text) does not keep the handshake out.
        """
        for channel in WEBSOCKET_CHANNELS:
            for rule in self._rules.get(channel, ()):
                if rule.match(content, is_whole=False) is not None:
                    return True
        return False


def _flatten(
    routing: str | Sequence[Any], where: str, outer: tuple[_Stage, ...], imports: bool
) -> Iterator[tuple[str, _Rule]]:
    entries = import_dotted(routing, "the routing") if isinstance(routing, str) else routing
    if len(outer) > _DEEPEST:
        raise RoutingError(f"{where} is included {_DEEPEST} levels deep; does it include itself?")
    if isinstance(entries, dict):
        entries = [Route((channel,), consumer, {}) for channel, consumer in entries.items()]
    if not isinstance(entries, (list, tuple)):
        raise RoutingError(
            f"{where} is a {type(entries).__name__}, not a list; write {where.rpartition('.')[2]} = [route(...), ...]"
        )
    for number, entry in enumerate(entries):
        place = f"{where}[{number}]"
        if isinstance(entry, (list, tuple)):
            yield from _flatten(entry, place, outer, imports)
        elif isinstance(entry, Include):
            inner = entry.routing if isinstance(entry.routing, str) else place
            yield from _flatten(entry.routing, inner, (*outer, _stage(entry.filters, place)), imports)
        elif isinstance(entry, Route):
            rule = _rule(entry.consumer, entry.filters, place, outer, imports)
            for channel in entry.channels:
                yield _checked_channel(channel, place), rule
        elif isinstance(entry, ClassRoute):
            yield from _class_rules(entry, place, outer, imports)
        else:
            raise RoutingError(
                f"{place} is {entry!r}, not a routing entry; write route(channel, consumer, path=...), "
                "route_class(...) or include(...)"
            )


def _checked_channel(channel: object, place: str) -> str:
    if not isinstance(channel, str) or not channel:
        raise RoutingError(f"{place} names the channel {channel!r}; a channel's name is a string")
    if channel.startswith("websocket.") and channel not in WEBSOCKET_CHANNELS:
        near = near_matches(channel, WEBSOCKET_CHANNELS, 0.0)
        raise RoutingError(f"{place} names the unknown channel {channel!r}; did you mean {near[0]!r}?")
    try:
        check_channel(channel)
    except InvalidChannelName as error:
        raise RoutingError(f"{place} names a channel that cannot be: {error}") from error
    return channel


def _find(path: str, what: str, imports: bool) -> Any:
    return import_dotted(path, what) if imports else Named(path, what)


def _rule(consumer: Any, filters: dict[str, str], place: str, outer: tuple[_Stage, ...], imports: bool) -> _Rule:
    if isinstance(consumer, str):
        consumer = _find(consumer, f"the consumer of {place}", imports)
    if not callable(consumer):
        raise RoutingError(f"the consumer of {place} is {consumer!r}, which cannot be called")
    check_plain(consumer, f"the consumer of {place}")
    return _Rule((*outer, _stage(filters, place)), consumer, place)


def _class_rules(
    entry: ClassRoute, place: str, outer: tuple[_Stage, ...], imports: bool
) -> Iterator[tuple[str, _Rule]]:
    cls = entry.consumer
    if isinstance(cls, str):
        cls = _find(cls, f"the class of {place}", imports)
    mapping = getattr(cls, "method_mapping", None)
    if not callable(cls) or not isinstance(mapping, dict):
        raise RoutingError(
            f"the class of {place} is {cls!r}, without a method_mapping; derive it from offload.consumers.BaseConsumer"
        )
    if imports and hasattr(cls, "_offload_check"):
        # Where its consumers run, since only there it has what it needs.
        cls._offload_check(f"the class of {place}")
    for channel in cls.channel_names() if hasattr(cls, "channel_names") else mapping:
        yield _checked_channel(channel, place), _rule(cls, entry.filters, place, outer, imports)


def _stage(filters: dict[str, str], place: str) -> _Stage:
    stage = []
    for key, pattern in filters.items():
        try:
            # As in Channels 1, where patterns may be bytes.
            compiled = re.compile(pattern.decode() if isinstance(pattern, bytes) else pattern)
            # Values are matched as text, and nobody should hear only from his first client that this cannot be.
            compiled.match("")
        except (re.error, TypeError, UnicodeDecodeError) as error:
            raise RoutingError(f"{place} filters {key} by {pattern!r}, not a regular expression: {error}") from error
        if compiled.groups > len(compiled.groupindex):
            raise RoutingError(
                f"{place} filters {key} by {pattern!r}, which has a group without a name; write (?P<name>...)"
            )
        stage.append((key, compiled))
    return tuple(stage)


def _check_dotted(path: str, what: str) -> None:
    if not _DOTTED.match(path):
        raise ConfigurationError(f"{what} is {path!r}; write it as package.module.name")


def import_dotted(path: str, what: str) -> Any:
    """The object at ``package.module.name``.

    Raises:
        ConfigurationError: there is no such module or name. An error inside the module comes through as it is.
    """
    _check_dotted(path, what)
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only a module on the way to this path is the entry's mistake; another one is the module's own.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(f"{what} is {path!r}, but there is no module {error.name!r}") from error
    except OffloadError as error:
        raise ConfigurationError(f"{what} is {path!r}, and importing it failed: {error}") from error
    try:
        return getattr(module, name)
    except AttributeError:
        near = near_matches(name, vars(module))
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(f"{what} is {path!r}, but module {module_name!r} has no {name!r}{hint}") from None

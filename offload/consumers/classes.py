"""Class-based consumers, with the methods and attributes of Channels 1.1."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from offload.consumers import configuration
from offload.consumers.channel import Channel, Group
from offload.consumers.message import Message
from offload.consumers.routing import ClassRoute, route_class
from offload.consumers.sessions import channel_session
from offload.consumers.synchronous import check_arguments, check_plain, check_result, run_plain
from offload.exceptions import ConfigurationError, SendNotAvailableOnDemultiplexer

_DECORATORS = ("http_user_and_session", "http_user", "channel_session_user")
"""Attributes that stand for decorators of Django's; each gives what the ones after it give."""
_GIVES_MANY = ("channel_names", "connection_groups", "decorators")
"""Methods whose results are iterated over, so that they may be generators."""


class BaseConsumer:
    """A consumer as a class: one object for each message.

    Attributes:
        method_mapping: channel name to the name of the method that handles it.
        channel_session: True gives ``message.channel_session``.
        channel_session_user: True gives ``message.user`` by the channel session; like the next two, with Django.
        http_user: True gives ``message.user`` too, copied from the HTTP session at connect.
        http_user_and_session: True gives ``message.http_session`` besides.
        strict_ordering, slight_ordering: accepted; messages of a connection always run in order.
    """

    method_mapping: ClassVar[dict[str, str]] = {}
    channel_session: ClassVar[bool] = False
    channel_session_user: ClassVar[bool] = False
    http_user: ClassVar[bool] = False
    http_user_and_session: ClassVar[bool] = False
    strict_ordering: ClassVar[bool] = False
    slight_ordering: ClassVar[bool] = False

    def __init__(self, message: Message, **kwargs: Any) -> None:
        self.message = message
        self.kwargs = kwargs
        result = self.dispatch(message, **kwargs)
        if result is not None:
            check_result(self.dispatch, result)

    @classmethod
    def channel_names(cls) -> set[str]:
        """The channels that it handles."""
        return set(cls.method_mapping)

    @classmethod
    def as_route(cls, attrs: dict[str, Any] | None = None, **filters: str) -> ClassRoute:
        """A routing entry for this class, with `attrs` replacing class attributes.

        Args:
            attrs: class attributes of the routed class, for instance ``{"group": "news"}``.
            filters: as for ``route``.
        """
        if attrs:
            names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
            cls = type(cls.__name__, (cls,), {**names, **attrs})
        return route_class(cls, **filters)

    @classmethod
    def _offload_check(cls, what: str) -> None:
        """Find at start what the first client would find otherwise. Its name is none that a project's class has.

        Args:
            what: this class, for people.

        Raises:
            ConfigurationError: a method that `method_mapping` names is not there; one of these, or one that takes the
                place of ours, does nothing when it is called; a decorator that an attribute asks for is not known.
        """
        for channel, name in cls.method_mapping.items():
            if not callable(getattr(cls, name, None)):
                raise ConfigurationError(f"{what} has no method {name!r}, which its method_mapping has for {channel!r}")
        ours = [name for base in reversed(cls.__mro__) if base.__module__ == __name__ for name in vars(base)]
        for name in dict.fromkeys([*cls.method_mapping.values(), *ours]):
            method = getattr(cls, name, None)
            if callable(method):
                check_plain(method, f"the method {name!r} of {what}", may_yield=name in _GIVES_MANY)
        for name in _DECORATORS:
            if getattr(cls, name):
                configuration.decorator_for(name)

    @classmethod
    def _offload_check_groups(cls, what: str, channel: str, groups: Iterable[str]) -> None:
        """Find at start that a handler does not take what the filters of its routing give it.

        Args:
            what: this class, for people.
            channel: its message's.
            groups: the names of the filters' groups.

        Raises:
            ConfigurationError: it does not.
        """
        for name, leading in cls._offload_calls(channel):
            check_arguments(getattr(cls, name), f"the method {name!r} of {what}", leading, groups)

    @classmethod
    def _offload_calls(cls, channel: str) -> Iterable[tuple[str, int]]:
        """The methods that get the groups of a message on `channel`, and how many arguments each gets before them."""
        return [(cls.method_mapping[channel], 2)]

    def decorators(self) -> Iterable[Callable[[Callable[..., Any]], Callable[..., Any]]]:
        """What wraps the handler, innermost first; subclasses add theirs."""
        for name in _DECORATORS:
            if getattr(self, name):
                return [configuration.decorator_for(name)]
        return [channel_session] if self.channel_session else []

    def get_handler(self, message: Message, **kwargs: Any) -> Callable[..., Any]:
        """The method for this message's channel, decorated."""
        handler: Callable[..., Any] = getattr(self, self.method_mapping[message.channel_name])
        for decorate in self.decorators():
            handler = decorate(handler)
        return handler

    def dispatch(self, message: Message, **kwargs: Any) -> Any:
        """Called with each message; the place for what is to be around all handlers."""
        handler = self.get_handler(message, **kwargs)
        result = handler(message, **kwargs)
        if result is not None:
            check_result(handler, result)
        return result


class WebsocketConsumer(BaseConsumer):
    """A WebSocket's three consumers in one class; override `connect`, `receive`, `disconnect`.

    Attributes:
        groups: names of groups that each connection joins; or override `connection_groups`.
    """

    method_mapping: ClassVar[dict[str, str]] = {
        "websocket.connect": "raw_connect",
        "websocket.receive": "raw_receive",
        "websocket.disconnect": "raw_disconnect",
    }
    groups: ClassVar[Iterable[str] | None] = None

    @classmethod
    def _offload_check(cls, what: str) -> None:
        super()._offload_check(what)
        if isinstance(cls.groups, str):
            raise ConfigurationError(f"{what} has groups = {cls.groups!r}; write a list of names: [{cls.groups!r}]")

    @classmethod
    def _offload_calls(cls, channel: str) -> Iterable[tuple[str, int]]:
        calls = [*super()._offload_calls(channel)]
        method = {"raw_connect": "connect", "raw_receive": "receive", "raw_disconnect": "disconnect"}.get(
            cls.method_mapping[channel]
        )
        # An override of the raw one calls whatever it likes.
        if method is not None and getattr(cls, f"raw_{method}").__module__ == __name__:
            calls.append((method, 2))
            if method != "receive":
                calls.append(("connection_groups", 1))
        return calls

    def connection_groups(self, **kwargs: Any) -> Iterable[str]:
        """The groups that this connection belongs to while it is open."""
        return self.groups or ()

    @property
    def reply_channel(self) -> Channel:
        """The client's own channel."""
        channel = self.message.reply_channel
        if channel is None:
            raise ValueError(f"the message on {self.message.channel_name!r} comes from no client")
        return channel

    @property
    def path(self) -> str:
        """The path of the handshake."""
        path: str = self.message.content["path"]
        return path

    def raw_connect(self, message: Message, **kwargs: Any) -> None:
        """Join the groups, then `connect`."""
        for group in self.connection_groups(**kwargs):
            self._group(group).add(self.reply_channel)
        run_plain(self.connect, message, **kwargs)

    def connect(self, message: Message, **kwargs: Any) -> None:
        """Called for the handshake; accept (or refuse by ``close()``, or ``DenyConnection``)."""
        self.reply_channel.send({"accept": True})

    def raw_receive(self, message: Message, **kwargs: Any) -> None:
        """Hand text or bytes on to `receive`."""
        if message.content.get("text") is not None:
            run_plain(self.receive, text=message.content["text"], **kwargs)
        else:
            run_plain(self.receive, bytes=message.content["bytes"], **kwargs)

    # Subclasses name what they take, and those of JsonWebsocketConsumer something else: all are right to type checkers.
    def receive(self, *args: Any, **kwargs: Any) -> None:
        """Called with each message: ``receive(text=None, bytes=None, **kwargs)``, one of both given."""

    def send(self, text: str | None = None, bytes: bytes | None = None, close: bool | int = False) -> None:
        """Send to this client, and close afterwards when told to (True, or a close code)."""
        content = self._content(text, bytes)
        if close:
            content["close"] = close
        elif not content:
            raise ValueError("send() needs text or bytes")
        self.reply_channel.send(content)

    @classmethod
    def group_send(cls, name: str, text: str | None = None, bytes: bytes | None = None, close: bool = False) -> None:
        """Send to everybody in a group."""
        content = cls._content(text, bytes)
        if close:
            content["close"] = close
        elif not content:
            raise ValueError("group_send() needs text or bytes")
        Group(name).send(content)

    def close(self, status: bool | int = True) -> None:
        """Close the connection, or refuse the handshake; `status` is True or a close code."""
        self.reply_channel.send({"close": status})

    def raw_disconnect(self, message: Message, **kwargs: Any) -> None:
        """Leave the groups, then `disconnect`."""
        for group in self.connection_groups(**kwargs):
            self._group(group).discard(self.reply_channel)
        run_plain(self.disconnect, message, **kwargs)

    def disconnect(self, message: Message, **kwargs: Any) -> None:
        """Called once, however the connection ended; ``message["code"]`` says how."""

    def _group(self, name: str) -> Group:
        return Group(name, channel_layer=self.message.channel_layer)

    @staticmethod
    def _content(text: str | None, data: bytes | None) -> dict[str, Any]:
        content: dict[str, Any] = {}
        if text is not None:
            content["text"] = text
        if data is not None:
            content["bytes"] = data
        return content


class JsonWebsocketConsumer(WebsocketConsumer):
    """A `WebsocketConsumer` whose messages are JSON texts; its methods take and send the decoded values.

    Define ``receive(content, **kwargs)``: it is called with each decoded message.
    """

    def raw_receive(self, message: Message, **kwargs: Any) -> None:
        """Decode and hand on to `receive`."""
        text = message.content.get("text")
        if text is None:
            raise ValueError("a JsonWebsocketConsumer takes text messages; this client sent bytes")
        run_plain(self.receive, self.decode_json(text), **kwargs)

    def send(self, content: Any, close: bool | int = False) -> None:  # type: ignore[override]
        """Send a value to this client as JSON."""
        super().send(text=self.encode_json(content), close=close)

    @classmethod
    def group_send(cls, name: str, content: Any, close: bool = False) -> None:  # type: ignore[override]
        """Send a value to everybody in a group as JSON."""
        WebsocketConsumer.group_send(name, text=cls.encode_json(content), close=close)

    @classmethod
    def decode_json(cls, text: str) -> Any:
        """Text to value; override for another decoder."""
        return json.loads(text)

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """Value to text; override for another encoder."""
        return json.dumps(content)


class WebsocketMultiplexer:
    """Sends to one stream of a multiplexed WebSocket; consumers of a `WebsocketDemultiplexer` get it as a keyword.

    Args:
        stream: the name of the stream.
        reply_channel: the client's channel.
    """

    def __init__(self, stream: str, reply_channel: Channel) -> None:
        self.stream = stream
        self.reply_channel = reply_channel

    def send(self, payload: Any) -> None:
        """Send a value to this client's stream."""
        self.reply_channel.send(self.encode(self.stream, payload))

    @classmethod
    def encode_json(cls, content: Any) -> str:
        """Value to text: by the encoder given to `configure`, in Django projects ``DjangoJSONEncoder``."""
        return json.dumps(content, cls=configuration.json_encoder())

    @classmethod
    def encode(cls, stream: str, payload: Any) -> dict[str, Any]:
        """The content of a message for a stream: the JSON text of ``{"stream": ..., "payload": ...}``."""
        return {"text": cls.encode_json({"stream": stream, "payload": payload})}

    @classmethod
    def group_send(cls, name: str, stream: str, payload: Any, close: bool = False) -> None:
        """Send a value to a stream of everybody in a group."""
        content = cls.encode(stream, payload)
        if close:
            content["close"] = True
        Group(name).send(content)


class WebsocketDemultiplexer(JsonWebsocketConsumer):
    """Several consumers on one WebSocket: texts such as ``{"stream": "news", "payload": {...}}`` go to one of them.

    Each consumer sees the connection as its own: it gets the connect and disconnect messages, and a receive message
    with the payload as its text. It answers by the keyword ``multiplexer``, which has ``send`` and ``group_send``.

    Attributes:
        consumers: the name of the stream to its consumer; a class, or a function.
        multiplexer_class: what `multiplexer` is made of.
    """

    consumers: ClassVar[dict[str, Any]] = {}
    multiplexer_class: ClassVar[type[WebsocketMultiplexer]] = WebsocketMultiplexer

    @classmethod
    def _offload_check(cls, what: str) -> None:
        super()._offload_check(what)
        for stream, consumer in cls.consumers.items():
            inner = f"the consumer of stream {stream!r} of {what}"
            if not callable(consumer):
                raise ConfigurationError(f"{inner} is {consumer!r}, which cannot be called")
            check_plain(consumer, inner)
            if isinstance(consumer, type) and issubclass(consumer, BaseConsumer):
                consumer._offload_check(inner)

    def receive(self, content: Any, **kwargs: Any) -> None:
        """Hand the payload on to its stream's consumer.

        Raises:
            ValueError: it is no ``{"stream": ..., "payload": {...}}``, or no consumer has this stream.
        """
        if not isinstance(content, dict) or "stream" not in content or "payload" not in content:
            raise ValueError('a multiplexed message is {"stream": ..., "payload": {...}}; this one has other keys')
        stream, payload = content["stream"], content["payload"]
        if not isinstance(stream, str) or stream not in self.consumers:
            raise ValueError(f"no consumer has the stream {stream!r}; there are {', '.join(self.consumers) or 'none'}")
        if not isinstance(payload, dict):
            raise ValueError(f"the payload for the stream {stream!r} is a {type(payload).__name__}, not a dict")
        self.message.content["text"] = self.encode_json(payload)
        self._call(stream, **kwargs)

    def connect(self, message: Message, **kwargs: Any) -> None:
        """Accept, then have each consumer connect."""
        self.reply_channel.send({"accept": True})
        for stream in self.consumers:
            self._call(stream, **kwargs)

    def disconnect(self, message: Message, **kwargs: Any) -> None:
        """Have each consumer disconnect."""
        for stream in self.consumers:
            self._call(stream, **kwargs)

    def _call(self, stream: str, **kwargs: Any) -> None:
        consumer = _behind_demultiplexer(self.consumers[stream])
        run_plain(consumer, self.message, multiplexer=self.multiplexer_class(stream, self.reply_channel), **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> None:
        """Not for multiplexed WebSockets."""
        raise _no_send("send")

    @classmethod
    def group_send(cls, *args: Any, **kwargs: Any) -> None:
        """Not for multiplexed WebSockets."""
        raise _no_send("group_send")


def _no_send(name: str) -> SendNotAvailableOnDemultiplexer:
    return SendNotAvailableOnDemultiplexer(
        f"{name} would leave out the stream; use {name} of the multiplexer, which consumers get as a keyword"
    )


def _refuse_send(self: Any, *args: Any, **kwargs: Any) -> None:
    raise _no_send("send")


@functools.lru_cache(None)
def _behind_demultiplexer(consumer: Any) -> Any:
    """The consumer, as a class of its own that cannot `send` by mistake; a function as it is."""
    if not isinstance(consumer, type) or not hasattr(consumer, "send"):
        return consumer
    names = {"__module__": consumer.__module__, "__qualname__": consumer.__qualname__, "send": _refuse_send}
    return type(consumer.__name__, (consumer,), names)

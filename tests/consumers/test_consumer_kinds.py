"""Consumers of unusual kinds, hooks that fail, and what Channels 1 lets classes and messages do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import gevent
import pytest
from asgiref.sync import async_to_sync

from django_offload.decorators import http_session
from offload import route, route_class
from offload.consumers import JsonWebsocketConsumer, WebsocketConsumer, configuration
from offload.consumers.message import Message
from offload.consumers.routing import Router
from offload.consumers.sessions import ChannelSession, channel_session, enforce_ordering
from offload.exceptions import ConfigurationError, ConsumeLater, DenyConnection
from offload.layers.memory import MemoryLayer
from tests.consumers.test_dispatch import Client


async def _denies(message: Message) -> None:
    raise DenyConnection


def test_consumer_that_returns_a_coroutine_lets_nobody_in(layer: MemoryLayer) -> None:
    client = Client(layer, route("websocket.connect", lambda message: _denies(message)))
    with pytest.raises(TypeError, match="returned a coroutine and has not run; write plain def"):
        client.connect()


def test_receive_consumer_that_returns_a_generator_is_reported(
    layer: MemoryLayer, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(layer, route("websocket.receive", lambda message: (part for part in "ab")))
    client.says("x")
    assert "returned a generator and has not run; write plain def" in caplog.text


class Later:
    """What a compiled coroutine, or a library's own future, looks like: awaitable, and no coroutine of Python's."""

    def __await__(self) -> Iterator[None]:
        raise DenyConnection
        yield


class Compiled:
    """What a compiled generator looks like."""

    closed = False

    def __iter__(self) -> Iterator[None]:
        return self

    def __next__(self) -> None:
        raise DenyConnection

    def send(self, value: object) -> None:
        raise DenyConnection

    def throw(self, error: BaseException) -> None:
        raise error

    def close(self) -> None:
        Compiled.closed = True


@pytest.mark.parametrize("kind", [Later, Compiled])
def test_consumer_that_returns_what_somebody_else_has_to_run_lets_nobody_in(layer: MemoryLayer, kind: type) -> None:
    client = Client(layer, route("websocket.connect", lambda message: kind()))
    with pytest.raises(TypeError, match=f"returned a {kind.__name__} and has not run; write plain def"):
        client.connect()
    assert kind is Later or Compiled.closed


class Lazy:
    """An object that is made when somebody looks at it, as Django's are."""

    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise AssertionError("it was looked at")


class Answering(type):
    """A metaclass that has an answer to everything."""

    def __getattr__(cls, name: str) -> str:
        return name


class Answered(metaclass=Answering):
    pass


@pytest.mark.parametrize("make", [lambda: True, lambda: "text", lambda: gevent.spawn(int), Lazy, Answered])
def test_consumer_may_return_anything_else(layer: MemoryLayer, make: Callable[[], object]) -> None:
    client = Client(layer, route("websocket.connect", lambda message: make()))
    client.connect()


async def _awaits(self: Any, *args: Any, **kwargs: Any) -> None:
    raise DenyConnection


def _yields(self: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
    raise DenyConnection
    yield


METHODS = {
    "connect": "websocket.connect",
    "receive": "websocket.receive",
    "disconnect": "websocket.disconnect",
    "dispatch": "websocket.connect",
    "get_handler": "websocket.connect",
    "raw_connect": "websocket.connect",
    "raw_receive": "websocket.receive",
    "raw_disconnect": "websocket.disconnect",
}


@pytest.mark.parametrize("base", [WebsocketConsumer, JsonWebsocketConsumer])
@pytest.mark.parametrize("kind", ["coroutine", "generator"])
@pytest.mark.parametrize("name", [*METHODS, "send", "close", "encode_json", "connection_groups", "decorators"])
def test_class_whose_method_does_nothing_when_it_is_called_ends_the_start(base: type, kind: str, name: str) -> None:
    cls = type("Bad", (base,), {name: {"coroutine": _awaits, "generator": _yields}[kind]})
    if (kind == "generator" and name in ("connection_groups", "decorators")) or (
        name == "encode_json" and base is WebsocketConsumer
    ):
        Router([route_class(cls)])
        return
    with pytest.raises(ConfigurationError) as error:
        Router([route_class(cls)])
    assert str(error.value) == (
        f"the method {name!r} of the class of channel_routing[0] is a {kind} function, which does nothing when it is "
        "called; write it with plain def"
    )


@pytest.mark.parametrize("base", [WebsocketConsumer, JsonWebsocketConsumer])
@pytest.mark.parametrize("make", [_awaits, _yields])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "get_handler"])
def test_method_of_a_class_that_has_not_run_is_reported(
    layer: MemoryLayer, caplog: pytest.LogCaptureFixture, base: type, make: Callable[[Any], object], name: str
) -> None:
    # As a decorator may hide it, so that nothing shows at start.
    def hidden(self: Any, *args: Any, **kwargs: Any) -> object:
        return make(self)

    cls = type("Hidden", (base,), {name: hidden})
    client = Client(layer, route_class(cls))
    consumers = client.consumers
    run = {
        "websocket.connect": lambda: consumers.connect(client.content()),
        "websocket.receive": lambda: consumers.receive(client.content(text="1")),
        "websocket.disconnect": lambda: consumers.disconnect(client.content(code=1000)),
    }[METHODS[name]]
    if METHODS[name] == "websocket.connect":
        with pytest.raises(TypeError, match="and has not run; write plain def"):
            run()
    else:
        run()
    assert "and has not run; write plain def" in caplog.text
    assert client.received == []


def test_method_that_calls_ours_without_returning_what_it_gives_hides_nothing(layer: MemoryLayer) -> None:
    class Hiding(WebsocketConsumer):
        def dispatch(self, message: Message, **kwargs: Any) -> None:
            super().dispatch(message, **kwargs)

        def raw_connect(self, message: Message, **kwargs: Any) -> None:
            super().raw_connect(message, **kwargs)

        def connect(self, message: Message, **kwargs: Any) -> Any:
            return _denies(message)

    client = Client(layer, route_class(Hiding))
    with pytest.raises(TypeError, match="returned a coroutine and has not run; write plain def"):
        client.connect()


def test_named_groups_may_have_any_name(layer: MemoryLayer) -> None:
    seen: list[dict[str, Any]] = []

    class Named(WebsocketConsumer):
        def connect(self, message: Message, **kwargs: Any) -> None:
            seen.append(kwargs)

    client = Client(layer, route_class(Named, path="^/(?P<function>.)(?P<consumer>.)(?P<result>.)"), path="/abc")
    client.connect()
    assert seen == [{"function": "a", "consumer": "b", "result": "c"}]


def test_coroutine_function_that_asgiref_runs_is_a_consumer(layer: MemoryLayer) -> None:
    class Running(WebsocketConsumer):
        @async_to_sync
        async def connect(self, message: Message, **kwargs: Any) -> None:
            self.close()

        @functools.partialmethod
        def receive(self, **kwargs: Any) -> None:
            self.send(text="partial")

    client = Client(layer, route_class(Running))
    client.connect()
    client.says("x")
    assert client.received == [{"close": True}, {"text": "partial"}]
    client = Client(layer, route("websocket.connect", async_to_sync(_denies)))
    with pytest.raises(DenyConnection):
        client.connect()


def _run_async(consumer: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The decorator that many projects have."""

    @functools.wraps(consumer)
    def run(*args: Any, **kwargs: Any) -> None:
        coroutine = consumer(*args, **kwargs)
        with pytest.raises(StopIteration):
            coroutine.send(None)

    return run


async def _answers(message: Message) -> None:
    message.reply_channel.send({"text": "ran"})


def test_decorator_that_runs_a_coroutine_makes_a_consumer_of_it(layer: MemoryLayer) -> None:
    class Running(WebsocketConsumer):
        @_run_async
        async def receive(self, text: str | None = None, **kwargs: Any) -> None:
            self.send(text=text)

    client = Client(
        layer, route("websocket.connect", channel_session(_run_async(_answers))), route_class(Running, path="^/")
    )
    client.connect()
    client.says("x")
    assert client.received == [{"text": "ran"}, {"text": "x"}]


def test_coroutine_function_under_our_decorators_ends_the_start() -> None:
    for consumer in (channel_session(_answers), http_session(_answers), enforce_ordering(_answers)):
        with pytest.raises(ConfigurationError, match="is a coroutine function"):
            Router([route("websocket.connect", functools.partial(consumer))])


def test_hook_that_fails_keeps_nobody_from_running(layer: MemoryLayer, caplog: pytest.LogCaptureFixture) -> None:
    events: list[str] = []

    def fail() -> None:
        events.append("failing")
        raise ZeroDivisionError

    configuration.configure(started=fail, finished=fail)
    configuration.configure(started=lambda: events.append("started"), finished=lambda: events.append("finished"))
    client = Client(layer, route("websocket.disconnect", lambda message: events.append("disconnect")))
    client.leaves()
    assert events == ["failing", "started", "disconnect", "failing", "finished"]
    assert caplog.text.count("the hook tests.consumers.test_consumer_kinds.") == 2


def test_dispatch_of_a_class_is_around_its_handlers(layer: MemoryLayer) -> None:
    class Guarded(JsonWebsocketConsumer):
        def dispatch(self, message: Message, **kwargs: Any) -> Any:
            if "secret" not in message.get("text", "secret"):
                self.send("no")
                return None
            return super().dispatch(message, **kwargs)

        def receive(self, content: Any, **kwargs: Any) -> None:
            self.send(content)

    client = Client(layer, route_class(Guarded, path="^/"))
    client.connect()
    client.says('"secret"')
    client.says('"other"')
    assert client.received == [{"accept": True}, {"text": '"secret"'}, {"text": '"no"'}]


def test_each_try_of_a_message_has_a_session_that_is_saved(layer: MemoryLayer) -> None:
    @channel_session
    def later(message: Message) -> None:
        message.channel_session["tries"] = message.channel_session.get("tries", 0) + 1
        if message.channel_session["tries"] < 3:
            raise ConsumeLater

    client = Client(layer, route("websocket.receive", later))
    client.says("x")
    assert layer.session_load(client.name) == {"tries": 3}


def test_refusal_stands_where_the_session_cannot_be_saved(layer: MemoryLayer, caplog: pytest.LogCaptureFixture) -> None:
    @channel_session
    def deny(message: Message) -> None:
        message.channel_session["object"] = object()
        raise DenyConnection

    client = Client(layer, route("websocket.connect", deny))
    with pytest.raises(DenyConnection):
        client.connect()
    assert f"the session of {client.name} could not be saved" in caplog.text


@pytest.mark.parametrize(
    ("before", "after"), [(1, True), (0, False), (1, 1.0), ([1], [True]), ({"a": 0}, {"a": False})]
)
def test_session_is_saved_when_a_value_changes_its_type_alone(layer: MemoryLayer, before: Any, after: Any) -> None:
    session = ChannelSession(layer, "reply.a!0123456789abcdef")
    session["key"] = before
    session.save()
    session["key"] = before
    assert not session.modified
    session["key"] = after
    assert session.modified


def test_session_ends_with_a_disconnect_that_exits(layer: MemoryLayer) -> None:
    @channel_session
    def leave(message: Message) -> None:
        message.channel_session["left"] = True
        raise SystemExit

    client = Client(layer, route("websocket.disconnect", leave))
    with pytest.raises(SystemExit):
        client.leaves()
    assert layer.session_load(client.name) is None


def test_session_is_saved_when_it_is_said_to_be_modified(layer: MemoryLayer) -> None:
    @channel_session
    def mark(message: Message) -> None:
        message.channel_session.modified = True

    client = Client(layer, route("websocket.receive", mark))
    client.says("x")
    assert layer.session_load(client.name) == {}


def test_message_takes_new_values_and_copies_itself(layer: MemoryLayer) -> None:
    seen: list[Any] = []

    def change(message: Message) -> None:
        message["more"] = 1
        other = message.copy()
        assert type(other) is Message
        seen.append((dict(other)["more"], other.reply_channel, other.channel_name, other is message))

    client = Client(layer, route("websocket.receive", change))
    client.says("x")
    assert seen == [(1, client.name, "websocket.receive", False)]

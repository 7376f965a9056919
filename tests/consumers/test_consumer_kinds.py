"""Consumers of unusual kinds, hooks that fail, and what Channels 1 lets classes and messages do."""

from __future__ import annotations

from typing import Any

import pytest

from offload import route, route_class
from offload.consumers import JsonWebsocketConsumer, configuration
from offload.consumers.message import Message
from offload.consumers.sessions import ChannelSession, channel_session
from offload.exceptions import ConsumeLater, DenyConnection
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

"""Names of Channels 1.1 that consumers use: multiplexed streams, sessions with Django's methods, exceptions, layers."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from offload import Channel, Group, Message, channel_layers, get_channel_layer, route, route_class
from offload.consumers import JsonWebsocketConsumer, WebsocketDemultiplexer, WebsocketMultiplexer
from offload.consumers.routing import Router
from offload.consumers.sessions import ChannelSession, channel_session, session_for_reply_channel
from offload.exceptions import (
    ChannelSocketException,
    ConfigurationError,
    SendNotAvailableOnDemultiplexer,
    WebsocketCloseException,
)
from offload.layers.memory import MemoryLayer
from tests.consumers.test_dispatch import Client
from tests.redis_server import until
from tests.serving import DEADLINE

# Streams


class News(JsonWebsocketConsumer):
    groups = ("readers",)

    def connect(self, message: Message, multiplexer: Any, **kwargs: Any) -> None:
        multiplexer.send({"hello": kwargs})

    def receive(self, content: Any, multiplexer: Any, **kwargs: Any) -> None:
        if content.get("wrongly"):
            self.send(content)
        multiplexer.send(content)

    def disconnect(self, message: Message, **kwargs: Any) -> None:
        Group("readers").send({"text": "one has left"})


heard: list[str] = []


def function(message: Message, multiplexer: WebsocketMultiplexer, **kwargs: Any) -> None:
    heard.append(message.channel_name)


class Streams(WebsocketDemultiplexer):
    consumers = {"news": News, "log": function}


@pytest.fixture
def client(layer: MemoryLayer) -> Client:
    heard.clear()
    return Client(layer, route_class(Streams, path=r"^/(?P<id>\d+)$"), path="/7")


def test_streams_of_one_websocket_reach_their_consumers(client: Client) -> None:
    client.connect()
    client.says(json.dumps({"stream": "news", "payload": {"a": 1}}))
    client.says(json.dumps({"stream": "log", "payload": {}}))
    WebsocketMultiplexer.group_send("readers", "news", {"b": 2}, close=True)
    client.leaves()

    texts = [json.loads(reply["text"]) for reply in client.received[1:4]]
    assert client.received[0] == {"accept": True}
    assert texts == [
        {"stream": "news", "payload": {"hello": {"id": "7"}}},
        {"stream": "news", "payload": {"a": 1}},
        {"stream": "news", "payload": {"b": 2}},
    ]
    assert client.received[3]["close"] is True
    assert heard == ["websocket.connect", "websocket.receive", "websocket.disconnect"]


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        ({"stream": "other", "payload": {}}, "no consumer has the stream 'other'; there are news, log"),
        ({"stream": "news", "payload": 5}, "the payload for the stream 'news' is a int, not a dict"),
        ({"payload": {}}, 'a multiplexed message is {"stream": ..., "payload": {...}}; this one has other keys'),
        (
            {"stream": "news", "payload": {"wrongly": True}},
            "send would leave out the stream; use send of the multiplexer, which consumers get as a keyword",
        ),
    ],
)
def test_message_for_no_stream_is_reported(
    client: Client, sent: Any, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.says(json.dumps(sent))
    assert problem in caplog.text
    assert not client.received


def test_class_that_is_a_stream_keeps_its_send_elsewhere(client: Client, layer: MemoryLayer) -> None:
    with pytest.raises(SendNotAvailableOnDemultiplexer):
        Streams.group_send("readers", "news", {})
    assert News.send is JsonWebsocketConsumer.send


def test_stream_whose_consumer_cannot_be_called_is_found_at_start() -> None:
    class Wrong(WebsocketDemultiplexer):
        consumers = {"news": 5}

    with pytest.raises(ConfigurationError, match=r"the consumer of stream 'news' of .* is 5, which cannot be called"):
        Router([route_class(Wrong)])


# Messages


def test_message_takes_its_reply_channel_from_its_content(layer: MemoryLayer) -> None:
    message = Message({"reply_channel": "somebody", "list": [1]}, "jobs", layer)
    copied = message.copy()
    copied["list"].append(2)
    assert message.reply_channel == "somebody"
    assert message.reply_channel.channel_layer is layer
    assert (message["list"], copied["list"], copied.reply_channel) == ([1], [1, 2], "somebody")
    assert Message({}, "jobs", layer).reply_channel is None


# Sessions


class Consumers:
    @channel_session
    def method(self, message: Message) -> None:
        message.channel_session["n"] = 1

    @staticmethod
    @channel_session
    def later(first: int, second: int, message: Message) -> None:
        message.channel_session["n"] = first + second


def test_session_decorator_finds_the_message_behind_other_arguments(layer: MemoryLayer) -> None:
    message = Message({"reply_channel": "one"}, "jobs", layer)
    Consumers().method(message)
    Consumers.later(1, 2, Message({"reply_channel": "two"}, "jobs", layer))
    assert (session_for_reply_channel("one")["n"], session_for_reply_channel("two")["n"]) == (1, 3)
    with pytest.raises(ValueError, match="was called without a Message"):
        Consumers.later(1, 2, {})  # type: ignore[arg-type]


def test_session_comes_back_as_from_djangos_json(layer: MemoryLayer) -> None:
    session = ChannelSession(layer, "one")
    session["value"] = {1: (1, (2,)), None: True, False: 1.5, 2.5: b"bytes"}
    session.save(must_create=True)
    assert ChannelSession(layer, "one")["value"] == {"1": [1, [2]], "null": True, "false": 1.5, "2.5": b"bytes"}
    assert not session.modified


def test_session_has_djangos_methods(layer: MemoryLayer) -> None:
    session = ChannelSession(layer, "one")
    assert (session.accessed, session.exists("one"), session.is_empty()) == (False, False, True)
    session.create()
    assert session.exists("one")
    session.update(a=1, b=2)
    session.cycle_key()
    assert session.has_key("a")
    assert (session.session_key, session.modified, session.accessed) == ("one", True, True)
    assert session.load() == {}
    session.save()
    assert session.load() == {"a": 1, "b": 2}
    session.flush()
    assert (session.is_empty(), session.modified, session.exists("one")) == (True, False, False)


def test_session_expires_when_it_was_told_to(layer: MemoryLayer) -> None:
    session = ChannelSession(layer, "one")
    assert session.get_expiry_age() == layer.group_expiry
    session.set_expiry(60)
    assert session.get_expiry_age() == 60
    session.set_expiry(timedelta(hours=1))
    assert 3590 < session.get_expiry_age() <= 3600
    assert abs(session.get_expiry_date() - datetime.now(timezone.utc) - timedelta(hours=1)) < timedelta(seconds=10)
    session.save()
    assert 3590 < ChannelSession(layer, "one").get_expiry_age() <= 3600
    session.set_expiry(datetime(2001, 1, 1))
    session.save()
    assert not session.exists("one")
    session.set_expiry(None)
    assert session.get_expiry_age() == layer.group_expiry


# Exceptions


class Away(ChannelSocketException):
    def run(self, message: Message) -> None:
        Channel(str(message.reply_channel)).send({"text": "come back later"})


def test_exception_of_a_consumer_acts_on_its_socket(layer: MemoryLayer, caplog: pytest.LogCaptureFixture) -> None:
    def consumer(message: Message) -> None:
        raise Away if message["text"] == "away" else WebsocketCloseException(4001)

    client = Client(layer, route("websocket.receive", consumer))
    client.says("away")
    client.says("close")
    assert client.received == [{"text": "come back later"}, {"close": 4001}]
    assert not caplog.text


def test_exception_of_a_connect_consumer_acts_on_its_handshake(layer: MemoryLayer) -> None:
    def consumer(message: Message) -> None:
        raise WebsocketCloseException

    client = Client(layer, route("websocket.connect", consumer))
    client.connect()
    assert client.received == [{"close": True}]


@pytest.mark.parametrize("code", [0, 999, 1001, 2999, 5000, True, "4000"])
def test_close_code_that_is_not_for_applications_is_refused(code: Any) -> None:
    with pytest.raises(ValueError, match=r"^the close code is .*; it is 1000, or 3000 to 4999$"):
        WebsocketCloseException(code)


def test_close_exception_belongs_to_websockets(layer: MemoryLayer) -> None:
    message = Message({"reply_channel": "one"}, "jobs", layer)
    with pytest.raises(ValueError, match=r"^a message on 'jobs' comes from no WebSocket that could be closed$"):
        WebsocketCloseException().run(message)


# Replies


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"txt": "hi"}, "a reply has no key 'txt'; did you mean 'text'?"),
        (
            {"message": "hi"},
            "a reply has no key 'message'; it has text, bytes, close, accept, subprotocol, headers, status, content",
        ),
        ({"text": {"a": 1}}, "a reply's text is a dict, not a str; encode it, for instance as JSON"),
        ({"bytes": "text"}, "a reply's bytes are a str, not bytes"),
        ({"close": 1006}, "a reply's close is 1006; it is True, or a code such as 1000 or 3000 to 4999"),
        ({"accept": True, "subprotocol": 1}, "a reply's subprotocol is a int, not a str"),
        ({}, "a reply is empty; it has text, bytes, close, accept, subprotocol, headers, status, content"),
    ],
)
@pytest.mark.parametrize("channel", ["websocket.connect", "websocket.receive"])
def test_malformed_reply_raises_where_it_is_sent(
    layer: MemoryLayer, channel: str, content: Any, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    def consumer(message: Message) -> None:
        assert message.reply_channel is not None
        message.reply_channel.send(content)

    client = Client(layer, route(channel, consumer))
    if channel == "websocket.connect":
        with pytest.raises((ValueError, TypeError)):
            client.connect()
    else:
        client.says("x")
    assert problem in caplog.text
    assert "in consumer\n    message.reply_channel.send(content)" in caplog.text
    assert not client.received


# Layers


def test_layers_are_found_by_alias(layer: MemoryLayer) -> None:
    assert list(channel_layers) == ["default"]
    assert "images" not in channel_layers
    with pytest.raises(KeyError):
        channel_layers["images"]
    assert get_channel_layer() is layer
    default = channel_layers["default"]
    assert (default.channel_layer, default.capacity, str(default)) == (layer, 100, "default (MemoryLayer)")
    assert (default.routing, default.router.channels) == ([], set())
    assert default.receive_many(["jobs"]) == (None, None)
    Group("all").add("jobs")
    default.send_group("all", {"n": 1})
    assert default.receive_many(["jobs"], block=True) == ("jobs", {"n": 1})
    for _ in range(100):
        default.send("jobs", {})
    with pytest.raises(default.ChannelFull):
        default.send("jobs", {})


# Delays


def test_message_is_delayed_by_an_argument_or_by_its_own_channel(layer: MemoryLayer) -> None:
    Channel("jobs").send({"n": 2}, delay=0.2)
    Channel("asgi.delay").send({"channel": "jobs", "content": {"n": 1}, "delay": 50})
    Channel("jobs").send({"n": 0})
    assert [layer.receive(["jobs"], DEADLINE) for _ in range(3)] == [("jobs", {"n": number}) for number in range(3)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"test": "value"}, 'a message on "asgi.delay" is {"channel": ..., "content": {...}, "delay": milliseconds}'),
        ({"channel": "jobs", "content": {}, "delay": "1"}, "the delay is a str, not a number of milliseconds"),
        ({"channel": "jobs", "content": {}, "delay": -1}, "the delay is -0.001; it is a number of seconds from 0 to"),
    ],
)
def test_malformed_delay_raises_where_it_is_sent(layer: MemoryLayer, content: Any, problem: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(problem)):
        Channel("asgi.delay").send(content)


def test_reply_may_be_delayed(layer: MemoryLayer) -> None:
    def consumer(message: Message) -> None:
        assert message.reply_channel is not None
        message.reply_channel.send({"text": "later"}, delay=0.5)
        message.reply_channel.send({"text": "now"})

    client = Client(layer, route("websocket.receive", consumer))
    client.says("x")
    until(lambda: client.received == [{"text": "now"}, {"text": "later"}], "the delayed reply")

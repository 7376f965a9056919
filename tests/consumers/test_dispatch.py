"""The local dispatch: consumers run with their message, and nothing of theirs gets out."""

from __future__ import annotations

import gc
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from offload import Channel, ConsumeLater, DenyConnection, Group, Message, route
from offload.consumers import JsonWebsocketConsumer, WebsocketConsumer, configuration
from offload.consumers.dispatch.local import BoundConsumers, Dispatch
from offload.consumers.routing import Router
from offload.consumers.sessions import channel_session, enforce_ordering, session_for_reply_channel
from offload.exceptions import ChannelFull, ConfigurationError, InvalidChannelName
from offload.interfaces import Delivery
from offload.layers.ipc import IPCLayer, default_path
from offload.layers.memory import MemoryLayer


class Client:
    """A reply channel as a gateway would attach it."""

    def __init__(self, layer: MemoryLayer, *entries: Any, path: str = "/") -> None:
        self.layer = layer
        self.name = layer.new_channel("websocket.send")
        self.received: list[dict[str, Any]] = []
        layer.attach(self.name, self._deliver)
        self.path = path
        bound = Dispatch(Router(list(entries)), layer).bind(self.content())
        assert bound is not None
        self.consumers: BoundConsumers = bound

    def _deliver(self, delivery: Delivery) -> None:
        self.received.append(delivery.content)

    def content(self, **more: Any) -> dict[str, Any]:
        return {"reply_channel": self.name, "path": self.path, "order": 0, **more}

    def connect(self) -> None:
        self.consumers.connect(self.content())

    def says(self, text: str) -> None:
        self.consumers.receive(self.content(text=text))

    def leaves(self, code: int = 1000) -> None:
        self.consumers.disconnect(self.content(code=code))
        self.layer.detach(self.name)


def echo(message: Message) -> None:
    assert message.reply_channel is not None
    message.reply_channel.send({"text": message["text"]})


def test_each_message_of_a_connection_knows_the_headers_of_its_handshake(layer: MemoryLayer) -> None:
    seen: list[Any] = []

    def note(message: Message) -> None:
        seen.append(message.headers)

    given = [[b"host", b"a"], [b"cookie", b"a=1"], [b"sec-websocket-key", b"k"], [b"cookie", b"b=2"]]
    kept = [pair for pair in given if pair[0] != b"sec-websocket-key"]
    channels = ("connect", "receive", "disconnect")
    bound = Dispatch(Router([route(f"websocket.{name}", note) for name in channels]), layer).bind(
        {"reply_channel": "a!b", "path": "/", "headers": given}
    )
    assert bound is not None
    bound.connect({"reply_channel": "a!b", "path": "/", "headers": given})
    bound.receive({"reply_channel": "a!b", "path": "/", "text": "hi"})
    bound.receive({"reply_channel": "a!b", "path": "/", "text": "hi"})
    bound.disconnect({"reply_channel": "a!b", "path": "/", "code": 1000})
    assert seen == [given, kept, kept, kept]
    # What a consumer does to its list is nobody else's matter.
    assert seen[1] is not seen[2]
    assert Message({}, "thumbnails", layer).headers is None


def test_headers_that_many_clients_send_alike_are_kept_once(layer: MemoryLayer) -> None:
    import tracemalloc

    dispatch = Dispatch(Router([route("websocket.receive", echo)]), layer)

    def bind(number: int) -> BoundConsumers | None:
        # As they come from the wire: equal, and not the same.
        agent = [[b"field-%d" % name, bytes(bytearray(b"x" * 100))] for name in range(12)]
        headers = [*agent, [b"cookie", b"session=%032d" % number], [b"sec-websocket-key", b"%024d" % number]]
        return dispatch.bind({"reply_channel": f"a!{number}", "path": "/", "headers": headers})

    warm = [bind(number) for number in range(2000)]
    tracemalloc.start()
    try:
        bound = [bind(number) for number in range(2000, 4000)]
        each = tracemalloc.get_traced_memory()[0] / len(bound)
    finally:
        tracemalloc.stop()
    assert len(warm) == len(bound)
    # The fields alone are over 1,400 bytes.
    assert each < 900


@pytest.mark.parametrize("name", [b"cookie", b"authorization", b"proxy-authorization"])
def test_secrets_of_a_handshake_go_with_its_connection(layer: MemoryLayer, name: bytes) -> None:
    dispatch = Dispatch(Router([route("websocket.receive", echo)]), layer)
    secret = bytes(bytearray(b"hunter2"))
    before = sys.getrefcount(secret)
    bound = dispatch.bind({"reply_channel": "a!b", "path": "/", "headers": [[name, secret]]})
    assert bound is not None
    assert sys.getrefcount(secret) > before
    del bound
    gc.collect()
    assert sys.getrefcount(secret) == before


def test_a_consumer_gets_a_message_that_is_a_mapping(layer: MemoryLayer) -> None:
    seen: list[Message] = []
    client = Client(layer, route("websocket.receive", seen.append))
    client.says("hi")
    (message,) = seen
    assert message.content == message.content | {"text": "hi"}
    assert message["text"] == message.get("text") == "hi"
    assert "text" in message
    assert "bytes" not in message
    assert set(message.keys()) == {"reply_channel", "path", "order", "text"}
    assert message.channel.name == "websocket.receive"
    assert message.reply_channel is not None
    assert message.reply_channel.name == client.name
    assert message.channel_layer is layer


def test_the_reply_channel_is_its_name(layer: MemoryLayer) -> None:
    channel = Channel("websocket.send.a!b")
    assert channel == "websocket.send.a!b"
    assert isinstance(channel, str)
    assert type(channel.name) is str


def test_a_reply_reaches_the_client(layer: MemoryLayer) -> None:
    client = Client(layer, route("websocket.receive", echo))
    client.says("hello")
    Channel(client.name).send({"text": "from elsewhere"})
    assert client.received == [{"text": "hello"}, {"text": "from elsewhere"}]


def test_a_group_reaches_its_members_until_they_leave(layer: MemoryLayer) -> None:
    one, two = Client(layer, route("websocket.receive", echo)), Client(layer, route("websocket.receive", echo))
    group = Group("room")
    group.add(Channel(one.name))
    group.add(two.name)
    group.send({"text": "all"})
    group.discard(two.name)
    group.send({"text": "some"})
    one.leaves()
    group.send({"text": "none"})
    assert one.received == [{"text": "all"}, {"text": "some"}]
    assert two.received == [{"text": "all"}]


def test_a_path_without_a_route_binds_nothing(layer: MemoryLayer) -> None:
    dispatch = Dispatch(Router([route("websocket.receive", echo, path="^/echo$")]), layer)
    assert dispatch.bind({"path": "/", "reply_channel": "websocket.send.a!b"}) is None


def test_the_consumer_is_chosen_by_each_message_where_its_text_decides(layer: MemoryLayer) -> None:
    client = Client(
        layer,
        route("websocket.receive", lambda message: message.reply_channel.send({"text": "json"}), text=r"^\{"),
        route("websocket.receive", echo),
    )
    client.says("{}")
    client.says("plain")
    assert client.received == [{"text": "json"}, {"text": "plain"}]


def test_a_failing_receive_consumer_is_logged_and_the_next_message_runs(
    layer: MemoryLayer, caplog: pytest.LogCaptureFixture
) -> None:
    def fragile(message: Message) -> None:
        if message["text"] == "bad":
            raise KeyError("bad")
        echo(message)

    client = Client(layer, route("websocket.receive", fragile))
    client.says("bad")
    client.says("good")
    assert client.received == [{"text": "good"}]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "fragile failed for /" in record.getMessage()


def test_deny_connection_comes_through_without_a_log_line(layer: MemoryLayer, caplog: pytest.LogCaptureFixture) -> None:
    def deny(message: Message) -> None:
        raise DenyConnection

    client = Client(layer, route("websocket.connect", deny))
    with pytest.raises(DenyConnection):
        client.connect()
    assert not caplog.records


def test_a_failing_connect_consumer_is_logged_and_comes_through(
    layer: MemoryLayer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(message: Message) -> None:
        raise ValueError("no")

    client = Client(layer, route("websocket.connect", fail))
    with pytest.raises(ValueError, match="no"):
        client.connect()
    assert caplog.records[0].exc_info is not None


def test_consume_later_runs_the_same_message_again_ten_times_at_most(
    layer: MemoryLayer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offload.consumers.dispatch.local.LATER_PAUSE", 0.0)
    tries: list[str] = []

    def later(message: Message) -> None:
        tries.append(message["text"])
        if message["text"] == "never" or len(tries) < 3:
            raise ConsumeLater
        echo(message)

    client = Client(layer, route("websocket.receive", later))
    client.says("third")
    assert client.received == [{"text": "third"}]
    tries.clear()
    client.says("never")
    assert len(tries) == 10
    assert "asked 10 times" in caplog.text


def test_names_made_once_use_the_layer_that_is_configured_when_they_send(layer: MemoryLayer) -> None:
    news, jobs = Group("news"), Channel("jobs")
    assert news.channel_layer is jobs.channel_layer is layer
    news.add("member")
    news.send({"n": 1})
    jobs.send({"n": 1})
    second = MemoryLayer()
    configuration.configure(second)
    news.add("member")
    news.send({"n": 2})
    jobs.send({"n": 2})
    assert [second.receive([name], 0) for name in ("member", "jobs")] == [("member", {"n": 2}), ("jobs", {"n": 2})]
    assert news.channel_layer is jobs.channel_layer is second
    # One that was given its layer keeps it.
    given = Group("news", channel_layer=layer)
    configuration.configure(MemoryLayer())
    assert given.channel_layer is layer


def test_configuring_a_layer_that_is_in_use_does_not_close_it(layer: MemoryLayer) -> None:
    received: list[Any] = []
    name = layer.new_channel("reply")
    layer.attach(name, lambda delivery: received.append(delivery.content))
    Channel(name).send({"n": 1})
    configuration.configure(layer, routing=[])
    Channel(name).send({"n": 2})
    configuration.configure(layer, alias="second")
    assert Channel(name, alias="second").channel_layer is layer
    configuration.configure(MemoryLayer())
    Channel(name, alias="second").send({"n": 3})
    assert received == [{"n": 1}, {"n": 2}, {"n": 3}]
    configuration.configure(MemoryLayer(), alias="second")
    layer.send(name, {"n": 4})
    assert received == [{"n": 1}, {"n": 2}, {"n": 3}], "a layer that no alias has any more is closed"


def test_configuring_another_layer_does_not_close_what_a_callable_made(layer: MemoryLayer) -> None:
    received: list[Any] = []
    name = layer.new_channel("reply")
    layer.attach(name, lambda delivery: received.append(delivery.content))
    configuration.configure(lambda: layer)
    Channel(name).send({"n": 1})
    configuration.configure(lambda: layer, routing=[])
    Channel(name).send({"n": 2})
    configuration.configure(lambda: layer, alias="second")
    configuration.configure(MemoryLayer())
    Channel(name, alias="second").send({"n": 3})
    assert received == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_ipc_means_the_directory_in_which_it_was_configured(
    layer: MemoryLayer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = default_path()
    configuration.configure("ipc:")
    monkeypatch.chdir(tmp_path)
    used = configuration.layer_for()
    assert isinstance(used, IPCLayer)
    assert used.path == here != default_path()


def test_hooks_run_around_each_consumer(layer: MemoryLayer) -> None:
    events: list[str] = []
    configuration.configure(started=lambda: events.append("started"), finished=lambda: events.append("finished"))
    client = Client(layer, route("websocket.receive", lambda message: events.append(message["text"])))
    client.says("hi")
    assert events == ["started", "hi", "finished"]


def test_channel_sessions_are_kept_between_messages_and_end_with_the_connection(layer: MemoryLayer) -> None:
    @channel_session
    def count(message: Message) -> None:
        message.channel_session.setdefault("seen", []).append(message["text"])

    client = Client(layer, route("websocket.receive", count))
    client.says("a")
    client.says("b")
    # Also a change inside a nested value was saved, and another process would read it.
    assert dict(session_for_reply_channel(client.name)) == {"seen": ["a", "b"]}
    client.leaves()
    assert layer.session_load(client.name) is None


@channel_session
def saves_itself(message: Message) -> None:
    message.channel_session["user"] = 7
    message.channel_session.save()


@channel_session
def reads(message: Message) -> None:
    assert message.channel_session.get("user") is None


@pytest.mark.parametrize("channel", ["websocket.connect", "websocket.receive", "websocket.disconnect"])
def test_session_that_its_consumer_saved_ends_with_the_connection(layer: MemoryLayer, channel: str) -> None:
    client = Client(layer, route(channel, saves_itself))
    client.connect()
    client.says("a")
    assert layer.session_load(client.name) == (None if channel == "websocket.disconnect" else {"user": 7})
    client.leaves()
    assert layer.session_load(client.name) is None


def test_session_that_another_process_saved_ends_with_a_connection_that_uses_it(layer: MemoryLayer) -> None:
    client = Client(layer, route("websocket.receive", reads))
    client.says("a")
    session_for_reply_channel(client.name).save()
    client.leaves()
    assert layer.session_load(client.name) is None


def test_connection_without_session_costs_no_command_at_its_end(layer: MemoryLayer) -> None:
    calls: list[str] = []
    for name in ("session_load", "session_save", "session_delete"):
        setattr(layer, name, lambda *args, name=name: calls.append(name))
    client = Client(layer, route("websocket.receive", echo))
    client.connect()
    client.says("a")
    client.leaves()
    assert calls == []


def test_session_of_a_refused_handshake_ends_with_it(layer: MemoryLayer) -> None:
    @channel_session
    def refuse(message: Message) -> None:
        message.channel_session["user"] = 7
        message.channel_session.save()
        raise DenyConnection

    client = Client(layer, route("websocket.connect", refuse))
    with pytest.raises(DenyConnection):
        client.connect()
    client.consumers.end()
    assert layer.session_load(client.name) is None


def test_an_unchanged_session_is_not_written(layer: MemoryLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    saves: list[str] = []
    original = layer.session_save
    monkeypatch.setattr(layer, "session_save", lambda *a: (saves.append(a[0]), original(*a)))

    @channel_session
    def look(message: Message) -> None:
        message.channel_session.get("nothing")

    Client(layer, route("websocket.receive", look)).says("a")
    assert saves == []


def test_a_session_needs_a_reply_channel(layer: MemoryLayer) -> None:
    @channel_session
    def consumer(message: Message) -> None: ...

    with pytest.raises(ValueError, match="has no reply channel"):
        consumer(Message({}, "jobs", layer))


def test_enforce_ordering_is_accepted_in_each_of_its_forms() -> None:
    assert enforce_ordering(echo) is echo
    assert enforce_ordering(slight=True)(echo) is echo


def test_class_based_consumers_have_channels_1_methods(layer: MemoryLayer) -> None:
    events: list[Any] = []

    class Room(WebsocketConsumer):
        channel_session = True

        def connection_groups(self, **kwargs: Any) -> list[str]:
            return [f"room-{kwargs['room']}"]

        def connect(self, message: Message, **kwargs: Any) -> None:
            super().connect(message, **kwargs)
            message.channel_session["room"] = kwargs["room"]

        def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            self.group_send(f"room-{kwargs['room']}", text=text)
            self.send(bytes=b"seen")

        def disconnect(self, message: Message, **kwargs: Any) -> None:
            events.append((message["code"], message.channel_session["room"]))

    entry = Room.as_route(path=r"^/(?P<room>\w+)$")
    one, two = Client(layer, entry, path="/lobby"), Client(layer, entry, path="/lobby")
    for client in (one, two):
        client.connect()
    one.says("hi")
    assert one.received == [{"accept": True}, {"text": "hi"}, {"bytes": b"seen"}]
    assert two.received == [{"accept": True}, {"text": "hi"}]
    one.leaves(1001)
    assert events == [(1001, "lobby")]


def test_json_consumers_take_and_send_values(layer: MemoryLayer) -> None:
    class Adder(JsonWebsocketConsumer):
        def receive(self, content: Any, **kwargs: Any) -> None:
            self.send({"sum": sum(content)})

    client = Client(layer, Adder.as_route())
    client.says("[1, 2]")
    assert client.received == [{"text": '{"sum": 3}'}]


def test_as_route_replaces_attributes(layer: MemoryLayer) -> None:
    client = Client(layer, WebsocketConsumer.as_route({"groups": ["news"]}))
    client.connect()
    Group("news").send({"text": "extra"})
    assert client.received == [{"accept": True}, {"text": "extra"}]


def test_an_unconfigured_process_is_told_what_to_do() -> None:
    configuration.reset()
    with pytest.raises(ConfigurationError, match=r"no channel layer is configured as 'default' \(configured: none\)"):
        Channel("jobs").send({})


def test_aliases_are_separate_layers(layer: MemoryLayer) -> None:
    other = MemoryLayer(capacity=1)
    configuration.configure(other, alias="images")
    Channel("resize", alias="images").send({"id": 1})
    with pytest.raises(ChannelFull):
        Channel("resize", alias="images").send({"id": 2})
    assert layer.receive(["resize"], timeout=0) is None
    assert other.receive(["resize"], timeout=0) == ("resize", {"id": 1})


def test_consumers_of_different_connections_may_run_side_by_side(layer: MemoryLayer) -> None:
    meeting = threading.Barrier(2, timeout=10)
    client = Client(layer, route("websocket.receive", lambda message: meeting.wait()))
    other = Client(layer, route("websocket.receive", lambda message: meeting.wait()))
    threads = [threading.Thread(target=c.says, args=("x",)) for c in (client, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert not meeting.broken


def test_a_refused_handshake_leaves_no_session(layer: MemoryLayer) -> None:
    @channel_session
    def deny(message: Message) -> None:
        message.channel_session["user"] = 1
        raise DenyConnection

    client = Client(layer, route("websocket.connect", deny))
    with pytest.raises(DenyConnection):
        client.connect()
    client.consumers.end()
    assert layer.session_load(client.name) is None


def test_a_connect_consumer_that_always_asks_for_later_admits_nobody(
    layer: MemoryLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offload.consumers.dispatch.local.LATER_PAUSE", 0.0)

    def later(message: Message) -> None:
        raise ConsumeLater

    with pytest.raises(ConsumeLater):
        Client(layer, route("websocket.connect", later)).connect()


@pytest.mark.parametrize("name", [None, 5, b"jobs", ["jobs"]])
def test_a_channel_is_not_made_of_what_is_no_name(name: Any) -> None:
    with pytest.raises(InvalidChannelName, match=r"a channel's name is a .*, not a str"):
        Channel(name)

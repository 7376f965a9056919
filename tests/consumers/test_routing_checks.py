"""What a routing's check finds: routes that no message reaches, and consumers that do not take their groups."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from offload import include, route, route_class
from offload.consumers import BaseConsumer, JsonWebsocketConsumer, WebsocketConsumer
from offload.consumers.message import Message
from offload.consumers.routing import Router
from offload.consumers.sessions import channel_session
from offload.exceptions import ConfigurationError


def plain(message: Message) -> None: ...


def of_room(message: Message, room: str) -> None: ...


@channel_session
def decorated(message: Message, room: str) -> None: ...


def other(consumer: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(consumer)
    def with_room(message: Message, **kwargs: Any) -> None:
        consumer(message, kwargs)

    return with_room


@other
def given(message: Message, rooms: dict[str, str]) -> None: ...


class OfRoom(WebsocketConsumer):
    def connect(self, message: Message, room: str) -> None: ...

    def receive(self, text: str | None = None, bytes: bytes | None = None, room: str = "") -> None: ...

    def disconnect(self, message: Message, **kwargs: Any) -> None: ...


class Deaf(JsonWebsocketConsumer):
    def receive(self, content: Any) -> None: ...


class Job(BaseConsumer):
    method_mapping = {"jobs": "run"}

    @classmethod
    def run(cls, message: Message) -> None: ...


ROOM = r"^/chat/(?P<room>\w+)/$"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (
            route("websocket.connect", plain, pth="^/$"),
            "channel_routing[0] filters by 'pth', which no message on 'websocket.connect' carries; "
            "did you mean 'path'?",
        ),
        (
            route("websocket.receive", plain, method="GET"),
            "channel_routing[0] filters by 'method', which no message on 'websocket.receive' carries; "
            "they carry reply_channel, path, order, text, bytes",
        ),
        (
            route("websocket.connect", plain, path="^live/$"),
            "channel_routing[0] filters the path by '^live/$', and each path begins with '/'; write '^/live/$'",
        ),
        (
            include([route("websocket.connect", plain)], path="blog"),
            "channel_routing[0][0] filters the path by 'blog', and each path begins with '/'; write '^/blog'",
        ),
        (
            route("websocket.connect", plain, path=ROOM),
            "the consumer of channel_routing[0] does not take the named groups room of its filters: "
            "got an unexpected keyword argument 'room'",
        ),
        (
            route("websocket.connect", decorated, path="^/chat/$"),
            "the consumer of channel_routing[0] does not take no named groups of its filters: "
            "missing a required argument: 'room'",
        ),
        (
            route_class(Deaf, path=ROOM),
            "the method 'receive' of the consumer of channel_routing[0] does not take the named groups room of its "
            "filters: got an unexpected keyword argument 'room'",
        ),
        (
            route_class(Job, kind="(?P<kind>.*)"),
            "the method 'run' of the consumer of channel_routing[0] does not take the named groups kind of its "
            "filters: got an unexpected keyword argument 'kind'",
        ),
    ],
)
def test_route_that_cannot_work_is_named(entry: Any, problem: str) -> None:
    router = Router([entry])
    with pytest.raises(ConfigurationError) as caught:
        router.check()
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    "entry",
    [
        route("jobs", plain, anything="^x"),
        route("jobs", plain, path="^relative"),
        route("websocket.connect", plain, path="live|/live"),
        route("websocket.connect", plain, path="x?/live"),
        route("websocket.connect", plain, path=r"/?live"),
        route("websocket.connect", plain, query_string="^token="),
        include([route("websocket.connect", plain, path="^live/$")], path="^/blog/"),
        route("websocket.connect", of_room, path=ROOM),
        route("websocket.connect", decorated, path=ROOM),
        route("websocket.connect", given, path=ROOM),
        route("websocket.connect", functools.partial(of_room, room="lobby"), path="^/$"),
        route("websocket.connect", print, path="^/$"),
        route_class(OfRoom, path=ROOM),
        route_class(Job),
    ],
)
def test_route_that_may_work_is_let_be(entry: Any) -> None:
    Router([entry]).check()


def test_path_that_no_connect_route_decides_on_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    Router(
        [
            route("websocket.connect", plain, path="^/chats/$"),
            route("websocket.receive", plain, path="^/chat/$"),
        ]
    ).check()
    assert caplog.messages == [
        "channel_routing[1] receives from /chat/..., and no connect consumer is routed there, so everybody is let in; "
        "did you mean the one of '/chats/'?"
    ]


@pytest.mark.parametrize("connect", [{}, {"path": "^/"}, {"path": r"^/chat/(?P<room>\w+)/"}, {"path": "/(?:a|b)/"}])
def test_path_that_a_connect_route_may_decide_on_is_not_warned_of(
    connect: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    Router(
        [
            route("websocket.connect", lambda message, **groups: None, **connect),
            route("websocket.receive", of_room, path=ROOM),
        ]
    ).check()
    assert not caplog.messages


def test_group_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^channel_routing\[0\] filters path by .* which has a group without a name"):
        Router([route("websocket.connect", plain, path=r"^/chat/([^/]+)/$")])

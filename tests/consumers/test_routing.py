"""Routing: which consumer runs, and with what."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from offload import include, route, route_class
from offload.consumers import BaseConsumer, WebsocketConsumer
from offload.consumers.routing import Router
from offload.consumers.sessions import channel_session
from offload.exceptions import ConfigurationError


def first(message: Any, **kwargs: Any) -> None: ...


def second(message: Any, **kwargs: Any) -> None: ...


async def awaits(message: Any) -> None: ...


def yields(message: Any, more: int) -> Iterator[int]:
    yield more


class Awaiting(BaseConsumer):
    method_mapping = {"jobs": "work"}

    async def work(self, message: Any) -> None: ...


def receive(path: str, **more: Any) -> dict[str, Any]:
    return {"reply_channel": "websocket.send.a!b", "path": path, "order": 1, **more}


inner_routing = [
    route("websocket.receive", first, path=r"^/(?P<slug>\w+)/$"),
    route("websocket.receive", second, path=r"^/$"),
]


def test_the_first_match_wins() -> None:
    router = Router([route("jobs", first), route("jobs", second)])
    assert router.find("jobs", {}) == (first, {})


def test_named_groups_become_keyword_arguments() -> None:
    router = Router([route("websocket.receive", first, path=r"^/chat/(?P<room>\w+)/$")])
    assert router.find("websocket.receive", receive("/chat/lobby/")) == (first, {"room": "lobby"})
    assert router.find("websocket.receive", receive("/chat/")) is None


def test_a_filter_matches_from_the_beginning_as_re_match_does() -> None:
    router = Router([route("websocket.receive", first, path="/chat")])
    assert router.find("websocket.receive", receive("/chat/anything")) is not None
    assert router.find("websocket.receive", receive("/a/chat")) is None


def test_all_filters_must_match_and_a_missing_value_does_not() -> None:
    router = Router([route("jobs", first, kind="^resize$", size=r"^(?P<size>\d+)$")])
    assert router.find("jobs", {"kind": "resize", "size": 40}) == (first, {"size": "40"})
    assert router.find("jobs", {"kind": "resize"}) is None
    assert router.find("jobs", {"kind": "crop", "size": 40}) is None


def test_bytes_are_matched_as_text() -> None:
    router = Router([route("websocket.connect", first, query_string=r"^token=(?P<token>\w+)")])
    assert router.find("websocket.connect", {"query_string": b"token=abc"}) == (first, {"token": "abc"})


def test_patterns_may_be_bytes() -> None:
    router = Router([route("websocket.connect", first, path=b"^/b"), route("websocket.connect", second)])  # type: ignore[arg-type]
    assert router.find("websocket.connect", {"path": "/bytes"}) == (first, {})
    assert router.find("websocket.connect", {"path": "/text"}) == (second, {})


def test_one_route_may_have_several_channels() -> None:
    router = Router([route(["jobs", "websocket.connect"], first), route("other", second)])
    assert router.channels == {"jobs", "websocket.connect", "other"}
    assert router.find("jobs", {}) == router.find("websocket.connect", {}) == (first, {})


def test_class_with_other_attributes_keeps_its_name() -> None:
    consumer = Awaiting.as_route({"method_mapping": {}}).consumer
    assert (consumer.__module__, consumer.__qualname__) == (__name__, "Awaiting")


def test_class_whose_consumers_run_elsewhere_needs_nothing_here() -> None:
    routing = [WebsocketConsumer.as_route({"http_user": True}), WebsocketConsumer.as_route({"method_mapping": {}})]
    assert sorted(Router(routing, imports=False).channels) == [
        "websocket.connect", "websocket.disconnect", "websocket.receive",
    ]  # fmt: skip


def test_methods_of_a_project_may_have_any_name() -> None:
    class Live(WebsocketConsumer):
        def check(self, text: str) -> bool:
            return text != "spam"

    class Other:
        method_mapping = {"jobs": "check"}

        def check(self) -> None:
            raise AssertionError("it was called")

    router = Router([route_class(Live), route_class(Other)])
    assert router.find("jobs", {}) == (Other, {})
    assert router.find("websocket.receive", receive("/")) == (Live, {})


def test_include_strips_what_it_matched() -> None:
    router = Router([include(inner_routing, path=r"^/blog/(?P<lang>\w\w)")])
    assert router.find("websocket.receive", receive("/blog/en/hello/")) == (first, {"lang": "en", "slug": "hello"})
    assert router.find("websocket.receive", receive("/blog/en/")) == (second, {"lang": "en"})
    assert router.find("websocket.receive", receive("/hello/")) is None


def test_includes_nest_and_may_be_dotted_paths() -> None:
    middle = [include(f"{__name__}.inner_routing", path=r"^/b")]
    router = Router([include(middle, path=r"^/a")])
    assert router.find("websocket.receive", receive("/a/b/c/")) == (first, {"slug": "c"})


def test_lists_inside_lists_and_dicts_are_routings_too() -> None:
    assert Router([[route("jobs", first)]]).find("jobs", {}) == (first, {})
    assert Router({"jobs": first}).find("jobs", {}) == (first, {})  # type: ignore[arg-type]


def test_a_consumer_may_be_a_dotted_path() -> None:
    router = Router([route("jobs", f"{__name__}.first")])
    assert router.find("jobs", {}) == (first, {})


def test_a_class_takes_all_channels_of_its_mapping() -> None:
    router = Router([route_class(WebsocketConsumer, path="^/c")])
    assert sorted(router.channels) == ["websocket.connect", "websocket.disconnect", "websocket.receive"]
    assert router.find("websocket.connect", receive("/c")) == (WebsocketConsumer, {})


def test_a_handshake_is_routed_when_any_websocket_consumer_wants_its_path() -> None:
    router = Router([route("websocket.receive", first, path="^/echo$", text="^{"), route("jobs", first)])
    assert router.accepts_websocket({"path": "/echo", "reply_channel": "x"})
    assert not router.accepts_websocket({"path": "/other", "reply_channel": "x"})


@pytest.mark.parametrize(
    ("routing", "message"),
    [
        (5, "channel_routing is a int, not a list; write channel_routing = [route(...), ...]"),
        (
            [route("jobs", first), None],
            "channel_routing[1] is None, not a routing entry; "
            "write route(channel, consumer, path=...), route_class(...) or include(...)",
        ),
        ([route("jobs", 5)], "the consumer of channel_routing[0] is 5, which cannot be called"),  # type: ignore[arg-type]
        ([route("", first)], "channel_routing[0] names the channel ''; a channel's name is a string"),
        (
            [route("jobs", "nowhere")],
            "the consumer of channel_routing[0] is 'nowhere'; write it as package.module.name",
        ),
        (
            [route_class(first)],
            f"the class of channel_routing[0] is {first!r}, without a method_mapping; "
            "derive it from offload.consumers.BaseConsumer",
        ),
        (
            [route("jobs", awaits)],
            "the consumer of channel_routing[0] is a coroutine function, which does nothing when it is called; "
            "write it with plain def",
        ),
        (
            [route("jobs", functools.partial(yields, 1))],
            "the consumer of channel_routing[0] is a generator function, which does nothing when it is called; "
            "write it with plain def",
        ),
        (
            [route("jobs", channel_session(awaits))],
            "the consumer of channel_routing[0] is a coroutine function, which does nothing when it is called; "
            "write it with plain def",
        ),
        (
            [route_class(Awaiting)],
            "the method 'work' of the class of channel_routing[0] is a coroutine function, which does nothing when it "
            "is called; write it with plain def",
        ),
        (
            [route_class(Awaiting.as_route({"method_mapping": {"jobs": "wrok"}}).consumer)],
            "the class of channel_routing[0] has no method 'wrok', which its method_mapping has for 'jobs'",
        ),
        (
            [WebsocketConsumer.as_route({"groups": "lobby"})],
            "the class of channel_routing[0] has groups = 'lobby'; write a list of names: ['lobby']",
        ),
        (
            [WebsocketConsumer.as_route({"http_user": True})],
            "http_user = True needs Django's sessions and users; add 'django_offload' to INSTALLED_APPS",
        ),
        (
            [route("websocket.connect", first, path=re.compile(b"^/x"))],  # type: ignore[arg-type]
            "channel_routing[0] filters path by re.compile(b'^/x'), not a regular expression: "
            "cannot use a bytes pattern on a string-like object",
        ),
        (
            "no_such_package.routing.channel_routing",
            "the routing is 'no_such_package.routing.channel_routing', but there is no module 'no_such_package'",
        ),
    ],
)
def test_a_wrong_entry_is_named(routing: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        Router(routing)
    assert str(error.value) == message

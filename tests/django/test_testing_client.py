"""`django_offload.testing`: clients and test cases, used as a project's tests use them."""

from __future__ import annotations

import io
import threading
import unittest
from typing import Any

import pytest
from django.contrib import auth
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.http.cookie import parse_cookie
from django.test import override_settings

from django_offload.decorators import (
    channel_session,
    channel_session_user_from_http,
    http_session_user,
    login_required,
)
from django_offload.testing import (
    ChannelTestCase,
    Client,
    HttpClient,
    TransactionChannelTestCase,
    WebSocketClient,
    WSClient,
    apply_routes,
)
from offload import Channel, DenyConnection, Group, route, route_class
from offload.consumers import WebsocketConsumer, configuration
from offload.layers.memory import MemoryLayer

DISCONNECTED: list[tuple[str, int]] = []


@channel_session_user_from_http
def enter(message: Any, room: str) -> None:
    message.channel_session["room"] = room
    Group(f"room-{room}").add(message.reply_channel)


@channel_session
def speak(message: Any, room: str) -> None:
    Group(f"room-{room}").send({"text": f"{message.channel_session['room']}: {message.get('text')}"})


@channel_session
def leave(message: Any, room: str) -> None:
    Group(f"room-{room}").discard(message.reply_channel)
    DISCONNECTED.append((room, message["code"]))


@login_required
def members(message: Any) -> None:
    message.reply_channel.send({"text": message.user.username})


def create(message: Any) -> None:
    User.objects.create_user(message["text"])
    message.reply_channel.send({"text": str(User.objects.count())})


def by_bytes(message: Any) -> None:
    message.reply_channel.send({"bytes": message["bytes"][::-1]})


@http_session_user
def log_in(message: Any) -> None:
    auth.login(message.http_request, User.objects.get())


def refuse(message: Any) -> None:
    raise DenyConnection


def fail(message: Any) -> None:
    raise ValueError("as wanted")


def choose(message: Any) -> None:
    offered = dict(map(tuple, message["headers"]))[b"sec-websocket-protocol"].decode().split(", ")
    message.reply_channel.send({"accept": True, "subprotocol": offered[-1]})
    message.reply_channel.send({"text": f"{message['path']} {message['query_string'].decode()}"})


def close(message: Any) -> None:
    message.reply_channel.send({"text": "bye", "close": 4001})


def later(message: Any) -> None:
    reply = message.reply_channel
    threading.Timer(0.01, reply.send, [{"text": "late"}]).start()


def resize(message: Any) -> str:
    message.reply_channel.send({"text": f"{message['id']} resized"})
    return "done"


class Echo(WebsocketConsumer):
    def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
        self.send(text=text)


ROUTES = [
    route("websocket.connect", enter, path=r"^/room/(?P<room>\w+)$"),
    route("websocket.receive", speak, path=r"^/room/(?P<room>\w+)$"),
    route("websocket.disconnect", leave, path=r"^/room/(?P<room>\w+)$"),
    route("websocket.connect", members, path="^/members$"),
    route("websocket.receive", create, path="^/create$"),
    route("websocket.receive", by_bytes, path="^/bytes$"),
    route("websocket.connect", log_in, path="^/log-in$"),
    route("websocket.connect", refuse, path="^/refuse$"),
    route("websocket.connect", fail, path="^/fail$"),
    route("websocket.receive", fail, path="^/fail-later$"),
    route("websocket.connect", choose, path="^/choose$"),
    route("websocket.receive", close, path="^/close$"),
    route("websocket.receive", later, path="^/later$"),
    route("images.resize", resize),
    route_class(Echo, path="^/echo$"),
]


@pytest.fixture(autouse=True)
def _routed(db: None, channel_layers: None) -> Any:
    DISCONNECTED.clear()
    with apply_routes(ROUTES):
        yield


def test_a_room_of_two_clients() -> None:
    one, two = WebSocketClient(), WebSocketClient()
    assert one.connect("/room/tea")
    assert two.connect("/room/tea").status == 101
    one.send("hello")

    assert [one.receive(), two.receive()] == ["tea: hello"] * 2
    assert one.receive() is None

    two.disconnect(1001)
    one.send(text="anybody?")
    assert one.receive() == "tea: anybody?"
    assert two.receive() is None
    assert DISCONNECTED == [("tea", 1001)]
    assert (one.connected, two.connected, two.close_code) == (True, False, 1001)


def test_what_others_send_reaches_the_client() -> None:
    client = WebSocketClient()
    client.connect("/room/tea")
    Group("room-tea").send({"text": '{"from": "a view"}'})
    Channel(client.reply_channel).send({"bytes": b"\x00"})

    assert client.receive() == {"from": "a view"}
    assert client.receive() == b"\x00"
    Group("room-tea").send({"text": '{"from": "a view"}'})
    assert client.receive(json=False) == '{"from": "a view"}'


@pytest.mark.parametrize(("path", "status"), [("/refuse", 403), ("/nothing", 404)])
def test_refusals_have_their_status(path: str, status: int) -> None:
    client = WebSocketClient()
    answer = client.connect(path)
    assert (bool(answer), answer.accepted, answer.status) == (False, False, status)
    with pytest.raises(AssertionError, match="the WebSocket was refused; nothing can be sent"):
        client.send("hello")


def test_what_a_consumer_raises_comes_to_the_test() -> None:
    with pytest.raises(ValueError, match="as wanted"):
        WebSocketClient().connect("/fail")
    client = WebSocketClient()
    client.connect("/fail-later")
    with pytest.raises(ValueError, match="as wanted"):
        client.send("x")


def test_logins(user: User) -> None:
    assert WebSocketClient().connect("/members").status == 403
    client = WebSocketClient()
    client.force_login(user)
    assert client.connect("/members")
    assert client.receive() == "ada"
    other = WebSocketClient()
    assert not other.login(username="ada", password="wrong")
    assert other.login(username="ada", password="difference engine")
    assert other.connect("/members")
    other.disconnect()
    other.logout()
    assert other.connect("/members").status == 403


def test_pages_and_sockets_share_a_login(user: User) -> None:
    from django.test import Client as Pages

    pages = Pages()
    pages.force_login(user)
    client = WebSocketClient(http=pages)
    assert client.connect("/members")


DJANGOS = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]


def test_cookies_of_the_handshake_are_kept(user: User) -> None:
    with override_settings(MIDDLEWARE=DJANGOS):
        client = WebSocketClient()
        assert client.connect("/log-in").headers["set-cookie"].startswith("sessionid=")
        client.disconnect()
        assert client.connect("/members")


def maintenance(get_response: Any) -> Any:
    return lambda request: HttpResponse("back at noon", status=503, headers={"Retry-After": "60"})


def test_middleware_refuses_with_its_answer() -> None:
    with override_settings(MIDDLEWARE=[f"{__name__}.maintenance"]):
        answer = WebSocketClient().connect("/room/tea")
    assert (answer.status, answer.content, answer.headers["retry-after"]) == (503, b"back at noon", "60")


def test_session_and_cookies_are_the_browsers() -> None:
    client = WebSocketClient()
    session = client.session
    session["colour"] = "red"
    session.save()
    client.set_cookie("theme", "dark")
    assert client.get_cookies() == {"sessionid": session.session_key, "theme": "dark"}
    assert [b"cookie", f"sessionid={session.session_key}; theme=dark".encode()] in client.headers


def test_path_query_subprotocols_and_headers() -> None:
    client = WebSocketClient()
    client.set_header("X-Tenant", "tea")
    answer = client.connect("/choose?a=1&b=ä", subprotocols=["v1", "v2"])
    assert (answer.subprotocol, client.receive()) == ("v2", "/choose a=1&b=%C3%A4")
    client.disconnect()
    with override_settings(ALLOWED_HOSTS=["testserver"]):
        assert client.connect("/choose", headers={"Origin": "http://evil.example"}).status == 403
        assert client.connect("/choose", headers={"Origin": "http://testserver"}, subprotocols=["v1"])


def test_a_close_by_the_server_ends_the_connection() -> None:
    client = WebSocketClient()
    client.connect("/close")
    client.send("x")
    assert (client.connected, client.close_code) == (False, 4001)
    assert client.receive() == {"text": "bye", "close": 4001}["text"]


def test_receive_waits_as_long_as_it_is_told() -> None:
    client = WebSocketClient()
    client.connect("/later")
    client.send("x")
    assert client.receive(timeout=10) == "late"
    assert client.receive(timeout=0.01) is None


def test_bytes_and_json() -> None:
    client = WebSocketClient()
    client.connect("/bytes")
    client.send(bytes=b"abc")
    assert client.receive() == b"cba"
    client.disconnect()
    client.connect("/echo")
    client.send(json={"a": [1]})
    assert client.receive() == {"a": [1]}


def test_consumers_run_in_the_tests_transaction() -> None:
    client = WebSocketClient()
    client.connect("/create")
    client.send("grace")
    assert client.receive() == 1
    assert User.objects.get().username == "grace"


def test_explicit_acceptance_is_asked_for() -> None:
    with override_settings(OFFLOAD_ACCEPT="explicit"):
        assert WebSocketClient().connect("/room/tea").status == 403
        assert WebSocketClient().connect("/echo")


# As in Channels 1.


def test_the_names_of_channels_1() -> None:
    assert HttpClient is WSClient
    assert issubclass(WSClient, WebSocketClient)
    assert issubclass(WSClient, Client)


def test_messages_are_sent_and_consumed_one_at_a_time() -> None:
    client = WSClient()
    client.send_and_consume("websocket.connect", path="/room/tea")
    client.send("websocket.receive", {"text": "hello"}, path="/room/tea")
    assert client.receive() is None
    client.consume("websocket.receive")
    assert client.receive() == "tea: hello"
    client.send_and_consume("websocket.receive", text={"a": 1}, path="/room/tea")
    assert client.receive(json=False) == 'tea: {"a": 1}'
    client.send_and_consume("websocket.disconnect", {"code": 1000}, path="/room/tea")
    assert DISCONNECTED == [("tea", 1000)]


def test_a_refused_handshake_fails_the_consume() -> None:
    client = WSClient()
    with pytest.raises(DenyConnection):
        client.send_and_consume("websocket.connect", path="/refuse")
    with pytest.raises(AssertionError, match="no consumer for"):
        client.send_and_consume("websocket.receive", path="/nothing")
    assert client.send_and_consume("websocket.receive", path="/nothing", fail_on_none=False) is None
    with pytest.raises(AssertionError, match=r"no message for channel websocket\.receive"):
        client.consume("websocket.receive")


def test_consume_returns_what_the_consumer_does() -> None:
    client = WSClient()
    consumer = client.send_and_consume("websocket.connect", path="/echo")
    assert isinstance(consumer, Echo)


def test_named_channels() -> None:
    client = Client()
    assert client.get_consumer_by_channel("images.resize") is resize
    assert client.send_and_consume("images.resize", {"id": 7}) == "done"
    assert client.receive() == {"text": "7 resized"}
    client.join_group("all")
    Group("all").send({"text": "x"})
    message = client.get_next_message(client.reply_channel)
    assert message is not None
    assert message.content == {"text": "x"}


# Test cases.


def run(case: type[unittest.TestCase]) -> str:
    """What a run of the tests of a case says."""
    said = io.StringIO()
    unittest.TextTestRunner(said).run(unittest.defaultTestLoader.loadTestsFromTestCase(case))
    return said.getvalue()


class Rooms(ChannelTestCase):
    __test__ = False

    def test_1_members_of_one_test(self) -> None:
        client = WSClient()
        client.join_group("all")
        Channel("images.resize").send({"id": 1})
        User.objects.create_user("grace")

    def test_2_are_not_those_of_the_next(self) -> None:
        assert self.get_next_message("images.resize") is None
        assert not User.objects.filter(username="grace").exists()
        Channel("images.resize").send({"id": 2})
        message = self.get_next_message("images.resize", require=True)
        assert message is not None
        assert message["id"] == 2

    def test_3_a_missing_message_fails(self) -> None:
        with pytest.raises(AssertionError, match=r"expected a message on channel images\.resize, got none"):
            self.get_next_message("images.resize", require=True)

    @apply_routes(route("websocket.connect", refuse))
    def test_4_routes_of_one_test(self) -> None:
        assert WSClient().connect("/anything").status == 403


@apply_routes([[route("websocket.connect", refuse, path="^/a")], [route("websocket.connect", members, path="^/b")]])
class Routed(TransactionChannelTestCase):
    __test__ = False

    def test_routes_of_a_class(self) -> None:
        assert WSClient().connect("/a").status == 403
        assert WSClient().connect("/c").status == 404

    def test_routes_of_a_class_again(self) -> None:
        assert WSClient().connect("/b").status == 403


def test_test_cases_have_layers_of_their_own() -> None:
    before = configuration.router_source()
    said = run(Rooms)
    assert "Ran 4 tests" in said
    assert said.endswith("OK\n"), said
    assert configuration.router_source() == before


def test_routes_of_a_class_end_with_it() -> None:
    before = configuration.router_source()
    said = run(Routed)
    assert "Ran 2 tests" in said
    assert said.endswith("OK\n"), said
    assert configuration.router_source() == before


def test_layers_of_tests_are_in_memory() -> None:
    redis = {
        "default": {"BACKEND": "offload.layers.redis.RedisLayer", "CONFIG": {"hosts": ["redis://h"], "capacity": 3}}
    }
    with override_settings(CHANNEL_LAYERS=redis):

        class Case(ChannelTestCase):
            def test(self) -> None:
                layer = configuration.layer_for()
                assert isinstance(layer, MemoryLayer)
                assert layer.capacity == 3

        assert run(Case).endswith("OK\n")


def test_clients_of_channels_1_are_sent_anything() -> None:
    with apply_routes(route("jobs", lambda message: message.reply_channel.send({"trigger": message["n"]}))):
        client = Client()
        client.send_and_consume("jobs", {"n": 5})
        assert client.receive() == {"trigger": 5}
        assert client.channel_layer.router.channels == {"jobs"}
    with apply_routes(route("websocket.receive", lambda message: message.reply_channel.send({"text": {"a": 1}}))):
        old = WSClient()
        old.send_and_consume("websocket.receive", text="x")
        assert old.receive() == {"a": 1}
        with pytest.raises(TypeError, match="a reply's text is a dict, not a str"):
            WebSocketClient().send_and_consume("websocket.receive", text="x")


def test_contents_of_channels_1_clients_can_be_looked_into(db: None) -> None:
    client = WSClient(ordered=True)
    client.set_cookie("qux", "qu;x")
    cookies = parse_cookie(client.headers["cookie"].decode())
    assert cookies == client.get_cookies() == {"qux": "qu;x", "sessionid": client.session.session_key}
    content = client._get_content({"path": "/mine"}, text={"a": 1}, path="/other?b=2")
    assert (content["path"], content["query_string"], content["text"]) == ("/mine", "b=2", '{"a": 1}')
    assert (content["order"], client._get_content()["order"], content["reply_channel"]) == (0, 1, client.reply_channel)
    with pytest.raises(ValueError, match=r"^the client numbers its contents itself"):
        client._get_content({"order": 5})

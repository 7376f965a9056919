"""Sessions and users for consumers: real sessions and users, the memory layer, and the real dispatch."""

from __future__ import annotations

import functools
import inspect
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest
from django.conf import settings
from django.contrib import auth
from django.contrib.auth.models import User
from django.contrib.sessions.backends.base import SessionBase
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils.decorators import method_decorator
from testsite.tools import Client, cookie, log_in, new_session, stored

from django_offload import conf, decorators
from django_offload.decorators import (
    allowed_hosts_only,
    channel_and_http_session,
    channel_and_http_session_user_from_http,
    channel_session,
    channel_session_user,
    channel_session_user_from_http,
    enforce_ordering,
    http_session,
    http_session_user,
    login_required,
    transfer_user,
)
from offload import DenyConnection, Message, route, route_class
from offload.consumers import WebsocketConsumer, configuration
from offload.consumers.sessions import session_for_reply_channel
from offload.exceptions import ConfigurationError

CONNECT, RECEIVE, DISCONNECT = "websocket.connect", "websocket.receive", "websocket.disconnect"


def client_of(consumer: Any, **kwargs: Any) -> Client:
    """A client whose three kinds of messages one consumer takes."""
    return Client(route(CONNECT, consumer), route(RECEIVE, consumer), route(DISCONNECT, consumer), **kwargs)


# http_session


def test_http_session_is_the_cookies_on_every_message(any_session_engine: str) -> None:
    seen = []

    @http_session
    def consumer(message: Any) -> None:
        seen.append((message.channel_name, message.http_session["colour"]))

    client = client_of(consumer, cookie=cookie(new_session(colour="red"))).connect()
    client.receive()
    client.disconnect()

    assert seen == [(CONNECT, "red"), (RECEIVE, "red"), (DISCONNECT, "red")]


@pytest.mark.parametrize("sent", [None, "theme=dark", "sessionid=", "sessionid=short"])
def test_http_session_is_none_without_a_session_cookie(sent: str | None) -> None:
    seen = []

    @http_session
    def consumer(message: Any) -> None:
        seen.append(message.http_session)

    client_of(consumer, cookie=sent).connect().receive()

    assert seen == [None, None]


def test_http_session_of_a_forged_key_is_empty(any_session_engine: str) -> None:
    seen = []

    @http_session
    def consumer(message: Any) -> None:
        seen.append(dict(message.http_session.items()))

    client_of(consumer, cookie="sessionid=abcdefghijklmnopqrstuvwxyz012345").connect().receive()

    assert seen == [{}, {}]


def test_http_session_is_saved_after_a_consumer_that_changed_it(any_session_engine: str) -> None:
    session = new_session(count=1)
    seen = []

    @http_session
    def consumer(message: Any) -> None:
        message.http_session["count"] += 1
        seen.append(message.http_session["count"])

    client = client_of(consumer, cookie=cookie(session)).connect()
    client.receive()

    # With signed cookies the data is the key, so the change lives on this connection only.
    assert seen == [2, 3]
    assert stored(session)["count"] == (1 if any_session_engine == "signed_cookies" else 3)


def test_http_session_is_not_saved_after_a_consumer_that_failed(db: None) -> None:
    session = new_session(count=1)

    @http_session
    def consumer(message: Any) -> None:
        message.http_session["count"] += 1
        raise DenyConnection

    with pytest.raises(DenyConnection):
        client_of(consumer, cookie=cookie(session)).connect()

    assert stored(session)["count"] == 1


def test_http_session_that_was_deleted_meanwhile_is_not_brought_back(
    db: None, caplog: pytest.LogCaptureFixture
) -> None:
    session = new_session(count=1)

    @http_session
    def consumer(message: Any) -> None:
        message.http_session["count"] = 2
        if message.channel_name == RECEIVE:
            stored(session).flush()

    client = client_of(consumer, cookie=cookie(session)).connect()
    client.receive()

    assert not session.exists(session.session_key)
    assert caplog.messages == [
        "an HTTP session was deleted while a consumer changed it; the user may just have logged out"
    ]


def test_http_session_that_a_consumer_flushes_is_gone_for_the_connection(any_session_engine: str) -> None:
    seen = []

    @http_session
    def consumer(message: Any) -> None:
        seen.append(message.http_session.get("colour"))
        message.http_session.flush()

    client = client_of(consumer, cookie=cookie(new_session(colour="red"))).connect()
    client.receive()
    client.receive()

    assert seen == ["red", None, None]


def test_http_session_key_that_a_consumer_cycles_stays_known_to_the_connection(any_session_engine: str) -> None:
    seen = []

    @http_session
    def consumer(message: Any) -> None:
        seen.append(message.http_session["colour"])
        message.http_session.cycle_key()

    client_of(consumer, cookie=cookie(new_session(colour="red"))).connect().receive()

    assert seen == ["red", "red"]


def test_http_session_asks_the_database_only_when_used(db: None) -> None:
    consumer = http_session(lambda message: None)
    client = client_of(consumer, cookie=cookie(new_session(colour="red")))

    with CaptureQueriesContext(connection) as queries:
        client.connect().receive()

    assert len(queries) == 0


def test_channel_and_http_session_gives_both(db: None) -> None:
    seen = []

    @channel_and_http_session
    def consumer(message: Any) -> None:
        message.channel_session["n"] = message.channel_session.get("n", 0) + 1
        seen.append((message.channel_session["n"], message.http_session["colour"]))

    client_of(consumer, cookie=cookie(new_session(colour="red"))).connect().receive()

    assert seen == [(1, "red"), (2, "red")]


# Users


@pytest.mark.parametrize(
    "decorator",
    [
        http_session_user,
        channel_session_user_from_http,
        channel_and_http_session_user_from_http,
    ],
)
def test_user_is_who_logged_in_on_the_site(decorator: Any, any_session_engine: str, user: User) -> None:
    seen = []

    @decorator
    def consumer(message: Any) -> None:
        seen.append((message.user == user, message.user.is_authenticated, message.user.username))

    client = client_of(consumer, cookie=cookie(log_in(user))).connect()
    client.receive()
    client.disconnect()

    assert seen == [(True, True, "ada")] * 3


@pytest.mark.parametrize(
    "decorator",
    [
        channel_session_user,
        http_session_user,
        channel_session_user_from_http,
        channel_and_http_session_user_from_http,
    ],
)
@pytest.mark.parametrize("with_session", [False, True])
def test_user_is_anonymous_when_nobody_logged_in(decorator: Any, with_session: bool, db: None) -> None:
    seen = []

    @decorator
    def consumer(message: Any) -> None:
        seen.append((str(message.user), message.user.is_authenticated))

    client_of(consumer, cookie=cookie(new_session(colour="red")) if with_session else None).connect().receive()

    assert seen == [("AnonymousUser", False)] * 2


def test_channel_session_user_is_whom_the_connect_consumer_copied(any_session_engine: str, user: User) -> None:
    seen = []

    @channel_session_user_from_http
    def connect(message: Any) -> None:
        pass

    @channel_session_user
    def consumer(message: Any) -> None:
        seen.append((message.user, hasattr(message, "http_session")))

    client = Client(route(CONNECT, connect), route(RECEIVE, consumer), cookie=cookie(log_in(user))).connect()
    client.receive()

    assert seen == [(user, False)]


def test_channel_session_user_knows_nobody_whom_no_consumer_copied(user: User) -> None:
    seen = []

    @channel_session_user
    def consumer(message: Any) -> None:
        seen.append(message.user.is_authenticated)

    client_of(consumer, cookie=cookie(log_in(user))).connect().receive()

    assert seen == [False, False]


@pytest.mark.parametrize("decorator", [channel_session_user_from_http, channel_and_http_session_user_from_http])
def test_a_changed_password_logs_out_and_keeps_the_connections_own_data(decorator: Any, user: User) -> None:
    seen = []

    @decorator
    def consumer(message: Any) -> None:
        message.channel_session.setdefault("room", "lobby")
        seen.append((message.user.is_authenticated, message.channel_session["room"]))

    client = client_of(consumer, cookie=cookie(log_in(user))).connect()
    user.set_password("analytical engine")
    user.save()
    client.receive()

    client.receive()

    assert seen == [(True, "lobby"), (False, "lobby"), (False, "lobby")]


def test_a_session_signed_with_a_former_secret_key_stays_logged_in(user: User) -> None:
    seen = []

    @channel_session_user_from_http
    def consumer(message: Any) -> None:
        seen.append(message.user.is_authenticated)

    client = client_of(consumer, cookie=cookie(log_in(user))).connect()
    with override_settings(SECRET_KEY="the new one", SECRET_KEY_FALLBACKS=["for tests only"]):
        client.receive()
    with override_settings(SECRET_KEY="the new one"):
        client.receive()

    assert seen == [True, True, True]


def test_logging_out_on_the_site_ends_the_http_sessions_user_but_not_the_copied_one(user: User) -> None:
    session = log_in(user)
    seen = []

    @channel_and_http_session_user_from_http
    def by_http(message: Any) -> None:
        seen.append(message.user.is_authenticated)

    @channel_session_user
    def by_channel(message: Any) -> None:
        seen.append(message.user.is_authenticated)

    client = Client(
        route(CONNECT, by_http),
        route(RECEIVE, by_http, text="^http$"),
        route(RECEIVE, by_channel),
        cookie=cookie(session),
    ).connect()
    stored(session).flush()
    client.receive("http")
    client.receive("http")
    client.receive("channel")

    assert seen == [True, False, False, True]


def test_inactive_users_are_anonymous(user: User) -> None:
    seen = []

    @channel_session_user_from_http
    def consumer(message: Any) -> None:
        seen.append(message.user.is_authenticated)

    client = client_of(consumer, cookie=cookie(log_in(user))).connect()
    user.is_active = False
    user.save()
    client.receive()

    assert seen == [True, False]


def test_user_is_looked_up_when_first_used_and_once_under_stacked_decorators(user: User) -> None:
    @login_required
    @channel_session_user
    @channel_session
    @channel_session_user_from_http
    def consumer(message: Any) -> None:
        assert message.user.username == "ada"

    client = client_of(consumer, cookie=cookie(log_in(user)))
    with CaptureQueriesContext(connection) as queries:
        client.connect()
    assert len(queries) == 2  # the session and the user

    lazy = client_of(channel_session_user(lambda message: None)).connect()
    with CaptureQueriesContext(connection) as queries:
        lazy.receive()
    assert len(queries) == 0


@pytest.mark.parametrize(
    "stack",
    [
        [channel_session, http_session],
        [http_session, channel_session],
        [channel_session, http_session_user],
        [http_session_user, channel_session],
        [channel_session_user, http_session_user],
        [http_session, channel_session_user_from_http, enforce_ordering],
        [enforce_ordering(slight=True), channel_and_http_session, http_session_user],
        [channel_session_user, channel_session_user_from_http],
    ],
)
def test_decorators_work_in_any_order(stack: list[Any], user: User) -> None:
    seen = []

    def consumer(message: Any) -> None:
        message.channel_session["n"] = message.channel_session.get("n", 0) + 1
        authenticated = getattr(message, "user", user).is_authenticated
        seen.append((message.channel_session["n"], message.http_session.get("colour"), authenticated))
        message.http_session["colour"] = "red"

    decorated = consumer
    for decorator in reversed(stack):
        decorated = decorator(decorated)
    client_of(decorated, cookie=cookie(log_in(user))).connect().receive()

    assert seen == [(1, None, True), (2, "red", True)]


def test_transfer_user_copies_a_login_and_nothing_else(user: User) -> None:
    session = log_in(user)
    session["colour"] = "red"
    target: dict[str, Any] = {"room": "lobby"}

    transfer_user(session, target)
    transfer_user({"colour": "red"}, target)

    assert target == {
        "room": "lobby",
        "_auth_user_id": str(user.pk),
        "_auth_user_backend": "django.contrib.auth.backends.ModelBackend",
        "_auth_user_hash": user.get_session_auth_hash(),
    }


@pytest.mark.parametrize("name", sorted(set(decorators.__all__) - {"transfer_user"}))
def test_decorators_keep_the_consumers_name_and_signature(name: str) -> None:
    def ws_receive(message: Any, room: str) -> None:
        """Say it in the room."""

    decorated = getattr(decorators, name)(ws_receive)

    assert decorated.__name__ == "ws_receive"
    assert decorated.__doc__ == "Say it in the room."
    assert inspect.signature(decorated) == inspect.signature(ws_receive)


def test_decorators_hand_on_the_routes_arguments(user: User) -> None:
    seen = []

    @channel_and_http_session_user_from_http
    def consumer(message: Any, room: str) -> None:
        seen.append((room, message.user.username))

    Client(route(CONNECT, consumer, path="^/(?P<room>[a-z]+)/"), cookie=cookie(log_in(user))).connect()

    assert seen == [("chat", "ada")]


def test_session_decorators_say_what_they_need_for_messages_from_no_client() -> None:
    from offload import Message

    message = Message({"id": 1}, "thumbnails.generate", configuration.layer_for())

    with pytest.raises(ValueError, match=r"^a message on 'thumbnails.generate' has no reply channel"):
        http_session_user(lambda message: None)(message)


# login_required


def test_login_required_refuses_the_handshake_of_strangers(db: None) -> None:
    consumer = login_required(lambda message: pytest.fail("reached"))

    with pytest.raises(DenyConnection, match=r"^login required$"):
        client_of(consumer, cookie=cookie(new_session(colour="red"))).connect()


def test_login_required_lets_users_in_with_their_user(any_session_engine: str, user: User) -> None:
    seen = []

    @login_required
    def consumer(message: Any) -> None:
        seen.append(message.user.username)

    client = client_of(consumer, cookie=cookie(log_in(user))).connect()
    client.receive()
    client.disconnect()

    assert seen == ["ada"] * 3


@pytest.mark.parametrize("login_required_is", ["outside", "inside"])
def test_login_required_closes_when_the_password_changes_and_still_cleans_up(
    login_required_is: str, user: User
) -> None:
    seen = []

    def consumer(message: Any) -> None:
        seen.append((message.channel_name, message.user.is_authenticated))

    if login_required_is == "outside":
        consumer = login_required(channel_session_user_from_http(consumer))
    else:
        consumer = channel_session_user_from_http(login_required(consumer))
    client = client_of(consumer, cookie=cookie(log_in(user))).connect()
    user.set_password("analytical engine")
    user.save()
    client.receive("hello")
    client.disconnect()

    assert client.sent == [{"close": 1008}]
    assert seen == [(CONNECT, True), (DISCONNECT, False)]


# allowed_hosts_only


@pytest.mark.parametrize("origin", [b"http://testserver", b"https://testserver:8443", b"https://www.example.org"])
def test_allowed_hosts_only_lets_pages_of_the_site_in(origin: bytes) -> None:
    seen = []
    consumer = allowed_hosts_only(lambda message: seen.append(message.channel_name))

    client_of(consumer, origin=origin).connect().receive()

    assert seen == [CONNECT, RECEIVE]


@pytest.mark.parametrize("origin", [None, b"null", b"https://evil.example", b"\xff\xfe", b"https://testserver.evil.io"])
def test_allowed_hosts_only_refuses_other_pages_and_clients_without_origin(origin: bytes | None) -> None:
    consumer = allowed_hosts_only(lambda message: pytest.fail("reached"))

    with pytest.raises(DenyConnection, match=r"^origin .* is not in ALLOWED_HOSTS$"):
        client_of(consumer, origin=origin).connect()


# Consumer classes


@pytest.mark.parametrize("attribute", ["channel_session_user", "http_user", "http_user_and_session"])
def test_consumer_classes_get_their_users_by_an_attribute(attribute: str, any_session_engine: str, user: User) -> None:
    seen = []

    class Chat(WebsocketConsumer):
        def connect(self, message: Any, **kwargs: Any) -> None:
            message.channel_session["room"] = "lobby"
            super().connect(message, **kwargs)

        def receive(self, text: str | None = None, bytes: bytes | None = None, **kwargs: Any) -> None:
            message: Any = self.message
            seen.append((message.user.username, message.channel_session["room"]))
            if attribute == "http_user_and_session":
                assert isinstance(message.http_session, SessionBase)

    client = Client(Chat.as_route({attribute: True}, path="^/chat/"), cookie=cookie(log_in(user))).connect()
    client.receive("hello")

    assert client.sent == [{"accept": True}]
    assert seen == [("" if attribute == "channel_session_user" else "ada", "lobby")]


def test_consumer_classes_take_decorators_on_their_methods(db: None) -> None:
    class Chat(WebsocketConsumer):
        @method_decorator(login_required)
        def connect(self, message: Any, **kwargs: Any) -> None:
            pytest.fail("reached")

    with pytest.raises(DenyConnection):
        Client(route_class(Chat)).connect()


@pytest.mark.parametrize("attribute", ["channel_session_user", "http_user", "http_user_and_session"])
def test_consumer_classes_say_what_their_users_need_without_django_offload(attribute: str) -> None:
    configuration.reset()
    configuration.configure("memory://")

    with pytest.raises(ConfigurationError) as caught:
        Client(WebsocketConsumer.as_route({attribute: True})).connect()

    assert str(caught.value) == (
        f"{attribute} = True needs Django's sessions and users; add 'django_offload' to INSTALLED_APPS"
    )


# Channel sessions as Django's


def test_login_and_logout_work_with_a_channel_session(user: User) -> None:
    seen = []

    @channel_session_user
    def consumer(message: Any) -> None:
        request: Any = SimpleNamespace(session=message.channel_session, META={})
        if message["path"] == "/in":
            message.channel_session["kept"] = 1
            auth.login(request, user)
        elif message["path"] == "/out":
            auth.logout(request)
        seen.append((message.user.username, dict(message.channel_session)))

    client = client_of(consumer).connect()
    for path in ("/in", "/", "/out", "/"):
        client.consumers.receive({"reply_channel": client.name, "path": path, "text": "", "order": 1})

    logged_in = {"kept": 1, "_auth_user_id": str(user.pk), **dict.fromkeys(decorators.LOGIN_KEYS[1:], ANY)}
    assert seen == [("", {}), ("ada", logged_in), ("ada", logged_in), ("", {}), ("", {})]


class Consumers:
    @channel_session_user_from_http
    def method(self, message: Any) -> None:
        message.channel_session["seen"] = message.user.username

    @login_required
    def guarded(self, message: Any) -> None:
        raise AssertionError("it is for users")


def test_decorators_work_on_methods(user: User) -> None:
    client = client_of(Consumers().method, cookie=cookie(log_in(user))).connect()
    assert session_for_reply_channel(client.name)["seen"] == "ada"
    with pytest.raises(DenyConnection):
        client_of(functools.partial(Consumers.guarded, Consumers())).connect()


def test_cookie_of_a_connections_own_channel_session_is_that_session(db: None) -> None:
    @http_session
    def consumer(message: Any) -> None:
        message.http_session["species"] = "horse"

    layer = configuration.layer_for()
    headers = {"host": b"example.com", "cookie": b"sessionid=test-reply"}
    consumer(Message({"reply_channel": "test-reply", "path": "/", "headers": headers}, "websocket.connect", layer))
    assert session_for_reply_channel("test-reply")["species"] == "horse"


def test_handshake_needs_no_urls() -> None:
    routing = "testsite.routing.channel_routing"
    layers = {"default": {"BACKEND": "offload.layers.memory.MemoryLayer", "ROUTING": routing}}
    with override_settings(CHANNEL_LAYERS=layers):
        del settings.ROOT_URLCONF
        conf.apply()
        seen = []
        client_of(lambda message: seen.append(message.channel_name)).connect()
    assert seen == [CONNECT]


@pytest.mark.parametrize(
    "headers", [[], [[b"origin"]], [[b"origin", b""]], [[b"origin", b"\xff"]], [[b"origin", b"http://evil.example"]]]
)
def test_allowed_hosts_only_refuses_whatever_is_no_allowed_origin(headers: Any) -> None:
    message = Message({"path": "/", "headers": headers}, "websocket.connect", configuration.layer_for())
    with pytest.raises(DenyConnection):
        allowed_hosts_only(lambda message: None)(message)

"""Clients that run consumers where they are called: in the test's process, thread and transaction.

`WebSocketClient` is a browser's WebSocket: ``connect``, ``send``, ``receive``, ``disconnect``. `Client` puts messages
on channels and runs the consumer of one message at a time, as the test clients of Channels 1 do; a `WebSocketClient`
can do that, too.
"""

from __future__ import annotations

import copy
import json as json_module
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import quote

from django.apps import apps
from django.contrib.sessions.backends.base import SessionBase
from django.test import Client as HttpTestClient

from django_offload.settings import value_of
from offload import Channel, DenyConnection, Group, Message, channel_layers
from offload.consumers import configuration
from offload.consumers.aliases import AliasedLayer
from offload.consumers.configuration import DEFAULT
from offload.consumers.dispatch.local import BoundConsumers, Dispatch
from offload.consumers.routing import CONNECT, DISCONNECT, RECEIVE, WEBSOCKET_CHANNELS
from offload.interfaces import Content, Layer

_NORMAL = 1000
_REFUSED, _NOT_FOUND, _ACCEPTED = 403, 404, 101


class Client:
    """Sends messages to channels, runs their consumers, and hears what is sent to its reply channel.

    Args:
        alias: the layer's.
    """

    _prefix = "client.reply"
    """Of its reply channel, which takes any content, as no WebSocket's does."""

    def __init__(self, alias: str = DEFAULT) -> None:
        self.alias = alias
        self.reply_channel = self._layer.new_channel(self._prefix)
        self._unread: deque[Content] = deque()

    @property
    def channel_layer(self) -> AliasedLayer:
        """The layer, as it is configured now, with its ``router`` and ``routing``."""
        return channel_layers[self.alias]

    @property
    def _layer(self) -> Layer:
        return configuration.layer_for(self.alias)

    def get_next_message(self, channel: str) -> Message | None:
        """The next message on a channel, or None."""
        if channel == self.reply_channel and self._unread:
            return Message(self._unread.popleft(), channel, self._layer)
        found = self._layer.receive([channel], timeout=0)
        if found is None:
            return None
        reply = found[1].get("reply_channel")
        reply_channel = Channel(reply, self.alias, self._layer) if isinstance(reply, str) else None
        return Message(found[1], found[0], self._layer, reply_channel)

    def get_consumer_by_channel(self, channel: str) -> Callable[..., Any] | None:
        """The consumer of a message on a channel that has an empty text and nothing else; None without one."""
        found = self._dispatch().router.find(channel, {"text": ""})
        return None if found is None else found[0]

    def send(self, to: str, content: Content | None = None) -> Any:
        """Put a message on a channel; its reply channel is this client's, unless it has one."""
        self._layer.send(to, {"reply_channel": self.reply_channel, **(content or {})})

    def consume(self, channel: str, fail_on_none: bool = True) -> Any:
        """Run the consumer of the next message on a channel.

        Args:
            channel: its name.
            fail_on_none: whether it is an error that there is no message, or no consumer for it.

        Returns:
            What the consumer returns. What it raises comes through.
        """
        message = self.get_next_message(channel)
        if message is None:
            if fail_on_none:
                raise AssertionError(f"no message for channel {channel}")
            return None
        return self._run(self._prepared(message), fail_on_none)

    def send_and_consume(self, channel: str, content: Content | None = None, fail_on_none: bool = True) -> Any:
        """`send`, then `consume`."""
        self.send(channel, content)
        return self.consume(channel, fail_on_none=fail_on_none)

    def receive(self) -> Any:
        """The content of the next message for this client, or None."""
        message = self.get_next_message(self.reply_channel)
        return None if message is None else message.content

    def join_group(self, group_name: str) -> None:
        """Become a member of a group."""
        Group(group_name, self.alias).add(self.reply_channel)

    def _dispatch(self) -> Dispatch:
        # Of the routing and the layer that the test has now.
        return Dispatch(configuration.router_for(self.alias), self._layer)

    def _prepared(self, message: Message) -> Message:
        return message

    def _run(self, message: Message, fail_on_none: bool) -> Any:
        dispatch = self._dispatch()
        if message.channel_name == CONNECT:
            found = dispatch.connect_consumer(message.content)
        else:
            found = dispatch.router.find(message.channel_name, message.content)
        if found is None:
            if fail_on_none:
                raise AssertionError(f"no consumer for {message!r}")
            return None
        return dispatch.run_patiently(*found, message)


class Handshake:
    """How a handshake was answered; true where it was accepted.

    Attributes:
        status: 101, or the refusal's.
        headers: what consumers and middleware added, names in lower case.
        content: of a refusal that has its own.
        subprotocol: the one chosen, or None.
    """

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes, subprotocol: str | None) -> None:
        self.status = self.status_code = status
        self.headers = headers
        self.content = content
        self.subprotocol = subprotocol

    @property
    def accepted(self) -> bool:
        """Whether the WebSocket is open."""
        return self.status == _ACCEPTED

    def __bool__(self) -> bool:
        return self.accepted

    def __repr__(self) -> str:
        return f"<Handshake {self.status}>"


class WebSocketClient(Client):
    """A browser's WebSocket. Its consumers run when it speaks, and what they raise comes through to the test.

    Args:
        alias: the layer's.
        http: a client for pages (``self.client`` of a test case), whose cookies and logins are this one's, too.
        ordered: accepted for tests of Channels 1; messages are always numbered.

    Attributes:
        http: the client for pages.
        handshake: the answer to the last `connect`, or None.
        latest: what the consumer of the latest message returned.
    """

    _prefix = "websocket.send"

    def __init__(self, alias: str = DEFAULT, *, http: HttpTestClient | None = None, ordered: bool = False) -> None:
        super().__init__(alias)
        self.http: Any = HttpTestClient() if http is None else http
        self.handshake: Handshake | None = None
        self._headers: dict[str, str | bytes] = {}
        self._path = "/"
        self._order = 0
        self._bound: BoundConsumers | None = None
        self._is_open = False
        self._close_code: int | None = None

    # The browser: its cookies, and who is logged in.

    @property
    def session(self) -> SessionBase:
        """The session of the cookie; a new one, with its cookie, where there is none. Save it to keep changes."""
        session: SessionBase = self.http.session
        return session

    def login(self, **credentials: Any) -> bool:
        """Log a user in by credentials; whether that succeeded."""
        return bool(self.http.login(**credentials))

    def force_login(self, user: Any, backend: str | None = None) -> None:
        """Log a user in."""
        self.http.force_login(user, backend)

    def logout(self) -> None:
        """End the login, and drop the cookies."""
        self.http.logout()

    def set_cookie(self, key: str, value: str) -> None:
        """Set a cookie for later handshakes."""
        self.http.cookies[key] = value

    def get_cookies(self) -> dict[str, str]:
        """The cookies."""
        return {key: morsel.value for key, morsel in self.http.cookies.items()}

    def set_header(self, key: str, value: str | bytes) -> None:
        """Set a header field for later handshakes."""
        if key.lower() == "cookie":
            raise ValueError("cookies are set by set_cookie")
        self._headers[key.lower()] = value

    @property
    def headers(self) -> Any:
        """The header fields of the next handshake."""
        return self._fields

    @property
    def _fields(self) -> list[list[bytes]]:
        fields: dict[str, str | bytes] = {"host": "testserver", **self._headers}
        if self.http.cookies:
            fields["cookie"] = self._cookie_field()
        return [
            [name.encode(), value if isinstance(value, bytes) else value.encode()] for name, value in fields.items()
        ]

    def _cookie_field(self) -> str:
        return "; ".join(f"{key}={morsel.coded_value}" for key, morsel in self.http.cookies.items())

    # The WebSocket.

    def connect(
        self,
        path: str = "/",
        *,
        headers: Mapping[str, str | bytes] | None = None,
        subprotocols: Iterable[str] = (),
        scheme: str = "ws",
        client: tuple[str, int] = ("127.0.0.1", 4321),
    ) -> Handshake:
        """Open the WebSocket: run the project's middleware and the connect consumer.

        Args:
            path: with its query, if any.
            headers: further header fields, such as ``{"Origin": "https://example.org"}``.
            subprotocols: what the client offers.
            scheme: ``ws`` or ``wss``.
            client: the client's address and port.

        Returns:
            How that was answered: 101; 403 by a consumer that refuses, or for an Origin that is not allowed; 404 where
            nothing is routed; or a middleware's answer. A consumer's other exceptions come through.
        """
        if self._is_open:
            raise AssertionError("this client is connected; make another, or disconnect it first")
        content = self._connect_content(path, headers or {}, list(subprotocols), scheme, client)
        self._path, self._order, self._close_code = content["path"], 0, None
        self._unread.clear()
        dispatch = self._dispatch()
        origin = dict(map(tuple, content["headers"])).get(b"origin")
        policy = configuration.origin_policy()
        if not dispatch.router.accepts_websocket(content):
            return self._answered(_NOT_FOUND)
        if origin is not None and policy is not None and not policy(origin.decode(), "testserver"):
            return self._answered(_REFUSED)
        message = Message(content, CONNECT, self._layer, Channel(self.reply_channel, self.alias))
        self._bound = None
        try:
            self.latest = self._run(self._prepared(message), fail_on_none=False)
        except DenyConnection:
            return self._answered(_REFUSED)
        return self._decide()

    def disconnect(self, code: int = _NORMAL) -> None:
        """Close the WebSocket: run the disconnect consumer, and drop the channel session."""
        if self._is_open:
            self._end(code)

    @property
    def connected(self) -> bool:
        """Whether the WebSocket is open."""
        self._settle()
        return self._is_open

    @property
    def close_code(self) -> int | None:
        """The code with which the WebSocket was closed; None while it is open."""
        self._settle()
        return self._close_code

    def send(
        self,
        to: Any = None,
        content: Content | None = None,
        text: Any = None,
        path: str | None = None,
        *,
        bytes: bytes | None = None,
        json: Any = None,
    ) -> None:
        """Send a message over the WebSocket, and run the receive consumer: ``send("hello")``, ``send(json={...})``.

        With a channel's name and a content, a text or a path, or with ``websocket.connect`` and its like, it puts a
        message on that channel instead, for `consume`, as in Channels 1.

        Args:
            to: the text; or the channel.
            content, path: of the message on a channel.
            text: the text; what is no str becomes JSON.
            bytes: instead of a text.
            json: a value to be sent as JSON.
        """
        if to in WEBSOCKET_CHANNELS or (to is not None and not (content is None and text is None and path is None)):
            self._layer.send(to, self._channel_content(to, content or {}, text, path))
            return
        if not self.connected:
            state = "was refused" if self._close_code is None and self.handshake is not None else "is not open"
            raise AssertionError(f"the WebSocket {state}; nothing can be sent")
        message: Content = {"reply_channel": self.reply_channel, "path": self._path, "order": self._next_order()}
        if bytes is not None:
            message["bytes"] = bytes
        else:
            message["text"] = _as_text(json if json is not None else text if text is not None else to)
        self.latest = self._run(self._message(message, RECEIVE), fail_on_none=False)
        self._settle()

    def receive(self, json: bool = True, timeout: float = 0.0) -> Any:
        """The next message that was sent to this client.

        Args:
            json: whether a text that is JSON is given as its value.
            timeout: seconds to wait for one that something else, such as a thread, may yet send.

        Returns:
            The text, or its value; the bytes; for what is neither, the whole content; None when nothing came in time.
        """
        content = self._next(timeout)
        self._settle()
        if content is None:
            return None
        if (text := content.get("text")) is not None:
            return _value(text) if json and isinstance(text, str) else text
        return content["bytes"] if set(content) == {"bytes"} else content

    # Channels 1: one message at a time.

    def consume(self, channel: str, fail_on_none: bool = True, check_accept: bool = True) -> Any:
        """Run the consumer of the next message on a channel.

        Args:
            channel, fail_on_none: as for `Client.consume`.
            check_accept: whether a connect consumer that does not accept is an error.

        Returns:
            What the consumer returns.
        """
        result = super().consume(channel, fail_on_none)
        if channel == CONNECT and check_accept:
            handshake = self._decide()
            if not handshake:
                raise AssertionError(f"connection rejected with {handshake.status}")
        return result

    def send_and_consume(  # type: ignore[override]
        self,
        channel: str,
        content: Content | None = None,
        text: Any = None,
        path: str | None = None,
        fail_on_none: bool = True,
        check_accept: bool = True,
    ) -> Any:
        """`send`, then `consume`."""
        self._layer.send(channel, self._channel_content(channel, content or {}, text, path))
        return self.consume(channel, fail_on_none, check_accept)

    # Parts of these.

    def _connect_content(
        self,
        path: str,
        headers: Mapping[str, str | bytes],
        subprotocols: list[str],
        scheme: str,
        client: tuple[str, int],
    ) -> Content:
        path, _, query = path.partition("?")
        before = dict(self._headers)
        for name, value in headers.items():
            self.set_header(name, value)
        if subprotocols:
            self.set_header("Sec-WebSocket-Protocol", ", ".join(subprotocols))
        try:
            fields = self._fields
        finally:
            self._headers = before
        return {
            "reply_channel": self.reply_channel,
            "path": path,
            "scheme": scheme,
            "query_string": quote(query, safe="=&%+;,/?:@!$'()*~").encode(),
            "headers": fields,
            "client": list(client),
            "server": ["testserver", 80],
            "order": 0,
        }

    def _channel_content(self, channel: str, content: Content, text: Any, path: str | None) -> Content:
        if channel == CONNECT:
            base = self._connect_content(path or "/", {}, [], "ws", ("127.0.0.1", 4321))
            self._path, self._order, self._close_code = base["path"], 0, None
        else:
            base = {"reply_channel": self.reply_channel, "path": (path or self._path).partition("?")[0]}
            if channel in WEBSOCKET_CHANNELS:
                base["order"] = self._next_order()
        content = {**base, **content}
        text = content.get("text") if text is None else text
        if text is not None:
            content["text"] = _as_text(text)
        return content

    def _next_order(self) -> int:
        self._order += 1
        return self._order

    def _message(self, content: Content, channel: str) -> Message:
        return self._prepared(Message(content, channel, self._layer, Channel(self.reply_channel, self.alias)))

    def _prepared(self, message: Message) -> Message:
        if message.channel_name not in WEBSOCKET_CHANNELS or message.reply_channel is None:
            return message
        if self._bound is None:
            self._bound = BoundConsumers(
                self._dispatch(), message.reply_channel, message.content.get("headers", self._fields)
            )
        return self._bound.message(message.content, message.channel_name)

    def _next(self, timeout: float = 0.0) -> Content | None:
        if self._unread:
            return self._unread.popleft()
        found = self._layer.receive([self.reply_channel], timeout=timeout)
        return None if found is None else found[1]

    def _decide(self) -> Handshake:
        """See what the connect consumer said of the handshake; what remains is for the client."""
        rest: deque[Content] = deque()
        headers: list[Any] = []
        accepted = False
        while (content := self._next()) is not None:
            headers += content.pop("headers", ())
            accept, closes = content.pop("accept", None), content.get("close") not in (None, False)
            has_data = "text" in content or "bytes" in content
            if not accepted and (accept is False or (closes and not has_data and not accept)):
                return self._answered(content.get("status", _REFUSED), headers, content.get("content", b""))
            if not accepted and (accept or has_data):
                accepted, subprotocol = True, content.pop("subprotocol", None)
            if content:
                rest.append(content)
        if not accepted:
            subprotocol = None
            if value_of("ACCEPT") == "explicit":
                return self._answered(_REFUSED, headers)
        self._unread = rest
        self._is_open = True
        handshake = self._answered(_ACCEPTED, headers, subprotocol=subprotocol)
        self._settle()
        return handshake

    def _answered(
        self, status: int, headers: Iterable[Any] = (), content: bytes = b"", subprotocol: str | None = None
    ) -> Handshake:
        fields: dict[str, str] = {}
        for pair in headers:
            name, value = (part.decode("latin-1") if isinstance(part, bytes) else part for part in pair)
            if name.lower() == "set-cookie":
                self.http.cookies.update(SimpleCookie(value))
            fields[name.lower()] = value
        if status != _ACCEPTED and self._bound is not None:
            self._bound.end()
        self.handshake = Handshake(status, fields, content, subprotocol)
        return self.handshake

    def _settle(self) -> None:
        """Take what has come; where the server has closed, run the disconnect consumer, as a browser's answer would."""
        while (found := self._layer.receive([self.reply_channel], timeout=0)) is not None:
            self._unread.append(found[1])
        if not self._is_open:
            return
        for content in self._unread:
            close = content.get("close")
            if close not in (None, False):
                self._end(_NORMAL if close is True else close)
                return

    def _end(self, code: int) -> None:
        self._is_open = False
        self._close_code = code
        message: Content = {"reply_channel": self.reply_channel, "path": self._path, "order": self._next_order()}
        try:
            self._run(self._message({**message, "code": code}, DISCONNECT), fail_on_none=False)
        finally:
            if self._bound is not None:
                self._bound.end()
            self._leave_groups()

    def _leave_groups(self) -> None:
        unread = list(iter(self._next, None))
        self._layer.detach(self.reply_channel)
        self._unread = deque(unread)
        # As that of a connection that is gone: what is sent to it from now on reaches nobody.
        self.reply_channel = self._layer.new_channel(self._prefix)


class WSClient(WebSocketClient):
    """A `WebSocketClient` for tests of Channels 1, whose consumers may send it what no WebSocket takes.

    It always has a session, and its cookie.

    Args:
        ordered: whether the contents that it makes are numbered.

    Attributes:
        order: the number of the next one.
    """

    _prefix = Client._prefix

    def __init__(self, alias: str = DEFAULT, *, http: HttpTestClient | None = None, ordered: bool = False) -> None:
        super().__init__(alias, http=http, ordered=ordered)
        self.order = 0
        self._ordered = ordered

    def get_cookies(self) -> dict[str, str]:
        """The cookies, with that of the session."""
        if apps.is_installed("django.contrib.sessions"):
            # Asking for it makes it, and sets the cookie.
            self.session  # noqa: B018
        return super().get_cookies()

    @property
    def headers(self) -> dict[str, str | bytes]:
        """The header fields of the next handshake that were set, and the cookies."""
        self.get_cookies()
        return {**self._headers, "cookie": self._cookie_field().encode()}

    def _get_content(self, content: Content | None = None, text: Any = None, path: str = "/") -> Content:
        """The content of a message from this client; tests of Channels 1 look into it."""
        path, _, query = path.partition("?")
        made: Content = {"reply_channel": self.reply_channel, "path": path, "headers": self.headers}
        if query:
            made["query_string"] = query
        made.update(copy.deepcopy(content or {}))
        if self._ordered:
            if content and "order" in content:
                raise ValueError("the client numbers its contents itself (ordered=True)")
            made["order"] = self.order
            self.order += 1
        text = made.get("text") if text is None else text
        if text is not None:
            made["text"] = _as_text(text)
        return made


HttpClient = WSClient


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json_module.dumps(value)


def _value(text: str) -> Any:
    try:
        return json_module.loads(text)
    except ValueError:
        return text

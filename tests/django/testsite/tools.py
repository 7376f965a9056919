"""What the tests of django_offload share: a WebSocket client without a server, and sessions of browsers."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

from django.conf import settings
from django.contrib.auth import login
from django.contrib.sessions.backends.base import SessionBase

from offload.consumers import configuration
from offload.consumers.dispatch.local import Dispatch
from offload.consumers.routing import Router


class Client:
    """One WebSocket as a gateway would drive it: its consumers are called here, and what it is sent is in `sent`."""

    def __init__(self, *routing: Any, cookie: str | None = None, origin: bytes | None = None) -> None:
        layer = configuration.layer_for()
        self.sent: list[dict[str, Any]] = []
        self.name = layer.new_channel("websocket.send")
        layer.attach(self.name, lambda delivery: self.sent.append(delivery.content))
        headers = [[b"host", b"testserver"], [b"upgrade", b"websocket"]]
        if cookie is not None:
            headers.append([b"cookie", cookie.encode()])
        if origin is not None:
            headers.append([b"origin", origin])
        self.handshake = {
            "reply_channel": self.name,
            "path": "/chat/",
            "scheme": "ws",
            "query_string": b"",
            "headers": headers,
            "client": ["127.0.0.1", 4321],
            "server": ["127.0.0.1", 8000],
            "order": 0,
        }
        bound = Dispatch(Router(routing), layer).bind(self.handshake)
        assert bound is not None
        self.consumers = bound

    def connect(self) -> Client:
        self.consumers.connect(self.handshake)
        return self

    def receive(self, text: str = "") -> None:
        self.consumers.receive({"reply_channel": self.name, "path": "/chat/", "text": text, "order": 1})

    def disconnect(self) -> None:
        self.consumers.disconnect({"reply_channel": self.name, "path": "/chat/", "code": 1000, "order": 2})


def new_session(**data: Any) -> SessionBase:
    """A saved session of the project's backend."""
    session: SessionBase = import_module(settings.SESSION_ENGINE).SessionStore()
    session.update(data)
    session.save()
    return session


def stored(session: SessionBase) -> SessionBase:
    """The same session, read anew."""
    fresh: SessionBase = import_module(settings.SESSION_ENGINE).SessionStore(session.session_key)
    return fresh


def log_in(user: Any) -> SessionBase:
    """A session in which a user has logged in, as Django's login() leaves it."""
    session = new_session()
    request: Any = SimpleNamespace(session=session, META={})
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    session.save()
    return session


def cookie(session: SessionBase) -> str:
    """The Cookie field of a browser that has this session."""
    return f"theme=dark; sessionid={session.session_key}; x=y"

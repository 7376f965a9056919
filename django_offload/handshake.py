"""The handshake of a routed WebSocket as a request that passes through the project's ``MIDDLEWARE``.

The connect consumer stands where a view would: a middleware that answers in its place refuses the WebSocket with that
answer, and header fields that the middleware adds (a session's cookie) go out with the 101. The request is made from
the connect message alone, so that it is the same in a worker (``--dispatch layer``).
"""

from __future__ import annotations

import functools
import io
import logging
import sys
from collections.abc import Callable
from typing import Any, cast

from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIRequest, get_script_name
from django.http import Http404, HttpResponse, HttpResponseBase
from django.urls import ResolverMatch, set_script_prefix
from django.utils.module_loading import import_string

from django_offload.settings import value_of
from offload import Channel, Message
from offload.interfaces import Content

log = logging.getLogger("offload.websocket")

Consumer = Callable[..., Any]

_SWITCHING = 101
_OF_A_BODY = frozenset(("content-length", "content-type"))
_DJANGO_ANSWERS = (Http404, PermissionDenied, BadRequest, SuspiciousOperation)
"""What Django turns into a status; everything else that a consumer raises means what it does without Django."""
_POLICY_VIOLATION, _INTERNAL_ERROR = 1008, 1011


class HandshakeRequest(WSGIRequest):
    """The handshake, as middleware and the connect consumer see it.

    Attributes:
        message: the connect message.
        error: what the consumer raised, to be raised again behind the middleware.
        result: what it returned.
    """

    def __init__(self, message: Message) -> None:
        super().__init__(environ_of(message.content))
        if value_of("SESSION_KEY_IN_QUERY") and (key := self.GET.get("session_key")):
            self.COOKIES[settings.SESSION_COOKIE_NAME] = key
        self.message = message
        self.error: BaseException | None = None
        self.result: Any = None


def through_middleware(consumer: Consumer) -> Consumer:
    """Wrap a connect consumer in the project's ``MIDDLEWARE``."""

    def view(request: HandshakeRequest, **arguments: Any) -> HttpResponse:
        try:
            joined = _join(request)
            request.result = consumer(request.message, **arguments)
            if _user_of(request) != joined:
                # It has logged somebody in.
                _join(request)
        except _DJANGO_ANSWERS:
            raise
        except Exception as error:  # noqa: BLE001 -- raised again, behind the middleware
            request.error = error
        return HttpResponse(status=_SWITCHING)

    # Marks such as that of login_not_required; a class has them on its dispatch, as Django's views do.
    marked = getattr(consumer, "dispatch", consumer)
    view.__dict__.update({name: value for name, value in vars(marked).items() if name != "__wrapped__"})
    if hasattr(consumer, "login_required"):
        view.login_required = consumer.login_required  # type: ignore[attr-defined]

    @functools.wraps(consumer, updated=())
    def connect(message: Message, **arguments: Any) -> Any:
        if not hasattr(settings, "ROOT_URLCONF"):
            # A project without pages, whose requests Django itself would not serve.
            return consumer(message, **arguments)
        return _handler().serve(message, view, arguments)

    return connect


def _join(request: HandshakeRequest) -> Any:
    """Make the connection its user's, where the settings ask for that. Returns the user's key."""
    if value_of("USERS") and request.message.reply_channel is not None:
        from django_offload.users import join  # it needs models

        join(request, request.message.reply_channel)
    return _user_of(request)


def _user_of(request: HandshakeRequest) -> Any:
    return getattr(getattr(request, "user", None), "pk", None) if value_of("USERS") else None


class _Handler(BaseHandler):
    """Django's handler, with a consumer in the place of a view."""

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware()
        self._session = _session_middleware()

    def serve(self, message: Message, view: Consumer, arguments: dict[str, Any]) -> Any:
        """Let one handshake through the middleware, and say what comes of it. Returns what the consumer does."""
        reply_channel = message.reply_channel
        assert reply_channel is not None
        request = HandshakeRequest(message)
        request.resolver_match = ResolverMatch(view, (), arguments, route=request.path_info)
        own = message.reply_channel = _HandshakeChannel(reply_channel, lambda: self._cookies(request))
        message.http_request = request
        set_script_prefix(get_script_name(request.environ))
        try:
            response = self.get_response(request)
        finally:
            # A consumer that asks for its message later gets another request.
            message.reply_channel = reply_channel
        # Not Django's signals around it: see `django_offload.connections`.
        try:
            if request.error is not None:
                raise request.error
            if response.status_code == _SWITCHING:
                headers = [] if own.has_decided else _headers(response)
                if headers:
                    reply_channel.send({"headers": headers})
            elif own.has_decided:
                code = _INTERNAL_ERROR if response.status_code >= 500 else _POLICY_VIOLATION
                log.warning(
                    "closing the WebSocket at %s: the middleware answered %d after the connect consumer had accepted",
                    ascii(request.path),
                    response.status_code,
                )
                reply_channel.send({"close": code})
            else:
                reply_channel.send(
                    {
                        "accept": False,
                        "status": response.status_code,
                        "headers": _headers(response, with_body=True),
                        "content": _body(response),
                    }
                )
        finally:
            if response.streaming:
                response.close()
        return request.result

    def resolve_request(self, request: Any) -> ResolverMatch:
        """The consumer, whatever the urlconf has at its path."""
        return cast("ResolverMatch", request.resolver_match)

    def make_view_atomic(self, view: Consumer) -> Consumer:
        """Not by ``ATOMIC_REQUESTS``: what a consumer sends leaves at once, and so would tell of what may not be."""
        return view

    def _cookies(self, request: HandshakeRequest) -> list[list[bytes]]:
        """The session's cookie, where the consumer accepts before the middleware has run."""
        if self._session is None or not hasattr(request, "session"):
            return []
        return _cookie_headers(self._session.process_response(request, HttpResponse(status=_SWITCHING)))


class _HandshakeChannel(Channel):
    """The reply channel as a connect consumer has it: cookies go out with what decides."""

    __slots__ = ("_cookies", "_inner", "has_decided")
    _inner: Channel
    _cookies: Callable[[], list[list[bytes]]]
    has_decided: bool

    def __new__(cls, inner: Channel, cookies: Callable[[], list[list[bytes]]]) -> _HandshakeChannel:
        self = super().__new__(cls, inner.name, inner.alias, inner.channel_layer)
        self._inner = inner
        self._cookies = cookies
        self.has_decided = False
        return self

    def send(self, content: Content, immediately: bool = True, delay: float = 0.0) -> None:
        """See `Channel.send`. What comes later decides nothing now."""
        if (
            not self.has_decided
            and not delay
            and isinstance(content, dict)
            and not content.keys().isdisjoint(_DECIDING)
        ):
            self.has_decided = True
            if content.get("accept") is not False and (headers := self._cookies()):
                self._inner.send({"headers": headers})
        self._inner.send(content, immediately, delay)


_DECIDING = frozenset(("accept", "text", "bytes"))


@functools.lru_cache(1)
def _handler() -> _Handler:
    return _Handler()


def forget_middleware() -> None:
    """Load the middleware anew with the next handshake: a test has overridden the setting."""
    _handler.cache_clear()


def _session_middleware() -> SessionMiddleware | None:
    for path in settings.MIDDLEWARE:
        middleware = import_string(path)
        if isinstance(middleware, type) and issubclass(middleware, SessionMiddleware):
            return middleware(lambda request: HttpResponse())
    return None


def _headers(response: HttpResponseBase, with_body: bool = False) -> list[list[bytes]]:
    fields = [(name, value) for name, value in response.items() if with_body or name.lower() not in _OF_A_BODY]
    return [[name.encode("latin-1"), value.encode("latin-1")] for name, value in fields] + _cookie_headers(response)


def _cookie_headers(response: HttpResponseBase) -> list[list[bytes]]:
    return [[b"Set-Cookie", morsel.OutputString().encode("latin-1")] for morsel in response.cookies.values()]


def _body(response: HttpResponseBase) -> bytes:
    body: bytes = response.getvalue()
    return body


def environ_of(content: Content) -> dict[str, Any]:
    """The WSGI environ of a connect message, or of a request's."""
    root = content.get("root_path", "")
    server = content.get("server") or ["localhost", 80]
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": root,
        "PATH_INFO": content["path"].encode().decode("latin-1")[len(root) :],
        "QUERY_STRING": (content.get("query_string") or b"").decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https" if content.get("scheme") in ("wss", "https") else "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if client := content.get("client"):
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    for name, value in content.get("headers") or ():
        key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        text = value.decode("latin-1")
        if key in environ:
            text = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + text
        environ[key] = text
    return environ

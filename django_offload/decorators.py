"""Sessions and users for consumers, with the names and meanings of Channels 1.1.

Each decorator stands by itself, and they may be combined in any order. The cookie comes with the handshake only, so
what it says is kept in the channel session, where the connection's later messages find it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, MutableMapping
from importlib import import_module
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from django.conf import settings
from django.contrib import auth
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.http import QueryDict
from django.http.cookie import parse_cookie
from django.utils.functional import SimpleLazyObject

from django_offload.origins import origin_is_allowed
from django_offload.settings import value_of
from django_offload.users import follow_session
from django_offload.views import accept_websocket, require_websocket
from offload.consumers.message import message_among
from offload.consumers.sessions import channel_session, enforce_ordering
from offload.exceptions import DenyConnection

__all__ = [
    "accept_websocket",
    "allowed_hosts_only",
    "channel_and_http_session",
    "channel_and_http_session_user_from_http",
    "channel_session",
    "channel_session_user",
    "channel_session_user_from_http",
    "enforce_ordering",
    "http_session",
    "http_session_user",
    "login_required",
    "require_websocket",
    "transfer_user",
]

log = logging.getLogger("offload.consumer")

F = TypeVar("F", bound=Callable[..., Any])
Session = MutableMapping[str, Any]

LOGIN_KEYS = (auth.SESSION_KEY, auth.BACKEND_SESSION_KEY, auth.HASH_SESSION_KEY)
POLICY_VIOLATION = 1008


def http_session(consumer: F) -> F:
    """Give the consumer ``message.http_session``: the session of the handshake's cookie, or None without one.

    It is loaded when first used, and saved after a consumer that changed it and did not fail. Consumers of the
    connection's later messages find it if the connect consumer was decorated, too. A connect consumer that replaces
    the session (by a login, say) sets the cookie, where the project has Django's session middleware; on later messages
    there is nothing to set it with, so that a session that is replaced then is known to this connection only.
    """

    @functools.wraps(consumer)
    def with_http_session(*args: Any, **kwargs: Any) -> Any:
        message: Any = message_among(args)
        if hasattr(message, "http_session"):
            return consumer(*args, **kwargs)
        message.http_session = _http_session_of(message)
        result = consumer(*args, **kwargs)
        if message.http_session is not None:
            _keep(message.http_session, message.channel_session)
        return result

    return channel_session(cast("F", with_http_session))


def channel_and_http_session(consumer: F) -> F:
    """Give the consumer ``message.channel_session`` and ``message.http_session``."""
    return http_session(consumer)


def channel_session_user(consumer: F) -> F:
    """Give the consumer ``message.user``, by what `transfer_user` copied to the channel session."""

    @functools.wraps(consumer)
    def with_user(*args: Any, **kwargs: Any) -> Any:
        message: Any = message_among(args)
        _give_user(message, message.channel_session)
        return consumer(*args, **kwargs)

    return channel_session(cast("F", with_user))


def http_session_user(consumer: F) -> F:
    """Give the consumer ``message.http_session``, and ``message.user`` by it."""

    @functools.wraps(consumer)
    def with_user(*args: Any, **kwargs: Any) -> Any:
        message: Any = message_among(args)
        _give_user(message, message.http_session)
        return consumer(*args, **kwargs)

    return http_session(cast("F", with_user))


def channel_session_user_from_http(consumer: F) -> F:
    """As `channel_session_user`, and copy the user of the HTTP session to the channel session at connect."""

    @functools.wraps(consumer)
    def with_user(*args: Any, **kwargs: Any) -> Any:
        message: Any = message_among(args)
        _copy_login(message)
        _give_user(message, message.channel_session)
        return consumer(*args, **kwargs)

    return http_session(cast("F", with_user))


def channel_and_http_session_user_from_http(consumer: F) -> F:
    """Give the consumer both sessions, with the user copied to the channel session at connect.

    ``message.user`` is the HTTP session's, so that logging out on the site ends it here, too; on a connection without
    an HTTP session it is the channel session's.
    """

    @functools.wraps(consumer)
    def with_user(*args: Any, **kwargs: Any) -> Any:
        message: Any = message_among(args)
        _copy_login(message)
        _give_user(message, message.channel_session if message.http_session is None else message.http_session)
        return consumer(*args, **kwargs)

    return http_session(cast("F", with_user))


def transfer_user(from_session: Any, to_session: Any) -> None:
    """Copy who is logged in from one session to another; nothing when nobody is."""
    if all(key in from_session for key in LOGIN_KEYS):
        for key in LOGIN_KEYS:
            to_session[key] = from_session[key]


def login_required(consumer: F) -> F:
    """Refuse the handshake (403) of clients who are not logged in on the site.

    A logout closes the connections of its session with code 4001. A user who may not stay for another reason (the
    password was changed, say) is found at the next message: it closes the connection with code 1008 instead of reaching
    its consumer. Disconnect consumers always run, to clean up.

    ``message.user`` is what a decorator outside this one gave, else as by `channel_session_user_from_http`.
    """

    @functools.wraps(consumer)
    def for_users_only(*args: Any, **kwargs: Any) -> Any:
        message: Any = message_among(args)
        if message.channel_name == "websocket.disconnect" or message.user.is_authenticated:
            if message.channel_name == "websocket.connect" and (key := _session_key_of(message)):
                follow_session(key, message.reply_channel)
            return consumer(*args, **kwargs)
        if message.channel_name == "websocket.connect":
            raise DenyConnection("login required")
        message.reply_channel.send({"close": POLICY_VIOLATION})
        return None

    find_user = channel_session_user_from_http(for_users_only)

    @functools.wraps(consumer)
    def with_login(*args: Any, **kwargs: Any) -> Any:
        return (for_users_only if hasattr(message_among(args), "user") else find_user)(*args, **kwargs)

    return cast("F", with_login)


def allowed_hosts_only(consumer: F) -> F:
    """Refuse the handshake (403) without an Origin whose host is in ``ALLOWED_HOSTS``.

    The server refuses other origins anyway; this decorator also refuses clients that send none, which no browser does.
    """

    @functools.wraps(consumer)
    def with_known_origin(*args: Any, **kwargs: Any) -> Any:
        message = message_among(args)
        if message.channel_name == "websocket.connect":
            origin = _header(message, b"origin")
            if origin is None or not origin_is_allowed(origin):
                raise DenyConnection(f"origin {origin!r} is not in ALLOWED_HOSTS")
        return consumer(*args, **kwargs)

    return cast("F", with_known_origin)


def _header(message: Any, name: bytes) -> str | None:
    """A header field of the handshake, repeated ones joined as for a cookie; None on later messages and without it."""
    headers = message.get("headers") or ()
    if isinstance(headers, dict):
        # As in messages that tests for Channels 1 make.
        headers = [(key.encode() if isinstance(key, str) else key, value) for key, value in headers.items()]
    values = [pair[1] for pair in headers if len(pair) == 2 and pair[0] == name]
    return b"; ".join(values).decode("utf-8", "replace") if values else None


def _http_session_of(message: Any) -> SessionBase | None:
    name = settings.SESSION_COOKIE_NAME
    shared = getattr(message.http_request, "session", None)
    if isinstance(shared, SessionBase):
        # The middleware's own, so that neither of two overwrites what the other has saved.
        if shared.session_key is not None:
            message.channel_session[name] = shared.session_key
        return shared if shared.session_key is not None else None
    engine = import_module(settings.SESSION_ENGINE)
    cookie = parse_cookie(_header(message, b"cookie") or "").get(name)
    if value_of("SESSION_KEY_IN_QUERY"):
        cookie = QueryDict(message.get("query_string") or b"").get("session_key") or cookie
    if cookie is not None and cookie == message.channel_session.session_key:
        # Test clients of Channels 1 log in by the channel session of their own connection.
        return cast("SessionBase", message.channel_session)
    if "headers" not in message:
        key = message.channel_session.get(name)
        return None if key is None else cast("SessionBase", engine.SessionStore(key or None))
    session: SessionBase = engine.SessionStore(cookie)
    if session.session_key is None:  # no cookie, or what cannot be a key
        return None
    message.channel_session[name] = session.session_key
    return session


def _session_key_of(message: Any) -> str | None:
    """The key of the HTTP session by which a connection's user is known; None where there is none."""
    for session in (getattr(message.http_request, "session", None), getattr(message, "http_session", None)):
        if isinstance(session, SessionBase) and session.session_key:
            return str(session.session_key)
    return None


def _keep(http: SessionBase, channel: Session) -> None:
    """Save a changed HTTP session, and remember its key, which may have become another one."""
    if http.modified and not http.is_empty():
        try:
            http.save()
        except UpdateError:
            log.warning("an HTTP session was deleted while a consumer changed it; the user may just have logged out")
            http.flush()
    # Flushed, cycled by a login, or with the data for its key (signed cookies). One that has ended is remembered as
    # such ("") and stays empty: without it, the user copied from it at connect would come back.
    key = http.session_key or ""
    if channel.get(settings.SESSION_COOKIE_NAME) != key:
        channel[settings.SESSION_COOKIE_NAME] = key


class _Login:
    """A channel session as `django.contrib.auth.get_user` wants to have it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getitem__(self, key: str) -> Any:
        return self._session[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._session[key] = value

    def get(self, key: str, default: Any = None) -> Any:
        return self._session.get(key, default)

    def flush(self) -> None:
        """Log out. What else is in it belongs to the connection, whose disconnect consumer will need it."""
        for key in LOGIN_KEYS:
            self._session.pop(key, None)

    def cycle_key(self) -> None:
        """Nothing: the key is the reply channel's name, which no client ever sees."""


def _give_user(message: Any, session: Any) -> None:
    """Hang the user of a session (None: anonymous) on the message, to be looked up and verified when first used."""
    if getattr(message, "_user_session", message) is session:
        return  # stacked decorators ask the database once
    message._user_session = session
    if session is None:
        session = {}
    elif not isinstance(session, SessionBase):
        session = _Login(session)
    request: Any = SimpleNamespace(session=session)
    message.user = SimpleLazyObject(lambda: auth.get_user(request))


def _copy_login(message: Any) -> None:
    if message.http_session is not None and "headers" in message:
        before = [message.channel_session.get(key) for key in LOGIN_KEYS]
        transfer_user(message.http_session, message.channel_session)
        if before != [message.channel_session.get(key) for key in LOGIN_KEYS]:
            message._user_session = message  # who it was is no longer right

"""Views that serve WebSockets: ``accept_websocket`` and ``require_websocket``.

Both work with and without `django_offload.middleware.WebSocketMiddleware`, and on methods of class-based views through
Django's ``method_decorator``.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest

log = logging.getLogger("offload.websocket")

V = TypeVar("V", bound=Callable[..., Any])


def accept_websocket(view: V) -> V:
    """Let a view serve WebSockets beside plain requests.

    The view gets ``request.websocket``, which is None on a plain request. A response that it returns without having
    used the WebSocket refuses it; after a use, what it returns is dropped. It may as well return None.

    Raises:
        ImproperlyConfigured: the view is a coroutine function, which cannot use a WebSocket of this server.
    """
    return _websocket_view(view, required=False)


def require_websocket(view: V) -> V:
    """As `accept_websocket`, and answer plain requests with 400 instead of calling the view."""
    return _websocket_view(view, required=True)


def websocket_of(request: HttpRequest) -> Any:
    """The raw socket of an upgrade request; None on a plain one, and under a server that offers none."""
    return request.META.get("wsgi.websocket")


def serves_websockets(view: Callable[..., Any]) -> bool:
    """Whether a view was decorated here, itself or by its class's ``dispatch``."""
    return hasattr(view, _MARK)


_MARK = "_offload_serves_websockets"
"""Django copies a view's attributes to what wraps it, by ``method_decorator`` and ``as_view``."""


def has_left(request: HttpRequest, error: Exception) -> bool:
    """Whether a view's error says no more than that its client is gone."""
    websocket = websocket_of(request)
    if websocket is None:
        return False
    # Imported with the first WebSocket: it brings gevent, which a program that never serves can do without.
    from geventwebsocket.exceptions import WebSocketError

    return isinstance(error, WebSocketError) and bool(websocket.closed)


def _websocket_view(view: V, required: bool) -> V:
    if inspect.iscoroutinefunction(view):
        name = getattr(view, "__qualname__", repr(view))
        raise ImproperlyConfigured(
            f"the view {name} is a coroutine function; a WebSocket view is written with plain def"
        )

    @functools.wraps(view)
    def with_websocket(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        websocket = request.websocket = websocket_of(request)  # type: ignore[attr-defined]
        if websocket is None:
            return HttpResponseBadRequest(_PLAIN) if required else view(request, *args, **kwargs)
        try:
            response = view(request, *args, **kwargs)
        except OSError as error:
            if not has_left(request, error):
                raise
            log.debug("a view's client left: %s", error)
            response = None
        if response is None:
            websocket.close()
            # Django wants one; the server drops it.
            response = HttpResponse()
        return response

    setattr(with_websocket, _MARK, True)
    return cast("V", with_websocket)


_PLAIN = "This address serves WebSockets only."

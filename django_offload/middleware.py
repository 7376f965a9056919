"""Middleware for projects whose views serve WebSockets."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, HttpResponseBase

from django_offload.views import has_left, websocket_of


class WebSocketMiddleware:
    """Gives views ``request.websocket``: the raw socket of an upgrade request, or None on a plain request.

    The handshake is sent when the view first uses it; a view that returns a response instead refuses the WebSocket
    with that response. A view that a client left while it was sending needs no ``except``: its ``WebSocketError`` ends
    here.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Serve one request."""
        request.websocket = websocket_of(request)  # type: ignore[attr-defined]
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        """Let the view end in peace whose client is gone."""
        return HttpResponse() if has_left(request, exception) else None

"""The way in for WebSockets: an upgrade request that a route wants goes to its consumers; any other one is offered to
the application with its request, as ``environ["wsgi.websocket"]``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from offload.http.environ import Application, Environ
from offload.http.upgrade import Refuse, Upgradable, UpgradeResponse
from offload.interfaces import Layer, WebSocketRouting
from offload.observe.log_lines import SafeLogger
from offload.protocol.http.request import HttpError, Request
from offload.protocol.websocket.handshake import refusal_fields
from offload.transport.connection import Connection
from offload.websocket.connect import PendingHandshake, connect_content
from offload.websocket.routed import RoutedReceiver
from offload.websocket.server import WebSocketServer

if TYPE_CHECKING:
    from offload.websocket.geventwebsocket import ApplicationServer

log = SafeLogger("offload.websocket")

Fields = Callable[[Request, Environ, object], list[list[bytes]]]
"""A request, its environ and its peer to the header fields that consumers see."""

REPLY_PREFIX = "websocket.send"


class RoutedWebSockets:
    """Takes the upgrade requests that routes want; see `offload.http.upgrade.TakeUpgrade`.

    Args:
        server: what all WebSockets share.
        routing: finds consumers.
        layer: makes reply channels, and delivers what is sent to them.
        fields: makes the header fields that consumers see.
    """

    def __init__(self, server: WebSocketServer, routing: WebSocketRouting, layer: Layer, fields: Fields) -> None:
        self._server = server
        self._fields = fields
        self._routing = routing
        self._layer = layer

    def take(self, connection: Connection, request: Request, environ: Environ, refuse: Refuse, early: bytes) -> bool:
        server = self._server
        content = connect_content(request, environ, self._fields(request, environ, connection.peer))
        try:
            content["reply_channel"] = self._layer.new_channel(REPLY_PREFIX)
            consumers = self._routing.bind(content)
        except Exception:
            log.exception("the routing of a WebSocket at %s failed", ascii(content["path"]))
            server.refused(500)
            refuse(HttpError(500, "the server failed to open the WebSocket"), b"")
            return True
        if consumers is None:
            return False
        try:
            handshake = server.check(request, content["path"], environ.get("HTTP_HOST", ""), environ)
        except HttpError as error:
            refuse(error, refusal_fields(error))
            return True
        receiver = RoutedReceiver(server, self._layer, connection, consumers, content)
        answered = partial(server.observer.handshake, environ, connection.peer)
        pending = PendingHandshake(receiver, handshake, content["client"], early, answered)
        server.connection_limit.enter(receiver.websocket, environ["REMOTE_ADDR"])
        server.members.add(receiver.websocket)
        server.pool.submit(pending.run, content)
        return True


class ApplicationWebSockets:
    """Offers the application the WebSockets of the others; see `offload.http.upgrade.OfferSocket`.

    Args:
        server: what all WebSockets share.
        application: the WSGI application.
    """

    def __init__(self, server: WebSocketServer, application: Application) -> None:
        self._server = server
        self._application = application
        self._application_server: ApplicationServer | None = None

    def offer(
        self, http: Upgradable, connection: Connection, request: Request, environ: Environ, response: UpgradeResponse
    ) -> None:
        # Only here, with what they bring along: few applications take WebSockets into their own hands.
        from offload.websocket.geventwebsocket import ApplicationServer, ApplicationSocket
        from offload.websocket.raw import RawReceiver

        if self._application_server is None:
            self._application_server = ApplicationServer(self._application)
        receiver = RawReceiver(self._server, self._application_server, http, connection, request, environ, response)
        response.socket = receiver
        receiver.face = ApplicationSocket(environ, receiver, self._application_server, connection.peer)
        environ["wsgi.websocket"] = receiver.face
        environ["wsgi.websocket_version"] = environ.get("HTTP_SEC_WEBSOCKET_VERSION")

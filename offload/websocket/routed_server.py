"""What all routed WebSockets of a process share: routing, layer, pool, and the way in."""

from __future__ import annotations

import logging
from _thread import get_native_id
from collections.abc import Callable
from functools import partial
from urllib.parse import unquote_to_bytes

import gevent

from offload.http.access_log import AccessLog
from offload.http.environ import Environ
from offload.http.origin_check import Origins
from offload.http.response import Date
from offload.http.upgrade import Refuse, checked_handshake, refusal_fields
from offload.interfaces import Content, Layer, WebSocketRouting
from offload.protocol.http.request import HttpError, Request
from offload.settings import WebSocketOptions
from offload.transport.connection import Connection
from offload.transport.pool import Pool
from offload.websocket.connection_limit import Admission
from offload.websocket.counters import WebSocketCounters
from offload.websocket.routed import WebSocketHandler
from offload.websocket.server import FrameGateway

log = logging.getLogger("offload.websocket")

Fields = Callable[[Request, Environ, object], list[list[bytes]]]
"""A request, its environ and its peer to the header fields that consumers see."""

REPLY_PREFIX = "websocket.send"


class WebSocketGateway(FrameGateway):
    """What all routed WebSockets of a process share.

    Args:
        routing: finds consumers.
        layer: makes reply channels, and delivers what is sent to them.
        pool: where consumers run.
        origins: decides which pages may connect.
        options: what one client may do.
        counters: of all that happens to WebSockets.
        admission: counts those of each client.
        fields: makes the header fields that consumers see.
        access: told of each answer to a handshake.
    """

    def __init__(
        self,
        routing: WebSocketRouting,
        layer: Layer,
        pool: Pool,
        origins: Origins,
        options: WebSocketOptions,
        counters: WebSocketCounters,
        admission: Admission,
        fields: Fields,
        access: AccessLog | None = None,
    ) -> None:
        super().__init__(origins, options, counters, admission)
        self.routing = routing
        self.layer = layer
        self.pool = pool
        self.fields = fields
        self.access = access
        self.date = Date()
        self.loop = gevent.get_hub().loop
        self.thread = get_native_id()

    def take(self, connection: Connection, request: Request, environ: Environ, refuse: Refuse, rest: bytes) -> bool:
        """See `offload.http.upgrade.RoutedUpgrades`."""
        content = _connect_content(request, environ, self.fields(request, environ, connection.peer))
        try:
            content["reply_channel"] = self.layer.new_channel(REPLY_PREFIX)
            consumers = self.routing.bind(content)
        except Exception:
            log.exception("the routing of a WebSocket at %s failed", ascii(content["path"]))
            self.counters.failed_handshakes += 1
            refuse(HttpError(500, "the server failed to open the WebSocket"), b"")
            return True
        if consumers is None:
            return False
        address: str = environ["REMOTE_ADDR"]
        try:
            handshake = checked_handshake(
                request,
                content["path"],
                environ["wsgi.url_scheme"],
                environ.get("HTTP_HOST", ""),
                self.origins,
                self.stopping,
                self.compresses,
            )
            self.admission.check(address)
        except HttpError as error:
            self.counters.count_refusal(error.status)
            refuse(error, refusal_fields(error))
            return True
        answered = partial(self.access.log_own, environ, connection.peer) if self.access is not None else None
        handler = WebSocketHandler(self, connection, consumers, content, handshake, rest, answered)
        self.admission.enter(handler, address)
        self.members.add(handler)
        self.pool.submit(handler.open, content)
        return True


def _connect_content(request: Request, environ: Environ, fields: list[list[bytes]]) -> Content:
    path = unquote_to_bytes(request.path).decode("utf-8", "replace")
    content: Content = {
        "path": path,
        "scheme": "wss" if environ["wsgi.url_scheme"] == "https" else "ws",
        "query_string": request.query,
        "headers": fields,
        "client": [environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"] or 0)],
        "server": [environ["SERVER_NAME"], int(environ["SERVER_PORT"] or 0)],
        "order": 0,
    }
    if environ["SCRIPT_NAME"]:
        # As ASGI calls it: where in the path the application is mounted.
        content["root_path"] = environ["SCRIPT_NAME"]
    return content

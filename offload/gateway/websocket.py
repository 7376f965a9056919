"""What all routed WebSockets of a process share: limits, timers, counters, and the way in and out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote_to_bytes

import gevent
from gevent import monkey

from offload.gateway.access import AccessLog
from offload.gateway.admission import Admission
from offload.gateway.counters import WebSocketCounters
from offload.gateway.draining import Drain
from offload.gateway.http import Date, Environ, Refuse
from offload.gateway.liveness import Liveness, Members
from offload.gateway.mailbox import Overflow
from offload.gateway.origins import Origins
from offload.gateway.upgrade import checked_handshake, refusal_fields
from offload.gateway.websocket_handler import WebSocketHandler
from offload.interfaces import Content, Layer, WebSocketRouting
from offload.protocol.request import HttpError, Request
from offload.protocol.websocket import GOING_AWAY
from offload.transport.connection import Connection
from offload.transport.pool import Pool
from offload.transport.timeouts import Timeouts

log = logging.getLogger("offload.websocket")

REPLY_PREFIX = "websocket.send"
CLOSE_SECONDS = 10.0
"""How long the closing handshake may take, on either side."""


@dataclass(frozen=True)
class WebSocketLimits:
    """What one client may do.

    Attributes:
        max_size: bytes of the largest message taken.
        queue: messages that may wait for the consumers of one connection before it stops reading.
        send_buffer: unsent bytes that one client may hold.
        overflow: what happens past them.
        rate: messages a second from one connection; None for no limit.
        handshakes: undecided at a time; None for no limit.
        per_address: WebSockets of one client address; None for no limit.
        ping_interval, ping_timeout: seconds; None for no pings.
        compresses: whether messages are compressed for clients that offer it.
    """

    max_size: int
    queue: int
    send_buffer: int
    overflow: Overflow = Overflow.CLOSE
    rate: float | None = None
    handshakes: int | None = None
    per_address: int | None = None
    ping_interval: float | None = None
    ping_timeout: float | None = None
    compresses: bool = True


class WebSocketGateway:
    """What all routed WebSockets of a process share.

    Args:
        routing: finds consumers.
        layer: makes reply channels, and delivers what is sent to them.
        pool: where consumers run.
        origins: decides which pages may connect.
        limits: what one client may do.
        counters: of all that happens to WebSockets.
        admission: counts those of each client.
        access: told of each answer to a handshake.

    Attributes:
        members: those whose consumers have not ended.
    """

    def __init__(
        self,
        routing: WebSocketRouting,
        layer: Layer,
        pool: Pool,
        origins: Origins,
        limits: WebSocketLimits,
        counters: WebSocketCounters,
        admission: Admission,
        access: AccessLog | None = None,
    ) -> None:
        self.routing = routing
        self.layer = layer
        self.pool = pool
        self.origins = origins
        self.access = access
        self.max_size = limits.max_size
        self.queue = limits.queue
        self.send_buffer = limits.send_buffer
        self.overflow = limits.overflow
        self.rate = limits.rate
        self.compresses = limits.compresses
        self.stopping = False
        self.date = Date()
        self.counters = counters
        self.admission = admission
        self.loop = gevent.get_hub().loop
        # The real one: gevent's own tells greenlets apart, not threads.
        self.thread_id: Callable[[], int] = monkey.get_original("_thread", "get_ident")
        self.thread = self.thread_id()
        self.members: Members[WebSocketHandler] = Members()
        self.liveness = Liveness(self.members, limits.ping_interval, limits.ping_timeout)
        self.closing: Timeouts[WebSocketHandler] = Timeouts(CLOSE_SECONDS, WebSocketHandler.close_expired)
        self._drain: Drain | None = None

    def take(self, connection: Connection, request: Request, environ: Environ, refuse: Refuse, rest: bytes) -> bool:
        """See `offload.gateway.http.Upgrades`."""
        content = _connect_content(request, environ)
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
                request, content["path"], environ["wsgi.url_scheme"], self.origins, self.stopping, self.compresses
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
        connection.handler = handler
        self.pool.submit(handler.open, content)
        return True

    def stop(self, code: int = GOING_AWAY, seconds: float = 0.0) -> None:
        """Refuse further handshakes, and close every WebSocket.

        Args:
            code: what to close with.
            seconds: over which the closes are spread, so that not all clients come back at once.
        """
        self.stopping = True
        self._drain = Drain(self.members, code, seconds)


def _connect_content(request: Request, environ: Environ) -> Content:
    path = unquote_to_bytes(request.path).decode("utf-8", "replace")
    return {
        "path": path,
        "scheme": "wss" if environ["wsgi.url_scheme"] == "https" else "ws",
        "query_string": request.query,
        "headers": [[name, value] for name, value in request.headers],
        "client": [environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"] or 0)],
        "server": [environ["SERVER_NAME"], int(environ["SERVER_PORT"] or 0)],
        "order": 0,
    }

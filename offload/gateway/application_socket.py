"""What all sockets in the hands of the application share: limits, timers, counters, and the offer of a socket.

An upgrade that no route wants is offered to the application with its request, as ``environ["wsgi.websocket"]``.
"""

from __future__ import annotations

import gevent

from offload.gateway.admission import Admission
from offload.gateway.counters import WebSocketCounters
from offload.gateway.draining import Drain
from offload.gateway.gevent_websocket import ApplicationSocket, Server
from offload.gateway.handler import HttpHandler
from offload.gateway.http import Application, Environ
from offload.gateway.liveness import Liveness, Members
from offload.gateway.origins import Origins
from offload.gateway.socket_handler import SocketHandler
from offload.gateway.upgrade import UpgradeResponse
from offload.gateway.websocket import CLOSE_SECONDS, WebSocketLimits
from offload.protocol.request import Request
from offload.protocol.websocket import GOING_AWAY
from offload.transport.connection import Connection
from offload.transport.timeouts import Timeouts


class ApplicationSockets:
    """What all sockets in the hands of the application share.

    Args:
        application: the WSGI application.
        origins: decides which pages may connect.
        limits: what one client may do.
        counters, admission: shared with the routed WebSockets, so that a client has one account.
        send_timeout: seconds that a client may take nothing while the application waits to send; None for no limit.

    Attributes:
        members: those that are open, or closing.
    """

    def __init__(
        self,
        application: Application,
        origins: Origins,
        limits: WebSocketLimits,
        counters: WebSocketCounters,
        admission: Admission,
        send_timeout: float | None,
    ) -> None:
        self.server = Server(application)
        self.origins = origins
        self.limits = limits
        self.counters = counters
        self.admission = admission
        self.send_timeout = send_timeout
        self.stopping = False
        self.hub = gevent.get_hub()
        self.members: Members[SocketHandler] = Members()
        self.liveness = Liveness(self.members, limits.ping_interval, limits.ping_timeout)
        self.closing: Timeouts[SocketHandler] = Timeouts(CLOSE_SECONDS, SocketHandler.close_expired)
        self._drain: Drain | None = None

    def offer(
        self, http: HttpHandler, connection: Connection, request: Request, environ: Environ, response: UpgradeResponse
    ) -> None:
        """See `offload.gateway.http.Sockets`."""
        handler = SocketHandler(self, http, connection, request, environ, response)
        response.socket = handler
        handler.face = environ["wsgi.websocket"] = ApplicationSocket(environ, handler, self.server, connection.peer)
        environ["wsgi.websocket_version"] = environ.get("HTTP_SEC_WEBSOCKET_VERSION")

    def stop(self, code: int = GOING_AWAY, seconds: float = 0.0) -> None:
        """Refuse further handshakes, and close every socket.

        Args:
            code: what to close with.
            seconds: over which the closes are spread, so that not all clients come back at once.
        """
        self.stopping = True
        self._drain = Drain(self.members, code, seconds)

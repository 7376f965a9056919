"""What all sockets in the hands of the application share: the server they know, and the offer of a socket.

An upgrade that no route wants is offered to the application with its request, as ``environ["wsgi.websocket"]``.
"""

from __future__ import annotations

import gevent

from offload.http.environ import Application, Environ
from offload.http.origin_check import Origins
from offload.http.upgrade import Upgradable, UpgradeResponse
from offload.protocol.http.request import Request
from offload.settings import WebSocketOptions
from offload.transport.connection import Connection
from offload.websocket.connection_limit import Admission
from offload.websocket.counters import WebSocketCounters
from offload.websocket.geventwebsocket import ApplicationSocket, Server
from offload.websocket.raw import SocketHandler
from offload.websocket.server import FrameGateway


class ApplicationSockets(FrameGateway):
    """What all sockets in the hands of the application share.

    Args:
        application: the WSGI application.
        origins: decides which pages may connect.
        options: what one client may do.
        counters, admission: shared with the routed WebSockets, so that a client has one account.
        send_timeout: seconds that a client may take nothing while the application waits to send; None for no limit.
    """

    def __init__(
        self,
        application: Application,
        origins: Origins,
        options: WebSocketOptions,
        counters: WebSocketCounters,
        admission: Admission,
        send_timeout: float | None,
    ) -> None:
        super().__init__(origins, options, counters, admission)
        self.server = Server(application)
        self.send_timeout = send_timeout
        self.hub = gevent.get_hub()

    def offer(
        self, http: Upgradable, connection: Connection, request: Request, environ: Environ, response: UpgradeResponse
    ) -> None:
        """See `offload.http.upgrade.ApplicationUpgrades`."""
        handler = SocketHandler(self, http, connection, request, environ, response)
        response.socket = handler
        handler.face = environ["wsgi.websocket"] = ApplicationSocket(environ, handler, self.server, connection.peer)
        environ["wsgi.websocket_version"] = environ.get("HTTP_SEC_WEBSOCKET_VERSION")

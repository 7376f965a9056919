"""HTTP connections: events of the protocol become calls of the WSGI application, one at a time for a connection."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any, Protocol

from offload.gateway.body import BodyError, RequestBody
from offload.gateway.environ import EnvironBuilder
from offload.gateway.response import ClientGone, Response
from offload.gateway.upgrade import UpgradeResponse, may_upgrade
from offload.protocol.handshake import wants_websocket
from offload.protocol.http import END, Event, HttpProtocol
from offload.protocol.request import HttpError, HttpLimits, Request
from offload.protocol.response import FieldNames, plain_answer
from offload.transport.connection import Connection, Handler
from offload.transport.pool import Pool
from offload.transport.timeouts import Timeouts

log = logging.getLogger("offload.http")

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

LINGER_SECONDS = 5.0
"""How long a client may take to read the answer to a request that was not read whole."""
MAX_DISCARDED_BYTES = 262144
"""An unread body up to this size is read and dropped to keep the connection; past it the connection closes."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Upgrades(Protocol):
    """Takes upgrade requests out of the HTTP cycle."""

    def take(self, connection: Connection, request: Request, environ: Environ, refuse: Refuse, rest: bytes) -> bool:
        """Take over the connection, or leave the request to the application by returning False."""


Refuse = Callable[[HttpError, bytes], None]


class Sockets(Protocol):
    """Offers the application the sockets of upgrade requests that nobody took."""

    def offer(
        self, http: HttpHandler, connection: Connection, request: Request, environ: Environ, response: UpgradeResponse
    ) -> None:
        """Put a socket into the environ; the application may take it instead of answering."""


class Date:
    """The Date field's value, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self) -> str:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._text = formatdate(now, usegmt=True)
        return self._text


class HttpGateway:
    """What all HTTP connections of a process share.

    Args:
        application: the WSGI application.
        pool: where it runs.
        limits: bounds on one request.
        header_timeout, body_timeout, send_timeout, keep_alive: seconds, None for no limit.
        upgrades: asked first about WebSocket upgrades.
        sockets: offers the application those that are left to it; None leaves it plain requests.
        ended: called whenever a connection leaves.
    """

    def __init__(
        self,
        application: Application,
        pool: Pool,
        limits: HttpLimits,
        *,
        header_timeout: float | None,
        body_timeout: float | None,
        send_timeout: float | None,
        keep_alive: float | None,
        upgrades: Upgrades | None,
        sockets: Sockets | None = None,
    ) -> None:
        self.application = application
        self.pool = pool
        self.limits = limits
        self.body_timeout = body_timeout
        self.send_timeout = send_timeout
        self.upgrades = upgrades
        self.sockets = sockets
        self.keeps_alive = keep_alive != 0
        self.stopping = False
        self.date = Date()
        self.names = FieldNames()
        self.environ = EnvironBuilder()
        self.handlers: set[HttpHandler] = set()
        self.heads: Timeouts[HttpHandler] = Timeouts(header_timeout, HttpHandler.head_expired)
        self.idle: Timeouts[HttpHandler] = Timeouts(keep_alive or None, HttpHandler.idle_expired)
        self.lingering: Timeouts[Connection] = Timeouts(LINGER_SECONDS, Connection.abort)

    def accepted(self, connection: Connection, base: Environ) -> None:
        """Serve a new connection; `base` is its listener's part of the environ."""
        handler = HttpHandler(self, connection, base)
        self.handlers.add(handler)
        self.heads.add(handler)
        connection.start(handler)

    def linger(self, connection: Connection) -> None:
        """End a connection so that its client reads the answer before it sees the end."""
        connection.finish()
        self.lingering.add(connection)

    def stop(self) -> None:
        """End idle connections now, and the others after their answer."""
        self.stopping = True
        for handler in list(self.handlers):
            handler.stop()


class HttpHandler:
    """One HTTP connection."""

    __slots__ = ("_base", "_body", "_busy", "_connection", "_eof", "_gateway", "_protocol", "_refused")

    def __init__(self, gateway: HttpGateway, connection: Connection, base: Environ) -> None:
        self._gateway = gateway
        self._connection = connection
        self._base = base
        self._protocol = HttpProtocol(gateway.limits)
        self._body: RequestBody | None = None
        self._busy = False
        self._eof = False
        self._refused = False

    # Called by the connection, in the loop.

    def data_received(self, data: bytes) -> None:
        """Read on; what follows a refused request is dropped."""
        if self._refused:
            return
        protocol = self._protocol
        try:
            events = protocol.receive(data)
        except HttpError as error:
            self._broken(error)
            return
        if events:
            self._take(events)
        elif not protocol.reading_body:
            if self._busy:
                # A further request, ahead of the answer to this one: it waits in the kernel.
                self._connection.pause_reading()
            elif self._body is None:
                self._gateway.idle.discard(self)
                if len(protocol.rest) == len(data):
                    self._gateway.heads.add(self)

    def eof_received(self) -> None:
        """A client may end its sending half and still wait for the answer."""
        self._eof = True
        if self._busy:
            if self._body is not None:
                self._body.fail("the client closed the connection before its request was whole")
        else:
            self._connection.close()

    def connection_lost(self) -> None:
        """Forget the connection."""
        gateway = self._gateway
        gateway.handlers.discard(self)
        gateway.heads.discard(self)
        gateway.idle.discard(self)
        gateway.lingering.discard(self._connection)
        if self._body is not None:
            self._body.fail("the client closed the connection before its request was whole")

    # Called by the gateway's timeouts, in the loop.

    def head_expired(self) -> None:
        """The client took too long over a request's head."""
        if self._protocol.rest:
            self.refuse(HttpError(408, "the request's head did not arrive in time"))
        else:
            self._connection.abort()

    def idle_expired(self) -> None:
        """No further request came."""
        self._connection.close()

    def stop(self) -> None:
        """End the connection unless it has an answer to finish."""
        if not self._busy and not self._refused:
            self._connection.close()

    # Requests.

    def refuse(self, error: HttpError, fields: bytes = b"") -> None:
        """Answer a request that is not served, and end the connection."""
        log.info("%s from %s: %s", error.status, self._connection.peer, error)
        self._refused = True
        self._busy = False
        gateway = self._gateway
        gateway.heads.discard(self)
        gateway.idle.discard(self)
        self._connection.write(plain_answer(error.status, str(error), gateway.date().encode("ascii"), fields))
        self._connection.resume_reading()
        gateway.linger(self._connection)

    def _broken(self, error: HttpError) -> None:
        if self._busy:
            # The application has the request already, so it is the one to hear of it.
            self._connection.pause_reading()
            self._eof = True
            if self._body is not None:
                self._body.fail(str(error))
        else:
            self.refuse(error)

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if event is END:
                body = self._body
                if body is not None:
                    body.finish()
                    if not self._busy:
                        # It was only read to keep the connection.
                        self._next()
            elif isinstance(event, bytes):
                assert self._body is not None
                self._body.feed(event)
            elif isinstance(event, Request):
                self._begin(event)

    def _begin(self, request: Request) -> None:
        gateway, connection = self._gateway, self._connection
        gateway.heads.discard(self)
        gateway.idle.discard(self)
        self._busy = True
        if request.has_body:
            self._body = RequestBody(
                self._send_continue if request.expect_continue else None,
                connection.pause_reading,
                connection.resume_reading,
                gateway.body_timeout,
            )
        if request.upgrade is not None and gateway.upgrades is not None and wants_websocket(request):
            environ = gateway.environ.build(self._base, request, connection.peer, io.BytesIO())
            if gateway.upgrades.take(connection, request, environ, self.refuse, self._protocol.rest):
                if connection.handler is not self:
                    gateway.handlers.discard(self)
                return
        gateway.pool.submit(self._respond, request)

    def hand_over(self, handler: Handler) -> bytes | None:
        """Leave the connection to another handler.

        Returns:
            What arrived behind the request; None when the client is gone, or will send nothing more.
        """
        self._gateway.handlers.discard(self)
        self._connection.handler = handler
        return None if self._eof or self._connection.closed else self._protocol.rest

    def _send_continue(self) -> None:
        self._connection.write(_CONTINUE)

    def _respond(self, request: Request) -> None:
        gateway, connection = self._gateway, self._connection
        keep_alive = request.keep_alive and gateway.keeps_alive and not gateway.stopping and not self._eof
        upgrade: UpgradeResponse | None = None
        if request.upgrade is None or gateway.sockets is None or not may_upgrade(request):
            response = Response(connection, request, gateway.date, gateway.names, gateway.send_timeout, keep_alive)
        else:
            response = upgrade = UpgradeResponse(
                connection, request, gateway.date, gateway.names, gateway.send_timeout
            )  # fmt: skip
        body = self._body
        environ = gateway.environ.build(self._base, request, connection.peer, io.BytesIO() if body is None else body)
        if upgrade is not None and gateway.sockets is not None:
            gateway.sockets.offer(self, connection, request, environ, upgrade)
        try:
            result = gateway.application(environ, response.start_response)
            try:
                response.send_result(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except ClientGone:
            log.debug("%s left %s %s before its answer was whole", connection.peer, request.method, request.target)
            connection.abort()
        except BodyError as error:
            log.info("%s: %s", connection.peer, error)
            self._fail(response, 400)
        except BaseException as error:
            # SystemExit and its like, too: an application that exits may not take others' requests with it.
            if upgrade is not None and upgrade.taken:
                upgrade.socket.failed(error)
            else:
                log.error("the application failed for %s %s", request.method, environ["PATH_INFO"], exc_info=error)
                self._fail(response, 500)
        if upgrade is not None:
            upgrade.socket.finish()
            if upgrade.taken:
                return
        self._answered(response, request)

    def _fail(self, response: Response, status: int) -> None:
        response.keep_alive = False
        if response.head_sent:
            # Nothing but the connection's end can tell the client that the answer is not whole.
            self._connection.abort()
        elif not self._connection.closed:
            text = "the server failed to answer" if status == 500 else "the request was not whole"
            self._connection.write(plain_answer(status, text, self._gateway.date().encode("ascii")))

    def _answered(self, response: Response, request: Request) -> None:
        self._busy = False
        connection, body = self._connection, self._body
        if connection.closed:
            return
        whole = body is None or body.complete
        if not response.keep_alive or self._eof or self._gateway.stopping:
            if whole or self._eof:
                connection.close()
            else:
                self._linger()
        elif whole:
            self._next()
        elif request.content_length is not None and request.content_length <= MAX_DISCARDED_BYTES:
            assert body is not None
            self._gateway.idle.add(self)
            body.discard()
        else:
            self._linger()

    def _linger(self) -> None:
        self._refused = True
        self._connection.resume_reading()
        self._gateway.linger(self._connection)

    def _next(self) -> None:
        """Serve the request that has arrived meanwhile, or wait for one without a greenlet."""
        self._body = None
        protocol = self._protocol
        try:
            events = protocol.next_request()
        except HttpError as error:
            self._broken(error)
            return
        self._connection.resume_reading()
        if events:
            self._take(events)
        elif protocol.rest:
            self._gateway.heads.add(self)
        else:
            self._gateway.idle.add(self)

"""What all HTTP connections of a process share: the application, the limits, the times, and who takes upgrades."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from email.utils import formatdate
from typing import Any, Protocol

from offload.http.access_log import AccessLog
from offload.http.connection import HttpHandler
from offload.http.environ import EnvironBuilder
from offload.http.exchange import RequestServer
from offload.http.upgrade import UpgradeResponse
from offload.protocol.http.request import HttpError, HttpLimits, Request
from offload.protocol.http.response_head import FieldNames
from offload.transport.connection import Connection
from offload.transport.pool import Pool
from offload.transport.timeouts import Timeouts

log = logging.getLogger("offload.http")

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

RESTLESS_SECONDS = 1.0
"""How long a connection without a request keeps what its next request is likely to repeat."""
PARTING_SECONDS = 1.0
"""How long a stopping server waits for a request that may be on its way, and for a client to read the last answer."""


class Upgrades(Protocol):
    """Takes upgrade requests out of the HTTP cycle."""

    def take(self, connection: Connection, request: Request, environ: Environ, refuse: Refuse, rest: bytes) -> bool:
        """Take over the connection, or leave the request to the application by returning False."""


Refuse = Callable[[HttpError, bytes], None]
Check = Callable[[Request], None]
"""Refuses a request by raising `HttpError`."""


class Sockets(Protocol):
    """Offers the application the sockets of upgrade requests that nobody took."""

    def offer(
        self, http: RequestServer, connection: Connection, request: Request, environ: Environ, response: UpgradeResponse
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
        environ: builds the environs.
        header_timeout, body_timeout, send_timeout, keep_alive, linger_timeout: seconds, None for no limit.
        pipelined: how many requests of one connection, sent without awaiting answers, are answered in one turn.
        upgrades: asked first about WebSocket upgrades.
        sockets: offers the application those that are left to it; None leaves it plain requests.
        access: told of each answer.
        after_request: called in the greenlet of each request of the application when that has ended.
    """

    def __init__(
        self,
        application: Application,
        pool: Pool,
        limits: HttpLimits,
        environ: EnvironBuilder,
        *,
        header_timeout: float | None,
        body_timeout: float | None,
        send_timeout: float | None,
        keep_alive: float | None,
        linger_timeout: float | None,
        pipelined: int = 1,
        upgrades: Upgrades | None,
        sockets: Sockets | None = None,
        access: AccessLog | None = None,
        after_request: Sequence[Callable[[], None]] = (),
    ) -> None:
        self.application = application
        self.pool = pool
        self.limits = limits
        self.body_timeout = body_timeout
        self.send_timeout = send_timeout
        self.upgrades = upgrades
        self.sockets = sockets
        self.keeps_alive = keep_alive != 0
        self.pipelined = pipelined
        self.stopping = False
        self.date = Date()
        self.names = FieldNames()
        self.environ = environ
        self.access = access
        self.after_request = after_request
        self.handlers: set[HttpHandler] = set()
        self.heads: Timeouts[HttpHandler] = Timeouts(header_timeout, HttpHandler.head_expired)
        # Connections without a request are idle first, and at rest when they have been that for a while.
        seconds = math.inf if keep_alive is None else keep_alive
        self.idle: Timeouts[HttpHandler] = Timeouts(min(seconds, RESTLESS_SECONDS), HttpHandler.idle_expired)
        self.resting: Timeouts[HttpHandler] = Timeouts(
            None if keep_alive is None else max(0.0, keep_alive - RESTLESS_SECONDS), HttpHandler.rest_expired
        )
        self.sending: Timeouts[HttpHandler] = Timeouts(send_timeout, HttpHandler.send_expired)
        self.lingering: Timeouts[HttpHandler] = Timeouts(linger_timeout, HttpHandler.linger_expired)

    def accepted(self, connection: Connection, base: Environ, check: Check | None = None) -> None:
        """Serve a new connection; `base` is its listener's part of the environ, and `check` sees each request."""
        handler = HttpHandler(self, connection, base, check)
        self.handlers.add(handler)
        self.heads.add(handler)
        connection.start(handler)
        if self.stopping:
            # It took its time over what comes before HTTP, and has no more than the others now.
            handler.stop()

    def refused(self, connection: Connection, base: Environ, error: HttpError) -> None:
        """Tell a connection that serves nothing why, and end it."""
        handler = HttpHandler(self, connection, base)
        self.handlers.add(handler)
        connection.start(handler)
        handler.refuse(error)

    def end_request(self) -> None:
        """Call those that want to know that a request of the application has ended."""
        for hook in self.after_request:
            try:
                hook()
            except BaseException as error:
                # Not even a late kill: the answer has left, and the other hooks have work to do.
                log.error("the hook %s failed", getattr(hook, "__qualname__", repr(hook)), exc_info=error)

    def stop(self) -> None:
        """Answer what has arrived, or may be on its way, and end each connection after that."""
        self.stopping = True
        self.idle.shorten(PARTING_SECONDS)
        self.lingering.shorten(PARTING_SECONDS)
        for handler in list(self.handlers):
            handler.stop()

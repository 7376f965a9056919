"""One HTTP connection: what arrives, what its client is waited for, and what follows an answer.

The connection waits without a greenlet; a whole head takes one from the pool, which serves the request
(``offload.http.exchange``).
"""

from __future__ import annotations

import io
import logging
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from offload.http.environ import bare_environ
from offload.http.exchange import RequestServer
from offload.http.response import Response
from offload.http.wsgi_input import RequestBody
from offload.protocol.http.connection import END, Event, HttpProtocol
from offload.protocol.http.request import HttpError, Request
from offload.protocol.http.response_head import plain_answer
from offload.protocol.websocket.handshake import wants_websocket
from offload.transport.connection import Connection, Handler

if TYPE_CHECKING:
    from offload.http.server import Check, Environ, HttpGateway

log = logging.getLogger("offload.http")

MAX_DISCARDED_BYTES = 262144
"""An unread body up to this size is read and dropped to keep the connection; past it the connection closes."""


class _State(Enum):
    IDLE = "no request"
    HEAD = "a request's head is arriving"
    SERVING = "the application has a request"
    DISCARDING = "the request is answered; what its application left of the body is dropped"
    ENDING = "nothing more is served; the client may still read"


_IDLE, _HEAD, _SERVING, _DISCARDING, _ENDING = _State


class HttpHandler(RequestServer):
    """One HTTP connection."""

    __slots__ = ("_broken", "_eof", "_reads", "_state", "_unsent")

    def __init__(self, gateway: HttpGateway, connection: Connection, base: Environ, check: Check | None = None) -> None:
        super().__init__(gateway, connection, base, HttpProtocol(gateway.limits, check))
        # The time for the first head begins with the connection.
        self._state = _HEAD
        # Whether the client has ended its sending half.
        self._eof = False
        # Whether the framing is lost, so that nothing that comes can be read.
        self._broken = False
        # What was unsent when the time to send it began.
        self._unsent = 0
        # Whether the client still had the last answer to read when its time to think of another request was set.
        self._reads = False

    # Called by the connection, in the loop.

    def data_received(self, data: bytes) -> None:
        """Read on; what follows the last request that is served is dropped."""
        state = self._state
        if state is _ENDING or self._broken:
            return
        protocol = self._protocol
        try:
            events = protocol.receive(data)
        except HttpError as error:
            self._break(error, data)
            return
        if events:
            self._take(events)
        elif state is _IDLE:
            self._state = _HEAD
            self._gateway.idle.discard(self)
            self._gateway.resting.discard(self)
            self._gateway.heads.add(self)
        elif state is _SERVING and not protocol.reading_body:
            # A further request, ahead of the answer to this one: it waits in the kernel.
            self._connection.pause_reading()

    def eof_received(self) -> None:
        """A client may end its sending half and still wait for the answer."""
        self._eof = True
        if self._state is not _SERVING:
            self._connection.close()
        elif self._body is not None:
            self._body.fail(400, "the client closed the connection before its request was whole")

    def connection_lost(self) -> None:
        """Forget the connection."""
        gateway = self._gateway
        gateway.handlers.discard(self)
        gateway.heads.discard(self)
        gateway.idle.discard(self)
        gateway.resting.discard(self)
        gateway.sending.discard(self)
        gateway.lingering.discard(self)
        if self._body is not None:
            self._body.fail(400, "the client closed the connection before its request was whole")

    # Called by the gateway's timeouts, in the loop.

    def head_expired(self) -> None:
        """The client took too long over a request's head."""
        self._connection.read_now()
        if self._state is not _HEAD or self._connection.closed:
            # The rest was there: whoever was too slow, it was not the client.
            return
        if self._protocol.rest:
            self.refuse(HttpError(408, "the request's head did not arrive in time"))
        else:
            self._connection.abort()

    def idle_expired(self) -> None:
        """No further request came for a while, or not the rest of a body that nobody reads."""
        gateway = self._gateway
        if self._reads:
            # Its time to think of another request begins when it has read the last answer, and that is by now at best.
            self._wait_idly()
        elif gateway.stopping or gateway.resting.seconds == 0:
            self.rest_expired()
        else:
            self._protocol.forget()
            gateway.resting.add(self)

    def rest_expired(self) -> None:
        """Nothing came for as long as a connection may be idle."""
        if self._state is _DISCARDING:
            self._end()
        else:
            # A close would answer the request that may be there by now with a reset.
            self._connection.read_now()
            if self._state is _IDLE:
                self._connection.close()

    def send_expired(self) -> None:
        """The time to take the end of an answer is over, unless some of it was taken meanwhile."""
        unsent = self._connection.unsent_bytes
        if self._state is _SERVING:
            # The next answer adds to it, and has this time of its own whenever it has to wait.
            self._watch_sending()
        elif unsent >= self._unsent > 0:
            self._connection.reset()
            log.info("%s has read nothing for %s s", self._connection.peer, self._gateway.send_timeout)
        elif unsent:
            self._watch_sending()

    def linger_expired(self) -> None:
        """The client has not closed its end."""
        if self._connection.unsent_bytes:
            self._gateway.lingering.add(self)
        else:
            self._connection.abort()

    def stop(self) -> None:
        """End the connection after what it has to answer. A request may be on its way over an idle one."""
        gateway = self._gateway
        if self._state is _IDLE or (self._state is _HEAD and not self._protocol.rest):
            gateway.heads.discard(self)
            self._state = _IDLE
        if self._state in (_IDLE, _DISCARDING):
            gateway.resting.discard(self)
            gateway.idle.add(self)

    # Requests.

    def refuse(
        self, error: HttpError, fields: bytes = b"", environ: Environ | None = None, bodiless: bool = False
    ) -> None:
        """See `RequestServer`."""
        try:
            log.info("%s from %s: %s", error.status, self._connection.peer, error)
        finally:
            # Also when a handler of the log fails, or may not wait here.
            date = self._gateway.date().encode("ascii")
            self._connection.write(plain_answer(error.status, str(error), date, fields, bodiless))
            self._end()
        self.log_own(error.status, environ)

    def log_own(self, status: int, environ: Environ | None) -> None:
        """See `RequestServer`."""
        if self._gateway.access is not None:
            self._gateway.access.log_own(environ, self._connection.peer, status)

    def _break(self, error: HttpError, data: bytes = b"") -> None:
        self._broken = True
        if self._state is _SERVING:
            # The application has the request already, so it is the one to hear of it.
            self._connection.pause_reading()
            if self._body is not None:
                self._body.fail(error.status, str(error))
        elif self._state is _DISCARDING:
            self._end()
        else:
            # What cannot be read as a request may still say that it wants no body.
            self.refuse(error, bodiless=(self._protocol.rest + data).lstrip().startswith(b"HEAD "))

    def _end(self) -> None:
        """Serve nothing more. What the client still sends is dropped for a while: a reset would cost it the answer."""
        gateway, connection = self._gateway, self._connection
        self._state = _ENDING
        self._protocol.forget()
        gateway.heads.discard(self)
        gateway.idle.discard(self)
        gateway.resting.discard(self)
        connection.finish()
        gateway.lingering.add(self)
        self._watch_sending()
        if self._eof:
            connection.close()
        else:
            connection.resume_reading()

    def _watch_sending(self) -> None:
        self._unsent = self._connection.unsent_bytes
        if self._unsent:
            self._gateway.sending.add(self)

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if event is END:
                if self._body is not None:
                    self._body.finish()
                    if self._state is _DISCARDING:
                        self._next()
            elif isinstance(event, bytes):
                assert self._body is not None
                self._body.feed(event)
            elif isinstance(event, Request):
                self._begin(event)

    def _begin(self, request: Request) -> None:
        gateway, connection = self._gateway, self._connection
        if self._state is _HEAD:
            gateway.heads.discard(self)
        else:
            gateway.idle.discard(self)
            gateway.resting.discard(self)
        self._state = _SERVING
        if request.has_body:
            self._body = RequestBody(
                connection.pause_reading, connection.resume_reading, gateway.body_timeout, request.content_length
            )
        if request.upgrade is not None and gateway.upgrades is not None and wants_websocket(request):
            try:
                environ = gateway.environ.build(self._base, request, connection.peer, io.BytesIO())
            except HttpError as error:
                self.refuse(error, environ=bare_environ(request, connection.peer), bodiless=request.method == "HEAD")
                return
            refuse = partial(self.refuse, environ=environ, bodiless=request.method == "HEAD")
            if gateway.upgrades.take(connection, request, environ, refuse, self._protocol.rest):
                if connection.handler is not self:
                    self._leave()
                return
        if self._row > 0:
            self._row -= 1
            self._next_in_row = request
        else:
            gateway.pool.submit(self._serve, request)

    def _leave(self) -> None:
        self._gateway.handlers.discard(self)
        # The end of an earlier answer may still be on its way.
        self._gateway.sending.discard(self)

    def hand_over(self, handler: Handler) -> bytes | None:
        """See `RequestServer`."""
        self._gateway.handlers.discard(self)
        # The answer to an earlier request may not be read whole yet.
        self._gateway.sending.discard(self)
        self._connection.handler = handler
        self._protocol.forget()
        return None if self._eof or self._connection.closed else self._protocol.rest

    # What its greenlet asks for.

    def _may_keep(self) -> bool:
        gateway, body = self._gateway, self._body
        if not gateway.keeps_alive or gateway.stopping or self._broken:
            return False
        if body is None or body.complete:
            return not self._eof or bool(self._protocol.rest)
        # The rest can be read and dropped if it is small, and sure to come: a client that waits for "100 Continue" may
        # send its next request instead.
        return (
            body.before_first_read is None
            and not self._eof
            and body.length is not None
            and body.length <= MAX_DISCARDED_BYTES
        )

    def _answered(self, response: Response, request: Request) -> None:
        connection, body = self._connection, self._body
        response.seal()
        if connection.closed:
            return
        whole = body is None or body.complete
        if body is not None:
            body.discard()
        if not response.keep_alive or self._broken:
            if whole and not request.keep_alive and not self._protocol.rest:
                # The client said that this was all, so there is nothing to wait for.
                self._state = _ENDING
                connection.close()
                self._watch_sending()
            else:
                self._end()
            return
        if connection.unsent_bytes:
            self._watch_sending()
        if whole:
            self._next()
        elif self._eof:
            connection.close()
        else:
            self._state = _DISCARDING
            self._wait_idly()
            connection.resume_reading()

    def _next(self) -> None:
        """Serve the request that has arrived meanwhile, or wait for one without a greenlet."""
        self._body = None
        self._state = _IDLE
        protocol, connection = self._protocol, self._connection
        try:
            events = protocol.next_request()
        except HttpError as error:
            self._break(error)
            return
        if events:
            if protocol.reading_body or not protocol.rest:
                # Otherwise yet another request has arrived already, and what follows that one waits in the kernel.
                connection.resume_reading()
            self._take(events)
        elif self._eof:
            connection.close()
        else:
            connection.resume_reading()
            if protocol.rest:
                self._state = _HEAD
                self._gateway.heads.add(self)
            else:
                self._wait_idly()

    def _wait_idly(self) -> None:
        connection = self._connection
        if connection.unsent_bytes:
            connection.flush()
            if connection.closed:
                return
        self._reads = connection.unsent_bytes > 0
        self._gateway.idle.add(self)

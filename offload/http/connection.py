"""One HTTP connection: what arrives, the deadlines of its client, and what follows an answer.

The connection waits without a greenlet; a whole head takes one from the pool, which runs the exchange.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from enum import Enum
from functools import partial

from offload.http.environ import Environ, bare_environ
from offload.http.exchange import Exchange
from offload.http.response import Response
from offload.http.server import HttpServer, WaitingRequest
from offload.http.wsgi_input import RequestBody
from offload.protocol.http.connection import END, Event, HttpProtocol
from offload.protocol.http.request import HttpError, Request
from offload.protocol.http.response_head import plain_answer
from offload.protocol.websocket.handshake import wants_websocket
from offload.transport.connection import Connection, Handler
from offload.transport.pool import begin_anew

log = logging.getLogger("offload.http")

MAX_DISCARDED_BYTES = 262144
"""An unread body up to this size is read and dropped to keep the connection; past it the connection closes."""

Check = Callable[[Request], None]
"""Refuses a request by raising `HttpError`."""


class _State(Enum):
    IDLE = "no request"
    HEAD = "a request's head is arriving"
    SERVING = "the application has a request"
    DISCARDING = "the request is answered; what its application left of the body is dropped"
    ENDING = "nothing more is served; the client may still read"


_IDLE, _HEAD, _SERVING, _DISCARDING, _ENDING = _State


class HttpConnection:
    """One HTTP connection, from the first request to the last answer, or to its upgrade.

    Args:
        server: what it shares with the others.
        connection: its socket.
        base: its listener's part of the environ.
        check: None, or called with each head.
    """

    __slots__ = (
        "_base",
        "_body",
        "_broken",
        "_connection",
        "_eof",
        "_next_in_row",
        "_protocol",
        "_reads",
        "_row",
        "_server",
        "_state",
        "_unsent",
        "_waiting",
    )

    def __init__(self, server: HttpServer, connection: Connection, base: Environ, check: Check | None = None) -> None:
        self._server = server
        self._connection = connection
        self._base = base
        self._protocol = HttpProtocol(server.options, check)
        # The request's that is served, if it has one.
        self._body: RequestBody | None = None
        # How many requests behind this one its greenlet may answer in the same turn; and the next one of them.
        self._row = 0
        self._next_in_row: Request | None = None
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
        # The request that is served, where messages answer it.
        self._waiting: WaitingRequest | None = None
        server.connections.add(self)
        server.heads.add(self)

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
            self._server.idle.discard(self)
            self._server.resting.discard(self)
            self._server.heads.add(self)
        elif state is _SERVING and not protocol.reading_body:
            # A further request, ahead of the answer to this one: it waits in the kernel.
            self._connection.pause_reading()

    def eof_received(self) -> None:
        """A client may end its sending half and still wait for the answer."""
        self._eof = True
        if self._state is not _SERVING:
            self._connection.close()
            return
        if self._body is not None:
            self._body.fail(400, "the client closed the connection before its request was whole")
        if self._waiting is not None:
            # Whoever closes a page that waits for its answer ends his half first.
            self._connection.close()

    def connection_lost(self) -> None:
        """Forget the connection."""
        server = self._server
        server.connections.discard(self)
        server.heads.discard(self)
        server.idle.discard(self)
        server.resting.discard(self)
        server.sending.discard(self)
        server.lingering.discard(self)
        if self._body is not None:
            self._body.fail(400, "the client closed the connection before its request was whole")
        if self._waiting is not None:
            self._waiting.client_left()

    # Called by the server's timeouts, in the loop.

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
        server = self._server
        if self._reads:
            # Its time to think of another request begins when it has read the last answer, and that is by now at best.
            self._wait_idly()
        elif server.stopping or server.resting.seconds == 0:
            self.rest_expired()
        else:
            self._protocol.forget()
            server.resting.add(self)

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
            log.info("%s has read nothing for %s s", self._connection.peer, self._server.options.send_timeout)
        elif unsent:
            self._watch_sending()

    def linger_expired(self) -> None:
        """The client has not closed its end."""
        if self._connection.unsent_bytes:
            self._server.lingering.add(self)
        else:
            self._connection.abort()

    def stop(self) -> None:
        """End the connection after what it has to answer. A request may be on its way over an idle one."""
        server = self._server
        if self._waiting is not None:
            self._waiting.stop()
        if self._state is _IDLE or (self._state is _HEAD and not self._protocol.rest):
            server.heads.discard(self)
            self._state = _IDLE
        if self._state in (_IDLE, _DISCARDING):
            server.resting.discard(self)
            server.idle.add(self)

    # Requests.

    def refuse(
        self, error: HttpError, fields: bytes = b"", environ: Environ | None = None, bodiless: bool = False
    ) -> None:
        """See `Upgradable`."""
        try:
            log.info("%s from %s: %s", error.status, self._connection.peer, error)
        finally:
            # Also when a handler of the log fails, or may not wait here.
            date = self._server.date().encode("ascii")
            self._connection.write(plain_answer(error.status, str(error), date, fields, bodiless))
            self._end()
        self._server.observer.refusal(environ, self._connection.peer, error.status)

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
        server, connection = self._server, self._connection
        self._state = _ENDING
        self._protocol.forget()
        server.heads.discard(self)
        server.idle.discard(self)
        server.resting.discard(self)
        connection.finish()
        server.lingering.add(self)
        self._watch_sending()
        if self._eof:
            connection.close()
        else:
            connection.resume_reading()

    def _watch_sending(self) -> None:
        self._unsent = self._connection.unsent_bytes
        if self._unsent:
            self._server.sending.add(self)

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
        server, connection = self._server, self._connection
        if self._state is _HEAD:
            server.heads.discard(self)
        else:
            server.idle.discard(self)
            server.resting.discard(self)
        self._state = _SERVING
        if request.has_body:
            self._body = RequestBody(
                connection.pause_reading, connection.resume_reading, server.options.body_timeout, request.content_length
            )
        if request.upgrade is not None and server.routed is not None and wants_websocket(request):
            try:
                environ = server.environ.build(self._base, request, connection.peer, io.BytesIO())
            except HttpError as error:
                self.refuse(error, environ=bare_environ(request, connection.peer), bodiless=request.method == "HEAD")
                return
            refuse = partial(self.refuse, environ=environ, bodiless=request.method == "HEAD")
            if server.routed.take(connection, request, environ, refuse, self._protocol.rest):
                if connection.handler is not self:
                    self._leave()
                return
        if server.channels is not None and request.upgrade is None and self._is_answered_by_messages(request):
            return
        if self._row > 0:
            self._row -= 1
            self._next_in_row = request
        else:
            server.pool.submit(self._serve, request)

    def _is_answered_by_messages(self, request: Request) -> bool:
        server, connection = self._server, self._connection
        assert server.channels is not None
        try:
            environ = server.environ.build(self._base, request, connection.peer, io.BytesIO())
        except HttpError:
            # The exchange answers.
            return False
        self._waiting = server.channels.take(server, self, connection, request, environ, self._body)
        return self._waiting is not None

    def _leave(self) -> None:
        self._server.connections.discard(self)
        # The end of an earlier answer may still be on its way.
        self._server.sending.discard(self)

    def hand_over(self, handler: Handler) -> bytes | None:
        """See `Upgradable`."""
        self._server.connections.discard(self)
        # The answer to an earlier request may not be read whole yet.
        self._server.sending.discard(self)
        self._connection.handler = handler
        self._protocol.forget()
        return None if self._eof or self._connection.closed else self._protocol.rest

    # In a greenlet of the pool.

    def _serve(self, request: Request) -> None:
        """Answer a request, and some of those that came with it: a few in a row cost less than a turn for each."""
        try:
            if self._protocol.rest:
                self._serve_row(request)
            else:
                self._exchange(request).run()
        except BaseException:
            # Our bug, or what came while a handler of the log waited: a late kill, somebody's timeout. Nobody else
            # would ever end the connection. Answers to earlier requests may have been held back.
            self._connection.flush()
            self._connection.reset()
            raise

    def _serve_row(self, request: Request) -> None:
        self._row = self._server.options.limit_pipelined - 1
        following: Request | None = request
        while following is not None:
            if self._row > 0:
                # Their answers leave together; at once where an application waits for something.
                self._connection.hold_back()
            self._exchange(following).run()
            following, self._next_in_row = self._next_in_row, None
            begin_anew()
            if not self._server.pool.has_time:
                self._row = 0
        self._row = 0

    def _exchange(self, request: Request) -> Exchange:
        return Exchange(self._server, self, self._connection, self._base, request, self._body)

    # What the exchange asks for.

    def may_keep(self) -> bool:
        """See `ExchangeOwner`."""
        server, body = self._server, self._body
        if not server.options.keep_alive or server.stopping or self._broken:
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

    def answered(self, response: Response, request: Request) -> None:
        """See `ExchangeOwner`."""
        connection, body = self._connection, self._body
        self._waiting = None
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
                self._server.heads.add(self)
            else:
                self._wait_idly()

    def _wait_idly(self) -> None:
        connection = self._connection
        if connection.unsent_bytes:
            connection.flush()
            if connection.closed:
                return
        self._reads = connection.unsent_bytes > 0
        self._server.idle.add(self)

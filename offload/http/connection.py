"""One HTTP connection: what arrives, the deadlines of its client, and what follows an answer.

The connection waits without a greenlet; a whole request takes one from the pool, which runs the exchange. A table says
where the connection may go from each of its states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from functools import partial

from offload.http.environ import Environ, bare_environ
from offload.http.exchange import run_exchange
from offload.http.response import CONTINUE, Response
from offload.http.server import Deadline, HttpServer, TakeRequest, WaitingRequest
from offload.http.wsgi_input import Body, CollectedBody, StreamedBody
from offload.observe.log_lines import SafeLogger
from offload.protocol.http.connection import END, HttpProtocol, Received
from offload.protocol.http.request import HttpError, Request
from offload.protocol.http.response_head import plain_answer
from offload.protocol.http.states import TRANSITIONS, Event, State
from offload.protocol.websocket.handshake import wants_websocket
from offload.transport.connection import Connection, Handler
from offload.transport.pool import begin_anew

log = SafeLogger("offload.http")

MAX_DISCARDED_BYTES = 262144
"""An unread body up to this size is read and dropped to keep the connection; past it the connection closes."""
_GONE_EARLY = HttpError(400, "the client closed the connection before its request was whole")

Check = Callable[[Request], None]
"""Refuses a request by raising `HttpError`."""

# Python 3.11 looks a member of an enum up by a call.
_IDLE, _HEAD, _BODY, _SERVING, _DISCARDING, _ENDING, _LEFT = State
_REQUEST, _ANSWERED = Event.REQUEST, Event.ANSWERED


@dataclass(slots=True, eq=False)
class HttpConnection:
    """One HTTP connection, from the first request to the last answer, or to its upgrade.

    Args:
        server: what it shares with the others.
        connection: its socket.
        base: its listener's part of the environ.
        check: None, or called with each head.

    Attributes:
        body: that of the request that is collected, or served.
        state: where it is.
    """

    server: HttpServer
    connection: Connection
    base: Environ
    _check: InitVar[Check | None] = None
    _protocol: HttpProtocol = field(init=False)
    body: Body | None = field(default=None, init=False)
    # The request whose body is collected.
    _request: Request | None = field(default=None, init=False)
    # How many requests behind this one its greenlet may answer in the same turn; and the next one of them.
    _row: int = field(default=0, init=False)
    _next_in_row: Request | None = field(default=None, init=False)
    # The time for the first head begins with the connection.
    state: State = field(default=_HEAD, init=False)
    _deadline: Deadline | None = field(init=False)
    # Whether the client has ended its sending half.
    _eof: bool = field(default=False, init=False)
    # Whether the framing is lost, so that nothing that comes can be read.
    _broken: bool = field(default=False, init=False)
    # Whether the client still had the last answer to read when its time to think of another request was set.
    _reads: bool = field(default=False, init=False)
    # The request that is served, where messages answer it.
    _waiting: WaitingRequest | None = field(default=None, init=False)

    def __post_init__(self, check: Check | None) -> None:
        server = self.server
        self._protocol = HttpProtocol(server.options, check)
        server.connections.add(self)
        self._deadline = server.heads
        server.heads.add(self)

    def _move(self, event: Event) -> None:
        """Go where the table says, from one deadline to the next."""
        if self._deadline is not None:
            self._deadline.discard(self)
        state = self.state = TRANSITIONS[self.state][event]
        deadline = self._deadline = self.server.deadlines[state]
        if deadline is not None:
            self._reads = self.connection.unsent_bytes > 0
            deadline.add(self)
        elif state is _LEFT:
            self.server.connections.discard(self)

    # Called by the connection, in the loop.

    def data_received(self, data: bytes) -> None:
        """Read on; what follows the last request that is served is dropped."""
        state = self.state
        if state is _ENDING or self._broken:
            return
        protocol = self._protocol
        try:
            received = protocol.receive(data)
        except HttpError as error:
            self._break(error, data)
            return
        if isinstance(received, Request):
            self._begin(received)
        elif received:
            self._take(received)
        elif state is _IDLE:
            self._move(Event.HEAD_BEGAN)
        elif state is _SERVING and not protocol.reading_body:
            # A further request, ahead of the answer to this one: it waits in the kernel.
            self.connection.pause_reading()

    def eof_received(self) -> None:
        """A client may end its sending half and still wait for the answer."""
        self._eof = True
        if self.state is _BODY:
            self.refuse(_GONE_EARLY)
        elif self.state is not _SERVING:
            self.connection.close()
            return
        if self.body is not None:
            self.body.fail(_GONE_EARLY)
        if self._waiting is not None:
            # A browser that closes a waiting page ends its half of the connection first.
            self.connection.close()

    def connection_lost(self) -> None:
        """Forget the connection."""
        if self.state is _BODY:
            self.server.log_refusal(self.connection, _GONE_EARLY)
        self._move(Event.LEAVES)
        if self.body is not None:
            self.body.fail(_GONE_EARLY)
        if self._waiting is not None:
            self._waiting.client_left()

    # Called by the server's timeouts, in the loop.

    def head_expired(self) -> None:
        """The client took too long over a request's head."""
        self.connection.read_now()
        if self.state is not _HEAD or self.connection.closed:
            # The rest was there: whoever was too slow, it was not the client.
            return
        if self._protocol.rest:
            self.refuse(HttpError(408, "the request's head did not arrive in time"))
        else:
            self.connection.abort()

    @property
    def body_progress(self) -> int | None:
        """Bytes of the body that have arrived; None while it is not the client that is waited for."""
        body = self.body
        return None if body is None or not body.awaits_client else body.received

    def body_expired(self) -> None:
        """The client took too long over a request's body."""
        error = HttpError(408, "the request's body came too slowly (--body-timeout, --body-min-rate)")
        if self.state is _BODY:
            self.refuse(error)
        elif self.body is not None:
            self.body.fail(error)

    def idle_expired(self) -> None:
        """No further request came for a while, or not the rest of a body that nobody reads."""
        server = self.server
        if self._reads:
            # Its time to think of another request begins when it has read the last answer, and that is by now at best.
            self._wait_in(server.idle)
        elif server.stopping or server.resting.seconds == 0:
            self.rest_expired()
        else:
            self._protocol.forget()
            self._wait_in(server.resting)

    def rest_expired(self) -> None:
        """Nothing came for as long as a connection may be idle."""
        if self.state is _DISCARDING:
            self._end()
        else:
            # A close would answer the request that may be there by now with a reset.
            self.connection.read_now()
            if self.state is _IDLE:
                self.connection.close()

    def linger_expired(self) -> None:
        """The client has not closed its end."""
        if self.connection.unsent_bytes:
            # It reads, or the connection would end for that.
            self.server.lingering.add(self)
        else:
            self.connection.abort()

    def stop(self) -> None:
        """End the connection after what it has to answer. A request may be on its way over an idle one."""
        if self._waiting is not None:
            self._waiting.stop()
        if self.state is _IDLE or (self.state is _HEAD and not self._protocol.rest):
            self._move(Event.RESTED)
        elif self.state is _DISCARDING:
            self._wait_in(self.server.idle)

    # Requests.

    def refuse(
        self, error: HttpError, fields: bytes = b"", environ: Environ | None = None, bodiless: bool = False
    ) -> None:
        try:
            self.server.log_refusal(self.connection, error)
        finally:
            # Also when a handler of the log fails, or may not wait here.
            answer = plain_answer(error.status, str(error), self.server.date(), fields, bodiless)
            self.connection.write(answer)
            self._end()
        self.server.observer.refusal(environ, self.connection.peer, error.status)

    def _break(self, error: HttpError, data: bytes = b"") -> None:
        self._broken = True
        if self.state is _SERVING:
            # The application has the request already, so it is the one to hear of it.
            self.connection.pause_reading()
            if self.body is not None:
                self.body.fail(error)
        elif self.state is _DISCARDING:
            self._end()
        else:
            # What cannot be read as a request may still say that it wants no body.
            self.refuse(error, bodiless=(self._protocol.rest + data).lstrip().startswith(b"HEAD "))

    def _end(self) -> None:
        """Serve nothing more. What the client still sends is dropped for a while: a reset would cost it the answer."""
        connection = self.connection
        if connection.closed:
            # Nobody is there to read what was just written.
            return
        self._move(Event.LAST)
        if self.body is not None:
            self.body.discard()
        self._protocol.forget()
        connection.finish()
        if self._eof:
            connection.close()
        else:
            connection.resume_reading()

    def _take(self, received: Received) -> None:
        if isinstance(received, Request):
            self._begin(received)
            return
        for event in received:
            body = self.body
            if isinstance(event, Request):
                self._begin(event)
            elif body is None:
                # The request was refused, or its connection handed over.
                return
            elif event is END:
                self._finish_body(body)
            elif not self._feed(body, event):
                return

    def _feed(self, body: Body, data: bytes) -> bool:
        try:
            body.feed(data)
        except OSError as error:
            log.error("a request's body cannot be kept in a temporary file: %s", error)
            self._break(HttpError(507, "the server has no room for the request's body"))
            return False
        return True

    def _finish_body(self, body: Body) -> None:
        body.finish()
        if self.state is _BODY:
            request, self._request = self._request, None
            assert request is not None
            self._submit(request)
        elif self.state is _DISCARDING:
            self._next()
        else:
            self._wait_in(None)

    def _begin(self, request: Request) -> None:
        server, connection = self.server, self.connection
        if (
            request.upgrade is not None
            and server.routed is not None
            and wants_websocket(request)
            and self._upgrade(request)
        ):
            return
        if not request.has_body:
            self._submit(request)
            return
        options, length = server.options, request.content_length
        if length is None and options.limit_chunked_body is not None:
            self._collect(request)
            if request.expect_continue:
                connection.write(CONTINUE)
        elif length is not None and length <= options.body_buffer and not request.expect_continue:
            self._collect(request)
        else:
            self.body = StreamedBody(connection.pause_reading, connection.resume_reading, length)
            self._submit(request)
            self._wait_in(server.bodies)

    def _collect(self, request: Request) -> None:
        self._request = request
        self.body = CollectedBody(self.server.options.body_buffer)
        self._move(Event.BODY_BEGAN)

    def _submit(self, request: Request) -> None:
        self._move(_REQUEST)
        if (
            self.server.channels is not None
            and request.upgrade is None
            and self._is_answered_by_messages(self.server.channels, request)
        ):
            return
        if self._row > 0:
            self._row -= 1
            self._next_in_row = request
        else:
            self.server.pool.submit(self._serve, request)

    def _upgrade(self, request: Request) -> bool:
        """Offer an upgrade request to those who route them; whether it was taken, or refused."""
        server, connection = self.server, self.connection
        bodiless = request.method == "HEAD"
        try:
            environ = server.environ.build(self.base, request, connection.peer, None)
        except HttpError as error:
            self.refuse(error, environ=bare_environ(request, connection.peer), bodiless=bodiless)
            return True
        refuse = partial(self.refuse, environ=environ, bodiless=bodiless)
        assert server.routed is not None
        if not server.routed(connection, request, environ, refuse, self._protocol.rest):
            return False
        if connection.handler is not self:
            self._leave()
        return True

    def _is_answered_by_messages(self, channels: TakeRequest, request: Request) -> bool:
        try:
            environ = self.server.environ.build(self.base, request, self.connection.peer, self.body)
        except HttpError:
            # The exchange answers.
            return False
        self._waiting = channels(self, request, environ)
        return self._waiting is not None

    def _leave(self) -> None:
        self._move(Event.LEAVES)
        self._protocol.forget()
        self.connection.patient = True

    def hand_over(self, handler: Handler) -> bytes | None:
        self._leave()
        self.connection.handler = handler
        return None if self._eof or self.connection.closed else self._protocol.rest

    # In a greenlet of the pool.

    def _serve(self, request: Request) -> None:
        """Answer a request, and some of those that came with it: a few in a row cost less than a turn for each."""
        try:
            if self._protocol.rest:
                self._serve_row(request)
            else:
                run_exchange(self, request)
        except BaseException:
            # Our bug, or what came while a handler of the log waited: a late kill, somebody's timeout. Nobody else
            # would ever end the connection. Answers to earlier requests may have been held back.
            self.connection.flush()
            self.connection.reset()
            raise

    def _serve_row(self, request: Request) -> None:
        self._row = self.server.options.limit_pipelined - 1
        following: Request | None = request
        while following is not None:
            if self._row > 0:
                # Their answers leave together; at once where an application waits for something.
                self.connection.hold_back()
            run_exchange(self, following)
            following, self._next_in_row = self._next_in_row, None
            begin_anew()
            if not self.server.pool.has_time:
                self._row = 0
        self._row = 0

    # What the exchange asks for.

    def may_keep(self) -> bool:
        server, body = self.server, self.body
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
        connection, body = self.connection, self.body
        self._waiting = None
        if not response.ended:
            response.seal()
        if connection.closed:
            if body is not None:
                body.discard()
            return
        whole = body is None or body.complete
        if body is not None:
            body.discard()
        if not response.keep_alive or self._broken:
            if whole and not request.keep_alive and not self._protocol.rest:
                # The client said that this was all, so there is nothing to wait for.
                self._move(Event.LAST)
                connection.close()
            else:
                self._end()
        elif whole:
            self._next()
        elif self._eof:
            connection.close()
        else:
            self._move(Event.ANSWERED_EARLY)
            connection.resume_reading()

    def _next(self) -> None:
        """Serve the request that has arrived meanwhile, or wait for one without a greenlet."""
        self.body = None
        protocol, connection = self._protocol, self.connection
        if connection.unsent_bytes and not protocol.rest:
            connection.flush()
            if connection.closed:
                return
        self._move(_ANSWERED)
        try:
            received = protocol.next_request()
        except HttpError as error:
            self._break(error)
            return
        if received:
            if protocol.reading_body or not protocol.rest:
                # Otherwise yet another request has arrived already, and what follows that one waits in the kernel.
                connection.resume_reading()
            self._take(received)
        elif self._eof:
            connection.close()
        else:
            connection.resume_reading()
            if protocol.rest:
                self._move(Event.HEAD_BEGAN)

    def _wait_in(self, deadline: Deadline | None) -> None:
        """Wait for another deadline, within one state."""
        if self._deadline is not None:
            self._deadline.discard(self)
        self._deadline = deadline
        if deadline is not None:
            self._reads = self.connection.unsent_bytes > 0
            deadline.add(self)

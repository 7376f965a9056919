"""WebSockets that the application serves itself: the engine under ``environ["wsgi.websocket"]``.

An upgrade that no route wants is offered to the application with its request. The handshake waits until the
application first uses the socket; an application that answers instead has refused it. The socket lives as long as the
application's call, in one greenlet of the pool: the loop puts messages in, the application takes them out.
"""

from __future__ import annotations

import logging
from collections import deque
from enum import Enum

import gevent
from gevent.event import Event as Arrival
from gevent.lock import BoundedSemaphore
from geventwebsocket.exceptions import WebSocketError
from geventwebsocket.websocket import MSG_ALREADY_CLOSED, MSG_SOCKET_DEAD
from greenlet import getcurrent

from offload.gateway.gevent_websocket import ApplicationSocket, Server
from offload.gateway.handler import HttpHandler
from offload.gateway.http import Application, Environ
from offload.gateway.origins import Origins
from offload.gateway.upgrade import UpgradeResponse, checked_handshake, refusal_fields
from offload.protocol.request import HttpError, Request
from offload.protocol.websocket import (
    GOING_AWAY,
    INTERNAL_ERROR,
    NO_CODE,
    NORMAL,
    TRY_AGAIN_LATER,
    Close,
    Failure,
    Ping,
    WebSocketProtocol,
    close_frame,
    ping_frame,
    pong_frame,
)
from offload.transport.connection import HIGH_WATER_BYTES, Connection
from offload.transport.timeouts import Timeouts

log = logging.getLogger("offload.websocket")

CLOSE_SECONDS = 10.0
"""How long a client may take to answer our close frame."""


class ApplicationSockets:
    """What all sockets in the hands of the application share.

    Args:
        application: the WSGI application.
        origins: decides which pages may connect.
        max_size: bytes of the largest message taken.
        queue: messages that may wait for the application before the connection stops reading.
        send_buffer: unsent bytes that one client may hold.
        send_timeout: seconds that a client may take nothing while the application waits to send; None for no limit.
        ping_interval, ping_timeout: seconds; None for no pings.
    """

    def __init__(
        self,
        application: Application,
        origins: Origins,
        *,
        max_size: int,
        queue: int,
        send_buffer: int,
        send_timeout: float | None,
        ping_interval: float | None,
        ping_timeout: float | None,
    ) -> None:
        self.server = Server(application)
        self.origins = origins
        self.max_size = max_size
        self.queue = queue
        # A sender returns with this much unsent at most, so what is over it comes from several at once.
        self.send_buffer = max(send_buffer, HIGH_WATER_BYTES)
        self.send_timeout = send_timeout
        self.stopping = False
        self.hub = gevent.get_hub()
        self.handlers: set[SocketHandler] = set()
        self.pings: Timeouts[SocketHandler] = Timeouts(ping_interval, SocketHandler.ping)
        self.pongs: Timeouts[SocketHandler] = Timeouts(ping_timeout, SocketHandler.pong_expired)
        self.closing: Timeouts[Connection] = Timeouts(CLOSE_SECONDS, Connection.abort)

    def offer(
        self, http: HttpHandler, connection: Connection, request: Request, environ: Environ, response: UpgradeResponse
    ) -> None:
        """See `offload.gateway.http.Sockets`."""
        handler = SocketHandler(self, http, connection, request, environ["PATH_INFO"], response)
        response.socket = handler
        handler.face = environ["wsgi.websocket"] = ApplicationSocket(environ, handler, self.server, connection.peer)
        environ["wsgi.websocket_version"] = environ.get("HTTP_SEC_WEBSOCKET_VERSION")

    def stop(self, code: int = GOING_AWAY) -> None:
        """Refuse further handshakes and close every socket with `code`."""
        self.stopping = True
        for handler in list(self.handlers):
            handler.close(code)


class _State(Enum):
    OFFERED = "the application has not decided"
    OPEN = "messages pass both ways"
    CLOSING = "our close frame is sent, the client's is awaited"
    CLOSED = "refused; or the socket is gone, or about to go"


_OFFERED, _OPEN, _CLOSING, _CLOSED = _State


class SocketHandler:
    """One socket in the hands of the application.

    Attributes:
        face: what the application knows of it.
    """

    __slots__ = (
        "_arrived",
        "_connection",
        "_gateway",
        "_heard",
        "_http",
        "_messages",
        "_path",
        "_paused",
        "_protocol",
        "_request",
        "_response",
        "_senders",
        "_state",
        "face",
    )

    def __init__(
        self,
        gateway: ApplicationSockets,
        http: HttpHandler,
        connection: Connection,
        request: Request,
        path: str,
        response: UpgradeResponse,
    ) -> None:
        self.face: ApplicationSocket
        self._gateway = gateway
        self._http = http
        self._connection = connection
        self._request = request
        self._path = path
        self._response = response
        self._protocol = WebSocketProtocol(gateway.max_size)
        self._messages: deque[str | bytes] = deque()
        self._arrived = Arrival()
        self._senders: BoundedSemaphore | None = None
        self._state = _OFFERED
        self._heard = True
        self._paused = False

    # Called by the application, in its greenlets.

    @property
    def over(self) -> bool:
        """Whether the socket is closed, and all that came before its end has been received."""
        return self._state is not _OPEN and self._state is not _OFFERED and not self._messages

    def accept(self, subprotocol: str | None = None) -> None:
        """Send the handshake, unless it is sent.

        Raises:
            WebSocketError: the handshake is not acceptable, it was answered otherwise, or the client is gone.
            ValueError: the client did not offer this subprotocol.
        """
        if self._state is not _OFFERED:
            return
        if self._response.head_sent:
            raise WebSocketError("the handshake has been answered with a response")
        gateway, connection = self._gateway, self._connection
        try:
            handshake = checked_handshake(self._request, self._path, gateway.origins, gateway.stopping)
        except HttpError as error:
            self._state = _CLOSED
            # The HTTP side answers, and logs what it answers.
            self._response.take("")
            self._http.refuse(error, refusal_fields(error), self.face.environ)
            raise WebSocketError(f"the handshake was refused: {error}") from error
        if subprotocol is None:
            subprotocol = gateway.server.subprotocol(self._path, handshake.subprotocols)
        answer = handshake.answer(subprotocol)
        self._response.take("101 Switching Protocols")
        early = self._http.hand_over(self)
        if early is None or connection.closed:
            self._state = _CLOSED
            connection.abort()
            raise WebSocketError(MSG_SOCKET_DEAD)
        self._state = _OPEN
        gateway.handlers.add(self)
        gateway.server.add(self.face)
        gateway.pings.add(self)
        connection.write(answer)
        self._http.log_own(101, self.face.environ)
        connection.resume_reading()
        if early:
            self.data_received(early)

    def receive(self) -> str | bytes | None:
        """The next message, as soon as there is one; None after the end."""
        messages = self._messages
        while not messages:
            if self._state is not _OPEN:
                return None
            self._arrived.clear()
            self._arrived.wait()
        message = messages.popleft()
        if self._paused and len(messages) <= self._gateway.queue // 2:
            self._paused = False
            self._connection.resume_reading()
        return message

    def send(self, frame: bytes) -> None:
        """Send a frame; the calling greenlet waits while the client takes too little.

        Raises:
            WebSocketError: the socket is closed, or closes because the client takes nothing.
        """
        if self._state is not _OPEN:
            raise WebSocketError(MSG_ALREADY_CLOSED)
        gateway, connection = self._gateway, self._connection
        if connection.unsent_bytes > gateway.send_buffer:
            log.warning(
                "closing %s with %d: %d bytes are unsent, over the limit of %d (--ws-send-buffer)",
                connection.peer,
                TRY_AGAIN_LATER,
                connection.unsent_bytes,
                gateway.send_buffer,
            )
            self._fail(TRY_AGAIN_LATER, "the client reads too slowly")
            raise WebSocketError(MSG_SOCKET_DEAD)
        connection.write(frame)
        if connection.unsent_bytes > HIGH_WATER_BYTES and getcurrent() is not gateway.hub:
            self._wait_drained()
        if connection.closed:
            raise WebSocketError(MSG_SOCKET_DEAD)

    def _wait_drained(self) -> None:
        connection, timeout = self._connection, self._gateway.send_timeout
        if self._senders is None:
            self._senders = BoundedSemaphore()
        # A connection tells one greenlet of room; it leaves the others to this lock.
        with self._senders:
            if not connection.wait_drained(timeout) and not connection.closed:
                log.warning("closing %s: it took nothing for %s s (--send-timeout)", connection.peer, timeout)
                connection.abort()

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake; nothing when it has begun."""
        if self._state is _OPEN:
            self._leave(_CLOSING)
            self._connection.write(close_frame(code, reason))
            self._gateway.closing.add(self._connection)
            # Without this, a client that has filled the queue could not answer.
            self._let_on()

    def drop_messages(self) -> None:
        """The application does not want what has arrived."""
        self._messages.clear()

    # Called by the HTTP handler, in the application's greenlet.

    def failed(self, error: BaseException) -> None:
        """The application raised instead of returning."""
        if isinstance(error, WebSocketError) and self._state is not _OPEN:
            # How applications learn that the client is gone; many let it pass.
            log.debug("the application left the WebSocket at %s: %s", ascii(self._path), error)
            return
        self._response.failed = True
        log.error("the application failed in the WebSocket at %s", ascii(self._path), exc_info=error)

    def finish(self) -> None:
        """The application is done with it."""
        if self._state is _OFFERED:
            self._state = _CLOSED
        elif self._state is _OPEN:
            self.close(INTERNAL_ERROR if self._response.failed else NORMAL)
        self.drop_messages()
        self.face.detach()

    # Called by the connection, in the loop.

    def data_received(self, data: bytes) -> None:
        """Frames, or what is dropped after the end."""
        self._heard = True
        if self._state is _CLOSED:
            return
        for event in self._protocol.receive(data):
            kind = type(event)
            if kind is str or kind is bytes:
                if self._state is _OPEN:
                    self._messages.append(event)  # type: ignore[arg-type]
                    self._arrived.set()
            else:
                self._control(event)
        if len(self._messages) > self._gateway.queue and not self._paused and self._state is _OPEN:
            self._paused = True
            self._connection.pause_reading()

    def eof_received(self) -> None:
        """The client left without a word."""
        self._connection.abort()

    def connection_lost(self) -> None:
        """The socket is gone; who waits for messages is told."""
        self._leave(_CLOSED)
        gateway = self._gateway
        gateway.handlers.discard(self)
        gateway.pings.discard(self)
        gateway.pongs.discard(self)
        gateway.closing.discard(self._connection)

    def _leave(self, state: _State) -> None:
        """The end has begun: others do not find it any more, and who waits for messages is told."""
        self._state = state
        self._gateway.server.discard(self.face)
        self._arrived.set()

    def _control(self, event: object) -> None:
        if isinstance(event, Ping):
            if self._state is _OPEN:
                self._connection.write(pong_frame(event.payload))
        elif isinstance(event, Close):
            if self._state is _OPEN:
                self._connection.write(close_frame(NORMAL if event.code == NO_CODE else event.code))
            self._leave(_CLOSED)
            self._gateway.closing.add(self._connection)
            self._connection.close()
        elif isinstance(event, Failure):
            log.info("closing %s with %d: %s", self._connection.peer, event.code, event.reason)
            self._fail(event.code, event.reason)

    def _fail(self, code: int, reason: str) -> None:
        """End it from our side, without waiting for the client's close frame."""
        if self._state is _OPEN:
            self._connection.write(close_frame(code, reason))
        self._leave(_CLOSED)
        self._let_on()
        self._connection.finish()
        self._gateway.closing.add(self._connection)

    def _let_on(self) -> None:
        self._paused = False
        self._connection.resume_reading()

    # Called by the gateway's timeouts, in the loop.

    def ping(self) -> None:
        """Ask the client for a sign of life, and again later."""
        if self._state is _OPEN:
            self._connection.write(ping_frame(b""))
            self._gateway.pings.add(self)
            if self._heard:
                # Otherwise the time to answer the last ping is not over.
                self._heard = False
                self._gateway.pongs.add(self)

    def pong_expired(self) -> None:
        """Nothing came since the ping: nobody is there, unless it is us who do not read."""
        if self._paused:
            self._heard = True
        elif not self._heard:
            log.info("closing %s: no sign of life since the last ping", self._connection.peer)
            self._connection.abort()

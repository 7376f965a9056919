"""One socket in the hands of the application: the engine under ``environ["wsgi.websocket"]``.

The handshake waits until the application first uses the socket; an application that answers instead has refused it.
The socket lives as long as the application's call, in one greenlet of the pool: the loop puts messages in, the
application takes them out.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from gevent.event import Event as Arrival
from gevent.lock import BoundedSemaphore
from geventwebsocket.exceptions import WebSocketError
from geventwebsocket.websocket import MSG_ALREADY_CLOSED, MSG_SOCKET_DEAD
from greenlet import getcurrent

from offload.gateway import liveness
from offload.gateway.gevent_websocket import ApplicationSocket
from offload.gateway.handler import HttpHandler
from offload.gateway.http import Environ
from offload.gateway.mailbox import Overflow
from offload.gateway.reply import message_frame
from offload.gateway.upgrade import UpgradeResponse, checked_handshake, refusal_fields
from offload.protocol.request import HttpError, Request
from offload.protocol.websocket import (
    INTERNAL_ERROR,
    NO_CODE,
    NORMAL,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    Close,
    Failure,
    Ping,
    Pong,
    WebSocketProtocol,
    close_frame,
    pong_frame,
)
from offload.transport.connection import HIGH_WATER_BYTES, Connection

if TYPE_CHECKING:
    from offload.gateway.application_socket import ApplicationSockets

log = logging.getLogger("offload.websocket")


class _State(Enum):
    OFFERED = "the application has not decided"
    OPEN = "messages pass both ways"
    ENDING = "the client has closed, or broken the rules; what it sent before has its turn, then we answer"
    CLOSING = "our close frame is sent, the client's is awaited"
    CLOSED = "refused; or the socket is gone, or about to go"


_OFFERED, _OPEN, _ENDING, _CLOSING, _CLOSED = _State


class SocketHandler:
    """One socket in the hands of the application.

    Attributes:
        face: what the application knows of it.
        latency: seconds from the last answered ping to its pong; None before the first.
    """

    __slots__ = (
        "_arrived",
        "_connection",
        "_environ",
        "_farewell",
        "_gateway",
        "_heard",
        "_http",
        "_messages",
        "_path",
        "_paused",
        "_ping",
        "_protocol",
        "_rate_due",
        "_request",
        "_response",
        "_senders",
        "_size",
        "_state",
        "_waiting",
        "face",
        "latency",
    )

    def __init__(
        self,
        gateway: ApplicationSockets,
        http: HttpHandler,
        connection: Connection,
        request: Request,
        environ: Environ,
        response: UpgradeResponse,
    ) -> None:
        self.face: ApplicationSocket
        self.latency: float | None = None
        self._gateway = gateway
        self._http = http
        self._connection = connection
        self._request = request
        self._environ: Environ | None = environ
        self._path: str = environ["PATH_INFO"]
        self._response = response
        self._protocol = WebSocketProtocol(gateway.limits.max_size, None, is_lazy=True)
        # What the application has not received, and how large that is.
        self._messages: deque[str | bytes] = deque()
        self._size = 0
        self._arrived = Arrival()
        # Bytes of the frames whose senders wait, and whose turn it is to wait for the connection.
        self._waiting = 0
        self._senders: BoundedSemaphore | None = None
        self._state = _OFFERED
        # Our close frame while the last messages have their turn.
        self._farewell = b""
        # Whether anything came since the last ping, and that ping until its pong.
        self._heard = True
        self._ping: liveness.Ping | None = None
        self._paused = False
        self._rate_due = 0.0

    # Called by the application, in its greenlets.

    @property
    def over(self) -> bool:
        """Whether the socket is closed, and all that came before its end has been received."""
        return self._state is not _OPEN and self._state is not _OFFERED and not self._messages

    @property
    def can_send(self) -> bool:
        """Whether our close frame has not been sent; answers to a client's last messages go before it."""
        return self._state is _OPEN or self._state is _ENDING

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
        environ = self._environ
        assert environ is not None
        gateway, connection, limits = self._gateway, self._connection, self._gateway.limits
        address: str = environ["REMOTE_ADDR"]
        try:
            handshake = checked_handshake(
                self._request,
                self._path,
                environ["wsgi.url_scheme"],
                gateway.origins,
                gateway.stopping,
                limits.compresses,
            )
            gateway.admission.check(address)
        except HttpError as error:
            self._refuse(error, environ)
            raise WebSocketError(f"the handshake was refused: {error}") from error
        if subprotocol is None:
            subprotocol = gateway.server.subprotocol(self._path, handshake.subprotocols)
        answer = handshake.answer(subprotocol)
        self._response.taken = True
        early = self._http.hand_over(self)
        if early is None or connection.closed:
            self._state = _CLOSED
            connection.abort()
            raise WebSocketError(MSG_SOCKET_DEAD)
        self._state = _OPEN
        self._protocol.deflate = handshake.deflate
        gateway.counters.opened += 1
        gateway.admission.enter(self, address)
        gateway.admission.decided()
        gateway.members.add(self)
        gateway.server.add(self.face)
        connection.write(answer)
        self._http.log_own(101, environ)
        connection.resume_reading()
        if early:
            self.data_received(early)

    def _refuse(self, error: HttpError, environ: Environ) -> None:
        self._gateway.counters.count_refusal(error.status)
        self._state = _CLOSED
        self._response.taken = True
        self._http.refuse(error, refusal_fields(error), environ)

    def receive(self) -> str | bytes | None:
        """The next message, as soon as there is one; None after the end."""
        messages = self._messages
        while not messages:
            if self._state is not _OPEN:
                self._say_farewell()
                return None
            self._arrived.clear()
            self._arrived.wait()
        message = messages.popleft()
        self._size -= len(message)
        if self._paused:
            limits = self._gateway.limits
            if len(messages) <= limits.queue // 2 and self._size <= limits.max_size // 2:
                self._let_on()
        return message

    def send_message(self, opcode: int, payload: bytes) -> None:
        """Send a whole message; the calling greenlet waits while the client takes too little. See `send`."""
        self.send(message_frame(opcode, payload, self._protocol.deflate))

    def send(self, frame: bytes) -> None:
        """Send a frame; the calling greenlet waits while the client takes too little.

        Raises:
            WebSocketError: the socket is closed, or closes because the client takes nothing.
        """
        if not self.can_send:
            raise WebSocketError(MSG_ALREADY_CLOSED)
        connection = self._connection
        if (self._waiting or connection.unsent_bytes > HIGH_WATER_BYTES) and getcurrent() is not self._gateway.hub:
            self._send_in_turn(frame)
        else:
            connection.write(frame)
        if connection.closed:
            raise WebSocketError(MSG_SOCKET_DEAD)

    def _send_in_turn(self, frame: bytes) -> None:
        """Send behind those who wait already. The frame stays here meanwhile, so that pings and pongs pass it."""
        size = len(frame)
        # One sender alone waits; many could hold any number of frames.
        if self._waiting and self._waiting + size > self._gateway.limits.send_buffer:
            self._overflow()
            return
        if self._senders is None:
            self._senders = BoundedSemaphore()
        connection, timeout = self._connection, self._gateway.send_timeout
        self._waiting += size
        try:
            with self._senders:
                if self.can_send and not connection.wait_drained(timeout) and not connection.closed:
                    log.warning("closing %s: it took nothing for %s s (--send-timeout)", connection.peer, timeout)
                    self._gateway.counters.too_slow += 1
                    connection.abort()
                if not self.can_send:
                    raise WebSocketError(MSG_SOCKET_DEAD)
                connection.write(frame)
        finally:
            self._waiting -= size

    def _overflow(self) -> None:
        limits, counters, peer = self._gateway.limits, self._gateway.counters, self._connection.peer
        if limits.overflow is not Overflow.CLOSE:
            # The older ones are in the hands of greenlets that wait for them to be sent.
            counters.dropped_newest += 1
            log.debug("a message for %s was dropped: it reads too slowly (--ws-overflow)", peer)
            return
        counters.too_slow += 1
        log.warning(
            "closing %s with %d: over %d bytes are unsent (--ws-send-buffer)",
            peer,
            TRY_AGAIN_LATER,
            limits.send_buffer,
        )
        self._fail(TRY_AGAIN_LATER, "the client reads too slowly")
        raise WebSocketError(MSG_SOCKET_DEAD)

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake, or end the one that the client began; nothing when it is closed."""
        self._say_farewell()
        if self._state is _OPEN:
            self._leave(_CLOSING)
            self._connection.write(close_frame(code, reason))
            self._await_end()
            # A client that has filled the queue could not answer otherwise.
            self._let_on()

    def drop_messages(self) -> None:
        """The application does not want what has arrived."""
        self._messages.clear()
        self._size = 0

    # Called by the HTTP handler, in the application's greenlet.

    def failed(self, error: BaseException) -> None:
        """The application raised instead of returning."""
        if isinstance(error, WebSocketError) and not self.can_send:
            # How applications learn that the client is gone; many let it pass.
            log.debug("the application left the WebSocket at %s: %s", ascii(self._path), error)
            return
        self._response.failed = True
        log.error("the application failed in the WebSocket at %s", ascii(self._path), exc_info=error)

    def finish(self) -> None:
        """The application is done with it."""
        if self._state is _OFFERED:
            self._state = _CLOSED
        else:
            self.close(INTERNAL_ERROR if self._response.failed else NORMAL)
        self.drop_messages()
        self._environ = None
        self.face.detach()

    # Called by the connection, in the loop.

    def data_received(self, data: bytes) -> None:
        """Frames, or what is dropped after the end."""
        self._heard = True
        limits, protocol, messages = self._gateway.limits, self._protocol, self._messages
        while self._state is _OPEN or self._state is _CLOSING:
            for event in protocol.receive(data):
                if limits.rate is not None and self._state is _OPEN and self._is_too_fast(limits.rate):
                    return
                if isinstance(event, (str, bytes)):
                    if self._state is _OPEN:
                        messages.append(event)
                        self._size += len(event)
                        self._arrived.set()
                else:
                    self._control(event)
            if self._state is _OPEN and (len(messages) > limits.queue or self._size > limits.max_size):
                self._paused = True
                self._connection.pause_reading()
                return
            if not protocol.held:
                return
            data = b""

    def eof_received(self) -> None:
        """The client will send nothing more; one that has closed may still read what its last messages bring."""
        if self._state is not _ENDING:
            self._connection.abort()

    def connection_lost(self) -> None:
        """The socket is gone; who waits for messages is told."""
        self._leave(_CLOSED)
        gateway = self._gateway
        gateway.members.discard(self)
        gateway.closing.discard(self)
        gateway.admission.leave(self)

    def _leave(self, state: _State) -> None:
        """The end has begun: others do not find it any more, and who waits for messages is told."""
        self._state = state
        self._gateway.server.discard(self.face)
        self._arrived.set()

    def _is_too_fast(self, rate: float) -> bool:
        """Count one message or control frame; `rate` a second pass, and as many at once after a silence."""
        now = time.monotonic()
        self._rate_due = max(self._rate_due, now) + 1.0 / rate
        if self._rate_due - now <= 1.001:
            return False
        self._gateway.counters.too_fast += 1
        log.info(
            "closing %s with %d: over %g messages a second (--ws-rate)", self._connection.peer, POLICY_VIOLATION, rate
        )
        self._fail(POLICY_VIOLATION, f"over {rate:g} messages a second")
        return True

    def _control(self, event: object) -> None:
        if isinstance(event, Ping):
            if self._state is _OPEN:
                self._connection.write(pong_frame(event.payload))
        elif isinstance(event, Pong):
            ping = self._ping
            if ping is not None and event.payload == ping.payload:
                self._ping = None
                self.latency = time.monotonic() - ping.moment
        elif isinstance(event, Close):
            self._end(close_frame(NORMAL if event.code == NO_CODE else event.code))
        elif isinstance(event, Failure):
            self._gateway.counters.count_failure(event.code)
            log.info("closing %s with %d: %s", self._connection.peer, event.code, event.reason)
            self._end(close_frame(event.code, event.reason))

    def _end(self, frame: bytes) -> None:
        """Nothing more is taken from the client; what came before has its turn before our close frame."""
        if self._state is _OPEN:
            self._leave(_ENDING)
            self._farewell = frame
            if self._messages:
                self._await_end()
            else:
                self._say_farewell()
        else:
            # Ours has been sent.
            self._leave(_CLOSED)
            self._connection.close()

    def _say_farewell(self) -> None:
        if self._state is _ENDING:
            self._finish(self._farewell)

    def _fail(self, code: int, reason: str) -> None:
        """End it from our side, without waiting for the client's close frame."""
        self._finish(close_frame(code, reason))

    def _finish(self, frame: bytes) -> None:
        """Send our close frame, and let the client read everything before the connection ends."""
        self._connection.write(frame)
        self._leave(_CLOSED)
        self._let_on()
        self._connection.finish()
        self._await_end()

    def _await_end(self) -> None:
        """Give the client a while to end the connection; what was sent last may have ended it already."""
        if not self._connection.closed:
            self._gateway.closing.add(self)

    def _let_on(self) -> None:
        self._paused = False
        # While we did not read, nothing could be heard.
        self._heard = True
        self._connection.resume_reading()
        if self._protocol.held:
            self.data_received(b"")

    # Called by the gateway's timers, in the loop.

    def close_expired(self) -> None:
        """The closing handshake took too long."""
        if self._state is _ENDING:
            # The application did not receive what came before.
            self._say_farewell()
            return
        if self._state is _CLOSING:
            self._gateway.counters.unanswered_closes += 1
        self._connection.abort()

    def ping(self, ping: liveness.Ping) -> None:
        """Ask the client for a sign of life."""
        if self._state is _OPEN:
            if self._heard:
                self._heard = False
                self._ping = ping
            self._connection.write(ping.frame)

    def check(self, before: float) -> None:
        """End it when nothing came since a ping that was sent before this moment, unless it is us who do not read."""
        ping = self._ping
        if not self._heard and ping is not None and ping.moment <= before and not self._paused:
            self._gateway.counters.silent += 1
            log.info("closing %s: no sign of life since the last ping", self._connection.peer)
            self._connection.abort()

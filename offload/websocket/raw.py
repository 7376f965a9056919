"""One socket in the hands of the application: the engine under ``environ["wsgi.websocket"]``.

The handshake waits until the application first uses the socket; an application that answers instead has refused it.
The socket lives as long as the application's call, in one greenlet of the pool: the loop puts messages in, the
application takes them out.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from gevent.event import Event as Arrival
from gevent.lock import BoundedSemaphore
from geventwebsocket.exceptions import WebSocketError
from geventwebsocket.websocket import MSG_ALREADY_CLOSED, MSG_SOCKET_DEAD
from greenlet import getcurrent

from offload.http.environ import Environ
from offload.http.upgrade import Upgradable, UpgradeResponse, checked_handshake, refusal_fields
from offload.protocol.http.request import HttpError, Request
from offload.protocol.websocket.connection import INTERNAL_ERROR, NORMAL
from offload.transport.connection import HIGH_WATER_BYTES, Connection
from offload.websocket.connection import FrameHandler, State
from offload.websocket.geventwebsocket import ApplicationSocket
from offload.websocket.reply import message_frame
from offload.websocket.send_queue import Overflow

if TYPE_CHECKING:
    from offload.websocket.raw_server import ApplicationSockets

log = logging.getLogger("offload.websocket")

_UNDECIDED, _OPEN, _ENDING, _CLOSING, _CLOSED = State.UNDECIDED, State.OPEN, State.ENDING, State.CLOSING, State.CLOSED


class SocketHandler(FrameHandler):
    """One socket in the hands of the application.

    Attributes:
        face: what the application knows of it.
        latency: seconds from the last answered ping to its pong; None before the first.
    """

    __slots__ = (
        "_arrived",
        "_environ",
        "_host",
        "_http",
        "_messages",
        "_path",
        "_request",
        "_response",
        "_senders",
        "_size",
        "_waiting",
        "face",
        "latency",
    )

    gateway: ApplicationSockets

    def __init__(
        self,
        gateway: ApplicationSockets,
        http: Upgradable,
        connection: Connection,
        request: Request,
        environ: Environ,
        response: UpgradeResponse,
    ) -> None:
        super().__init__(gateway, connection)
        self.face: ApplicationSocket
        self.latency: float | None = None
        self._http = http
        self._request = request
        self._environ: Environ | None = environ
        # Kept apart: the environ is the application's, which may change what it likes there.
        self._path: str = environ["PATH_INFO"]
        self._host: str = environ.get("HTTP_HOST", "")
        self._response = response
        # What the application has not received, and how large that is.
        self._messages: deque[str | bytes] = deque()
        self._size = 0
        self._arrived = Arrival()
        # Bytes of the frames whose senders wait, and whose turn it is to wait for the connection.
        self._waiting = 0
        self._senders: BoundedSemaphore | None = None

    # Called by the application, in its greenlets.

    @property
    def over(self) -> bool:
        """Whether the socket is closed, and all that came before its end has been received."""
        return self._state is not _OPEN and self._state is not _UNDECIDED and not self._messages

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
        if self._state is not _UNDECIDED:
            return
        if self._response.head_sent:
            raise WebSocketError("the handshake has been answered with a response")
        environ = self._environ
        assert environ is not None
        gateway, connection = self.gateway, self.connection
        address: str = environ["REMOTE_ADDR"]
        try:
            handshake = checked_handshake(
                self._request,
                self._path,
                environ["wsgi.url_scheme"],
                self._host,
                gateway.origins,
                gateway.stopping,
                gateway.compresses,
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
        self.gateway.counters.count_refusal(error.status)
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
        if self._paused is not None:
            gateway = self.gateway
            if len(messages) <= gateway.queue // 2 and self._size <= gateway.max_size // 2:
                self._let_on()
        return message

    def send_message(self, opcode: int, payload: bytes) -> None:
        """Send a whole message; the calling greenlet waits while the client takes too little. See `send_frame`."""
        self.send_frame(message_frame(opcode, payload, self._protocol.deflate))

    def send_frame(self, frame: bytes) -> None:
        """Send a frame; the calling greenlet waits while the client takes too little.

        Raises:
            WebSocketError: the socket is closed, or closes because the client takes nothing.
        """
        if not self.can_send:
            raise WebSocketError(MSG_ALREADY_CLOSED)
        connection = self.connection
        takes_turns = self._waiting or connection.unsent_bytes > HIGH_WATER_BYTES
        if takes_turns and getcurrent() is not self.gateway.hub and not self._await_turn(len(frame)):
            return
        if self._mailbox is not None:
            # Pings and pongs. The mailbox has its turn when nothing else is unsent, which may never be.
            waiting = self._mailbox.take_all()
            self.drop_mailbox()
            connection.write(waiting)
        connection.write(frame)
        if connection.closed:
            raise WebSocketError(MSG_SOCKET_DEAD)

    def _await_turn(self, size: int) -> bool:
        """Wait, behind those who wait already, until the client has taken enough. The frame stays with the caller
        meanwhile, so that pings and pongs pass it.

        Returns:
            False when it is to be dropped: there is no room to let it wait.
        """
        # One sender alone waits; many could hold any number of frames.
        if self._waiting and self._waiting + size > self.gateway.send_buffer:
            self._overflow()
            return False
        if self._senders is None:
            self._senders = BoundedSemaphore()
        connection, timeout = self.connection, self.gateway.send_timeout
        self._waiting += size
        try:
            with self._senders:
                if self.can_send and not connection.wait_drained(timeout) and not connection.closed:
                    log.warning("closing %s: it took nothing for %s s (--send-timeout)", connection.peer, timeout)
                    self.gateway.counters.too_slow += 1
                    connection.abort()
                if not self.can_send:
                    raise WebSocketError(MSG_SOCKET_DEAD)
        finally:
            self._waiting -= size
        return True

    def _overflow(self) -> None:
        gateway = self.gateway
        if gateway.overflow is not Overflow.CLOSE:
            # The older ones are in the hands of greenlets that wait for them to be sent.
            gateway.counters.dropped_newest += 1
            log.debug("a message for %s was dropped: it reads too slowly (--ws-overflow)", self.peer)
            return
        gateway.counters.too_slow += 1
        self.overflowed()
        raise WebSocketError(MSG_SOCKET_DEAD)

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake, or end the one that the client began; nothing when it is closed."""
        self._say_farewell()
        super().close(code, reason)
        if self._state is _CLOSING:
            self._tell_end()

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
        if self._state is _UNDECIDED:
            self._state = _CLOSED
        else:
            self.close(INTERNAL_ERROR if self._response.failed else NORMAL)
        self.drop_messages()
        self._environ = None
        self.face.detach()

    # Messages, and the end.

    @property
    def _is_busy(self) -> bool:
        return bool(self._messages)

    def _take(self, item: Any) -> None:
        messages, gateway = self._messages, self.gateway
        messages.append(item)
        self._size += len(item)
        self._arrived.set()
        if (len(messages) > gateway.queue or self._size > gateway.max_size) and self._paused is None:
            self._pause()

    def _end_after_messages(self) -> None:
        self._tell_end()
        if not self._messages:
            self._say_farewell()

    def _tell_end(self) -> None:
        """Others do not find it any more, and who waits for messages is told."""
        self.gateway.server.discard(self.face)
        self._arrived.set()

    def _measured(self, latency: float) -> None:
        self.latency = latency

    def connection_lost(self) -> None:
        """The socket is gone."""
        super().connection_lost()
        self.gateway.members.discard(self)

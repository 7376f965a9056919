"""The receiver of a raw WebSocket, in the hands of the application: the engine under ``environ["wsgi.websocket"]``.

The handshake waits until the application first uses the WebSocket; an application that answers instead has refused it.
The WebSocket lives as long as the application's call, in one greenlet of the pool: the loop puts messages in, the
application takes them out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import InitVar, dataclass, field

from gevent.event import Event as Arrival
from gevent.lock import BoundedSemaphore
from geventwebsocket.exceptions import WebSocketError
from geventwebsocket.websocket import MSG_ALREADY_CLOSED, MSG_SOCKET_DEAD
from greenlet import GreenletExit, getcurrent

from offload.http.environ import Environ
from offload.http.upgrade import Upgradable, UpgradeResponse
from offload.observe.log_lines import SafeLogger, address_text
from offload.protocol.http.request import HttpError, Request
from offload.protocol.websocket.connection import State
from offload.protocol.websocket.frames import INTERNAL_ERROR, NORMAL, message_frame
from offload.protocol.websocket.handshake import refusal_fields
from offload.transport.connection import HIGH_WATER_BYTES, Connection
from offload.transport.pool import wait_for_client
from offload.websocket.connection import WebSocketConnection
from offload.websocket.geventwebsocket import ApplicationServer, ApplicationSocket
from offload.websocket.send_queue import Overflow
from offload.websocket.server import WebSocketServer

log = SafeLogger("offload.websocket")

_CONNECTING, _OPEN, _ENDING, _CLOSING, _CLOSED = State


@dataclass(slots=True, eq=False)
class RawReceiver:
    """One WebSocket in the hands of the application.

    Args:
        server: what all WebSockets share.
        application_server: what all raw ones share.
        http: the connection's HTTP side.
        client: its socket.
        request, environ, response: the upgrade request, and the answer that the application may give.

    Attributes:
        face: what the application knows of it.
        latency: seconds from the last answered ping to its pong; None before the first.
        timeout: seconds that the application waits for a message, or for the client to take one; None for the
            server's own limits.
    """

    _server: WebSocketServer
    _application_server: ApplicationServer
    _http: Upgradable
    client: InitVar[Connection]
    _request: Request
    # The application's, which may change what it likes there; None when it is done.
    _environ: Environ | None
    _response: UpgradeResponse
    face: ApplicationSocket = field(init=False)
    latency: float | None = None
    timeout: float | None = None
    _websocket: WebSocketConnection = field(init=False)
    _path: str = field(init=False)
    _host: str = field(init=False)
    # What the application has not received, and how large that is; and whether it receives at all.
    _messages: deque[str | bytes] = field(default_factory=deque)
    _size: int = 0
    _has_received: bool = False
    _arrived: Arrival = field(default_factory=Arrival)
    # Bytes of the frames whose senders wait, and which of them waits for the connection.
    _waiting: int = 0
    _senders: BoundedSemaphore | None = None

    def __post_init__(self, client: Connection) -> None:
        environ = self._environ
        assert environ is not None
        self._websocket = WebSocketConnection(self._server, client, self)
        self._path = environ["PATH_INFO"]
        self._host = environ.get("HTTP_HOST", "")

    # Called by the application, in its greenlets.

    @property
    def connection(self) -> Connection:
        """The client's socket."""
        return self._websocket.connection

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more: the closing handshake is over, or ours to begin, or the connection is
        lost. Answers to a client's last messages go before our close frame."""
        state = self._websocket.protocol.state
        return state is _CLOSING or state is _CLOSED

    def accept(self, subprotocol: str | None = None) -> None:
        """Send the handshake, unless it is sent.

        Raises:
            WebSocketError: the handshake is not acceptable, it was answered otherwise, or the client is gone.
            ValueError: the client did not offer this subprotocol.
        """
        websocket = self._websocket
        if websocket.protocol.state is not _CONNECTING:
            return
        if self._response.head_sent:
            raise WebSocketError("the handshake has been answered with a response")
        environ = self._environ
        assert environ is not None
        server, connection = self._server, websocket.connection
        try:
            handshake = server.check(self._request, self._path, self._host, environ)
        except HttpError as error:
            websocket.protocol.abandon()
            self._response.take()
            self._http.refuse(error, refusal_fields(error), environ)
            raise WebSocketError(f"the handshake was refused: {error}") from error
        if subprotocol is None:
            subprotocol = self._application_server.subprotocol(self._path, handshake.subprotocols)
        answer = handshake.answer(subprotocol)
        self._response.take()
        early = self._http.hand_over(websocket)
        if early is None or connection.closed:
            websocket.protocol.abandon()
            connection.abort()
            raise WebSocketError(MSG_SOCKET_DEAD)
        server.connection_limit.enter(websocket, environ["REMOTE_ADDR"])
        server.connection_limit.decided()
        server.members.add(websocket)
        self._application_server.add(self.face)
        websocket.open(handshake.extension, answer)
        server.observer.handshake(environ, connection.peer, 101)
        connection.resume_reading()
        if early:
            # In the next turn of the loop: by then an application that receives does.
            server.loop.run_callback(websocket.data_received, early)

    def receive(self) -> str | bytes | None:
        """The next message, as soon as there is one; None after the end, or when none came within `timeout`, which
        closes the WebSocket."""
        messages, websocket = self._messages, self._websocket
        self._has_received = True
        while not messages:
            if websocket.protocol.state is not _OPEN:
                websocket.answer()
                return None
            self._arrived.clear()
            if not wait_for_client(self._arrived.wait, self.timeout):
                self.close(NORMAL)
        message = messages.popleft()
        self._size -= len(message)
        if websocket.paused is not None:
            websocket.balance(len(messages), self._size)
        return message

    def send_message(self, opcode: int, payload: bytes) -> None:
        """Send a whole message; the calling greenlet waits while the client takes too little. See `send_frame`."""
        self.send_frame(message_frame(opcode, payload, self._websocket.protocol.extension))

    def send_frame(self, frame: bytes) -> None:
        """Send a frame; the calling greenlet waits while the client takes too little.

        Raises:
            WebSocketError: the WebSocket is closed, or closes because the client takes nothing.
        """
        if self.closed:
            raise WebSocketError(MSG_ALREADY_CLOSED)
        connection = self._websocket.connection
        must_wait = self._waiting or connection.unsent_bytes > HIGH_WATER_BYTES
        if must_wait and getcurrent() is not self._server.hub and not self._wait_to_send(len(frame)):
            return
        self._websocket.write(frame)
        if connection.closed:
            raise WebSocketError(MSG_SOCKET_DEAD)

    def _wait_to_send(self, size: int) -> bool:
        """Wait, behind those who wait already, until the client has taken enough. The frame stays with the caller
        meanwhile, so that pings and pongs pass it.

        Returns:
            False when it is to be dropped: there is no room to let it wait.
        """
        server, websocket = self._server, self._websocket
        # One sender alone waits; many could hold any number of frames.
        if self._waiting and self._waiting + size > server.options.send_buffer:
            if server.overflow is Overflow.CLOSE:
                websocket.overflow()
                raise WebSocketError(MSG_SOCKET_DEAD)
            # The older ones are in the hands of greenlets that wait for them to be sent.
            websocket.drop_newest()
            log.debug("a message for %s was dropped: it reads too slowly (--ws-overflow)", websocket.client)
            return False
        if self._senders is None:
            self._senders = BoundedSemaphore()
        connection = websocket.connection
        timeout = server.send_timeout if self.timeout is None else self.timeout
        self._waiting += size
        try:
            wait_for_client(self._senders.acquire)
            try:
                if not self.closed and not connection.wait_drained(timeout) and not connection.closed:
                    websocket.took_nothing(timeout)
                if self.closed:
                    raise WebSocketError(MSG_SOCKET_DEAD)
            finally:
                self._senders.release()
        finally:
            self._waiting -= size
        return True

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake, or end the one that the client began; nothing when it is closed."""
        self._websocket.answer()
        self._websocket.close(code, reason)

    def drop_messages(self) -> None:
        """The application does not want what has arrived."""
        self._messages.clear()
        self._size = 0

    # Called by the exchange, in the application's greenlet.

    def failed(self, error: BaseException) -> None:
        """The application raised instead of returning."""
        if isinstance(error, GreenletExit) or (isinstance(error, WebSocketError) and self.closed):
            # How applications end themselves, and how they learn that the client is gone; many let it pass.
            log.debug("the application left the WebSocket at %s: %s", ascii(self._path), error)
            return
        self._response.failed = True
        log.error("the application failed in the WebSocket at %s", ascii(self._path), exc_info=error)

    def finish(self) -> None:
        """The application is done with it."""
        websocket, environ = self._websocket, self._environ
        if websocket.protocol.state is _CONNECTING:
            websocket.protocol.abandon()
            if environ is not None:
                client = address_text((environ["REMOTE_ADDR"], environ["REMOTE_PORT"]))
                reason = f"no route took it, and the application answered {self._response.status or 'nothing'}"
                self._server.refused(403, self._path, client, reason)
        else:
            self.close(INTERNAL_ERROR if self._response.failed else NORMAL)
        self.drop_messages()
        self._environ = None
        self.face.detach()

    # Called by the WebSocket, in the loop; see `Receiver`.

    @property
    def is_busy(self) -> bool:
        return bool(self._messages)

    def take(self, message: str | bytes) -> None:
        self._messages.append(message)
        self._size += len(message)
        self._arrived.set()
        self._websocket.balance(len(self._messages), self._size)

    def last_message_taken(self) -> None:
        """See `Receiver`. An application that receives has a moment to receive, and answer, what came before."""
        if self._messages and self._has_received:
            self._server.answering.add(self._websocket)
            self._arrived.set()
        else:
            self._websocket.answer()

    def closing(self) -> None:
        """See `Receiver`. Others do not find it any more, and who waits for messages is told."""
        self._application_server.discard(self.face)
        self._arrived.set()

    def ended(self) -> None:
        self.closing()

    def renew(self) -> None:
        """See `Receiver`. The application keeps what it has in no layer."""

    def connection_lost(self) -> None:
        self._server.members.discard(self._websocket)

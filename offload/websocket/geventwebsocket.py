"""gevent-websocket's interface, over offload's engine: what applications find in ``environ["wsgi.websocket"]``.

Names, values and errors are those of `geventwebsocket.websocket.WebSocket` 0.10; none of its code runs here.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from geventwebsocket.exceptions import WebSocketError
from geventwebsocket.handler import Client
from geventwebsocket.websocket import MSG_ALREADY_CLOSED, MSG_SOCKET_DEAD, WebSocket

from offload.protocol.websocket.frames import (
    BINARY,
    CLOSE,
    NORMAL,
    PING,
    PONG,
    TEXT,
    may_be_sent,
    ping_frame,
    pong_frame,
)
from offload.transport.connection import Connection

log = logging.getLogger("offload.websocket")

MAX_CONTROL_BYTES = 125
_ASKED_OF_THE_SOCKET = frozenset(("fileno", "getpeername", "getsockname", "getsockopt", "setsockopt"))


class Engine(Protocol):
    """What is under the interface; see `offload.websocket.raw.RawReceiver`."""

    latency: float | None
    timeout: float | None

    @property
    def connection(self) -> Connection: ...
    @property
    def closed(self) -> bool: ...
    def accept(self, subprotocol: str | None = None) -> None: ...
    def receive(self) -> str | bytes | None: ...
    def send_message(self, opcode: int, payload: bytes) -> None: ...
    def send_frame(self, frame: bytes) -> None: ...
    def close(self, code: int, reason: str = "") -> None: ...
    def drop_messages(self) -> None: ...


class ApplicationServer:
    """What applications know as ``websocket.handler.server``; they may keep attributes of their own in it.

    Attributes:
        application: the WSGI application.
        clients: the open sockets of this process, as ``Client`` objects with ``address`` and ``ws``, by address.
        logger: where the application may log.
    """

    def __init__(self, application: Callable[..., Any]) -> None:
        self.application = application
        self.clients: dict[object, Client] = {}
        self.logger = log
        self._numbers = itertools.count(1)

    def address(self, peer: object) -> object:
        """The address of a client; those behind a Unix socket have none, so they get a number."""
        return peer if isinstance(peer, tuple) else ("", next(self._numbers))

    def add(self, websocket: ApplicationSocket) -> None:
        """Keep a socket that is open."""
        client = websocket.client
        self.clients[client.address] = client

    def discard(self, websocket: ApplicationSocket) -> None:
        """Forget a socket; no error when it is not known."""
        self.clients.pop(websocket.client.address, None)

    def subprotocol(self, path: str, offered: list[str]) -> str | None:
        """What the application wants to speak at a path, if it says so (as a ``Resource`` does) and it is offered."""
        ask = getattr(self.application, "app_protocol", None)
        wanted = ask(path) if ask is not None and offered else None
        return wanted if wanted in offered else None


class ClientSocket:
    """What applications know as ``websocket.handler.socket``. Bytes pass through the WebSocket alone."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def settimeout(self, seconds: float | None) -> None:
        """Close the WebSocket when no message comes, or the client takes none, for so long; None for no limit."""
        self._engine.timeout = seconds

    def gettimeout(self) -> float | None:
        """What `settimeout` was told."""
        return self._engine.timeout

    def __getattr__(self, name: str) -> Any:
        """The descriptor, the addresses and the options are the socket's own; -1 once it is closed."""
        if name in _ASKED_OF_THE_SOCKET:
            return getattr(self._engine.connection.socket, name)
        raise AttributeError(f"the socket of a WebSocket has no {name!r}; its bytes pass through the WebSocket alone")

    def shutdown(self, how: int) -> None:
        """End the connection, in whichever direction: a WebSocket has no half."""
        self._engine.connection.abort()

    def close(self) -> None:
        """End the connection without a closing handshake."""
        self._engine.connection.abort()


class Handler:
    """What applications know as ``websocket.handler``.

    Attributes:
        active_client: the ``Client`` that stands for this socket in ``server.clients``.
        socket: the client's, for its timeout, descriptor, names and options.
        application, environ, server, client_address, websocket, logger: as the names say.
    """

    def __init__(
        self,
        websocket: ApplicationSocket,
        environ: dict[str, Any],
        engine: Engine,
        server: ApplicationServer,
        peer: object,
    ) -> None:
        self.server = server
        self.socket = ClientSocket(engine)
        self.application = server.application
        self.environ = environ
        self.client_address = server.address(peer)
        self.websocket: ApplicationSocket | None = websocket
        self.active_client = Client(self.client_address, websocket)

    @property
    def logger(self) -> logging.Logger:
        """The server's."""
        return self.server.logger


class ApplicationSocket(WebSocket):  # type: ignore[misc]
    """A WebSocket as applications for gevent-websocket know it.

    The handshake is sent when it is first used: by any method, by iteration, by asking whether it is `closed`, or for
    its `handler`.
    What the handshake said (``path``, ``origin``, ``protocol``, ``version``, ``environ``) may be read before.

    Attributes:
        engine: the WebSocket itself.
    """

    def __init__(self, environ: dict[str, Any], engine: Engine, server: ApplicationServer, peer: object) -> None:
        # The base's own opens a stream, for an engine that is not used here.
        self.environ: dict[str, Any] | None = environ
        self.stream = self.raw_read = self.raw_write = None
        self.engine = engine
        self._end_is_known = False
        self._handler = Handler(self, environ, engine, server, peer)

    def __del__(self) -> None:
        # The base's would close; the server does, when the application has returned.
        pass

    def __iter__(self) -> Iterator[str | bytearray]:
        """The messages until the end."""
        self._open()
        while not self._end_is_known and (message := self.receive()) is not None:
            yield message

    @property
    def closed(self) -> bool:
        """Whether the closing handshake is over or has timed out, or the connection is lost. What came before can be
        received all the same."""
        self._open()
        return self._end_is_known or self.engine.closed

    @property
    def latency(self) -> float | None:
        """Seconds from the server's last answered ping to its pong; None before the first. offload's own."""
        return self.engine.latency

    @property
    def client(self) -> Client:
        """What stands for it in the server's list."""
        return self._handler.active_client

    @property
    def handler(self) -> Handler:
        """The handler, by which an application finds its other clients; this one is among them."""
        self._open()
        return self._handler

    def _open(self) -> None:
        try:
            self.engine.accept()
        except WebSocketError as error:
            log.debug("a WebSocket did not open: %s", error)

    def accept(self, subprotocol: str | None = None) -> None:
        """Send the handshake now, perhaps with one of the subprotocols that the client offers.

        Raises:
            WebSocketError: the handshake is not acceptable, or the client is gone.
            ValueError: the client does not offer this subprotocol.
        """
        self.engine.accept(subprotocol)

    def receive(self) -> str | bytearray | None:
        """Wait for the next message.

        Returns:
            A `str`, a `bytearray`, or None once at the end.

        Raises:
            WebSocketError: the end is known already.
        """
        if self._end_is_known:
            self._tell(MSG_ALREADY_CLOSED)
            raise WebSocketError(MSG_ALREADY_CLOSED)
        self.engine.accept()
        message = self.engine.receive()
        if message is None:
            self._end_is_known = True
            return None
        return message if isinstance(message, str) else bytearray(message)

    def send(self, message: Any, binary: bool | None = None) -> None:
        """Send a message; the greenlet waits while the client reads too slowly.

        Args:
            message: text or bytes.
            binary: whether to send it as binary; without it, whether it is no `str`.

        Raises:
            WebSocketError: the socket is closed.
        """
        try:
            self.send_frame(message, BINARY if (not isinstance(message, str) if binary is None else binary) else TEXT)
        except WebSocketError as error:
            self._tell(MSG_SOCKET_DEAD)
            raise WebSocketError(MSG_SOCKET_DEAD) from error

    def send_frame(self, message: Any, opcode: int) -> None:
        """Send one frame: ``OPCODE_TEXT``, ``OPCODE_BINARY``, ``OPCODE_PING`` or ``OPCODE_PONG``; or close.

        Raises:
            WebSocketError: the socket is closed.
            ValueError: another opcode, or more than a control frame holds.
        """
        self.engine.accept()
        if self._end_is_known or self.engine.closed:
            raise WebSocketError(MSG_ALREADY_CLOSED)
        payload = _text(message).encode() if opcode == TEXT else _payload(message)
        if opcode in (TEXT, BINARY):
            self.engine.send_message(opcode, payload)
        elif opcode == CLOSE:
            self.close(int.from_bytes(payload[:2], "big") if payload else NORMAL, payload[2:])
        elif opcode not in (PING, PONG):
            raise ValueError(f"a frame of opcode {opcode!r} cannot be sent by itself")
        elif len(payload) > MAX_CONTROL_BYTES:
            raise ValueError(f"a control frame of {len(payload)} bytes is over the limit of {MAX_CONTROL_BYTES}")
        else:
            self.engine.send_frame((ping_frame if opcode == PING else pong_frame)(payload))

    def close(self, code: int = NORMAL, message: str | bytes = b"") -> None:
        """Close the socket; no error when it is closed.

        Args:
            code: 1000, another one that may be sent, or 3000 to 4999.
            message: the reason, for the client's developers.
        """
        self._open()
        if self._end_is_known:
            return
        if not may_be_sent(code):
            log.warning("a WebSocket is closed with %d: %r may not be sent in a close frame", NORMAL, code)
            code = NORMAL
        self._end_is_known = True
        self.engine.close(code, _text(message, "replace"))
        self.engine.drop_messages()

    def detach(self) -> None:
        """Let go of the environ, in which this object lies, when the application has returned."""
        if self.environ is not None:
            self.environ["wsgi.websocket"] = None
            self.environ = None
        self._handler.websocket = None

    def _tell(self, what: str) -> None:
        # An application object of its own kind may want to hear of it; see the base's `current_app`.
        self.current_app.on_close(what)


def _text(message: object, errors: str = "strict") -> str:
    if isinstance(message, (bytes, bytearray, memoryview)):
        return bytes(message).decode("utf-8", errors)
    return message if isinstance(message, str) else str(message or "")


def _payload(message: Any) -> bytes:
    if isinstance(message, bytes):
        return message
    if isinstance(message, str):
        return message.encode()
    if isinstance(message, int):
        # bytes() would make as many zeros of it.
        raise TypeError("a binary message is an int, not bytes")
    return bytes(message)

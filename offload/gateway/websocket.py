"""Routed WebSockets: from the upgrade request to the disconnect consumer.

The connection waits without a greenlet; each of its messages runs the receive consumer in the pool, one at a time and
in order. What consumers send goes straight to the socket.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any
from urllib.parse import unquote_to_bytes

import gevent
from gevent import monkey
from greenlet import getcurrent, greenlet

from offload.exceptions import DenyConnection, LayerUnavailable
from offload.gateway.http import Date, Environ, Refuse
from offload.gateway.origins import Origins
from offload.gateway.reply import Reply, prepare
from offload.interfaces import Content, Delivery, Layer, WebSocketConsumers, WebSocketRouting
from offload.protocol.handshake import VERSION, Handshake, read_handshake
from offload.protocol.request import HttpError, Request
from offload.protocol.response import plain_answer
from offload.protocol.websocket import (
    ABNORMAL,
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
from offload.transport.connection import Connection
from offload.transport.pool import Pool
from offload.transport.timeouts import Timeouts

log = logging.getLogger("offload.websocket")

REPLY_PREFIX = "websocket.send"
CLOSE_SECONDS = 10.0
"""How long a client may take to answer our close frame."""
_MAX_EARLY_BYTES = 65536


class WebSocketGateway:
    """What all routed WebSockets of a process share.

    Args:
        routing: finds consumers.
        layer: makes reply channels, and delivers what is sent to them.
        pool: where consumers run.
        origins: decides which pages may connect.
        max_size: bytes of the largest message taken.
        queue: messages that may wait for the consumers of one connection before it stops reading.
        send_buffer: unsent bytes that one client may hold.
        ping_interval, ping_timeout: seconds; None for no pings.
    """

    def __init__(
        self,
        routing: WebSocketRouting,
        layer: Layer,
        pool: Pool,
        origins: Origins,
        *,
        max_size: int,
        queue: int,
        send_buffer: int,
        ping_interval: float | None,
        ping_timeout: float | None,
    ) -> None:
        self.routing = routing
        self.layer = layer
        self.pool = pool
        self.origins = origins
        self.max_size = max_size
        self.queue = queue
        self.send_buffer = send_buffer
        self.stopping = False
        self.date = Date()
        self.loop = gevent.get_hub().loop
        # The real one: gevent's own tells greenlets apart, not threads.
        self.thread_id: Callable[[], int] = monkey.get_original("_thread", "get_ident")
        self.thread = self.thread_id()
        self.handlers: set[WebSocketHandler] = set()
        self.pings: Timeouts[WebSocketHandler] = Timeouts(ping_interval, WebSocketHandler.ping)
        self.pongs: Timeouts[WebSocketHandler] = Timeouts(ping_timeout, WebSocketHandler.pong_expired)
        self.closing: Timeouts[Connection] = Timeouts(CLOSE_SECONDS, Connection.abort)

    def take(self, connection: Connection, request: Request, environ: Environ, refuse: Refuse, rest: bytes) -> bool:
        """See `offload.gateway.http.Upgrades`."""
        content = _connect_content(request, environ)
        content["reply_channel"] = self.layer.new_channel(REPLY_PREFIX)
        consumers = self.routing.bind(content)
        if consumers is None:
            return False
        try:
            handshake = read_handshake(request)
            if self.stopping:
                raise HttpError(503, "the server is stopping")
            host = request.host.decode("latin-1") if request.host is not None else ""
            if handshake.origin is not None and not self.origins(handshake.origin, host):
                log.warning(
                    "refused a WebSocket at %s from origin %s: it is not among the allowed ones for host %s",
                    content["path"],
                    ascii(handshake.origin),
                    ascii(host),
                )
                raise HttpError(403, "this Origin may not open WebSockets here")
        except HttpError as error:
            fields = (
                b"Sec-WebSocket-Version: " + VERSION + b"\r\nUpgrade: websocket\r\n" if error.status == 426 else b""
            )
            refuse(error, fields)
            return True
        handler = WebSocketHandler(self, connection, consumers, content, handshake, rest)
        self.handlers.add(handler)
        connection.handler = handler
        self.pool.submit(handler.open, content)
        return True

    def stop(self, code: int = GOING_AWAY) -> None:
        """Refuse further handshakes and close every WebSocket with `code`."""
        self.stopping = True
        for handler in list(self.handlers):
            handler.close(code)


def _connect_content(request: Request, environ: Environ) -> Content:
    path = unquote_to_bytes(request.path).decode("utf-8", "replace")
    return {
        "path": environ["SCRIPT_NAME"] + path,
        "scheme": "wss" if environ["wsgi.url_scheme"] == "https" else "ws",
        "query_string": request.query,
        "headers": [[name, value] for name, value in request.headers],
        "client": [environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"] or 0)],
        "server": [environ["SERVER_NAME"], int(environ["SERVER_PORT"] or 0)],
        "order": 0,
    }


class _State(Enum):
    CONNECTING = "the connect consumer decides"
    OPEN = "messages pass both ways"
    CLOSING = "our close frame is sent, the client's is awaited"
    CLOSED = "the socket is gone, or about to go"


_CONNECTING, _OPEN, _CLOSING, _CLOSED = _State
_DISCONNECT = object()


class WebSocketHandler:
    """One routed WebSocket."""

    __slots__ = (
        "_code",
        "_connection",
        "_consumers",
        "_early",
        "_gateway",
        "_handshake",
        "_heard",
        "_held",
        "_opener",
        "_order",
        "_path",
        "_paused",
        "_protocol",
        "_queue",
        "_refused",
        "_reply_channel",
        "_running",
        "_state",
    )

    def __init__(
        self,
        gateway: WebSocketGateway,
        connection: Connection,
        consumers: WebSocketConsumers,
        content: Content,
        handshake: Handshake,
        early: bytes,
    ) -> None:
        self._gateway = gateway
        self._connection = connection
        self._consumers = consumers
        self._reply_channel: str = content["reply_channel"]
        self._path: str = content["path"]
        self._protocol = WebSocketProtocol(gateway.max_size)
        self._state = _CONNECTING
        self._code = ABNORMAL
        self._order = 0
        self._heard = True
        # One greenlet at a time serves the connection; the connect consumer is the first.
        self._running = True
        self._paused = False
        self._refused = False
        self._queue: deque[Any] | None = None
        # Only while the handshake is undecided: what the client sent early, what others sent to it, who decides.
        self._handshake: Handshake | None = handshake
        self._early: bytes | None = early
        self._held: list[Delivery] | None = None
        self._opener: greenlet | None = None

    # The handshake, in a greenlet of the pool.

    def open(self, content: Content) -> None:
        """Run the connect consumer and do as it decides."""
        self._opener = getcurrent()
        try:
            self._gateway.layer.attach(self._reply_channel, self.deliver)
            self._consumers.connect(content)
        except DenyConnection:
            self._refuse(403, "the WebSocket was refused")
        except LayerUnavailable as error:
            log.error("the handshake at %s failed: %s", ascii(self._path), error)
            self._refuse(503, "the server cannot open WebSockets now")
        except Exception:  # noqa: BLE001 -- the consumers have put it into the log, with its traceback
            self._refuse(500, "the server failed to open the WebSocket")
        else:
            self._accept(None)
        self._opener = None
        if self._refused:
            # It was never accepted: no message came, and no disconnect is due.
            self._queue = None
            self._forget()
        else:
            self._next()

    def _accept(self, subprotocol: str | None) -> None:
        handshake, self._handshake = self._handshake, None
        if self._state is not _CONNECTING or handshake is None:
            return
        try:
            answer = handshake.answer(subprotocol)
        except ValueError as error:
            log.error("the handshake at %s goes on without a subprotocol: %s", ascii(self._path), error)
            answer = handshake.answer()
        self._state = _OPEN
        gateway = self._gateway
        self._connection.write(answer)
        held, self._held = self._held, None
        for delivery in held or ():
            self._reply(delivery)
        gateway.pings.add(self)
        early, self._early = self._early, None
        self._connection.resume_reading()
        if early:
            self.data_received(early)

    def _refuse(self, status: int, text: str) -> None:
        if self._state is not _OPEN:
            self._refused = True
        if self._state is _CONNECTING:
            self._state = _CLOSED
            self._connection.write(plain_answer(status, text, self._gateway.date().encode("ascii")))
            self._linger()
        elif self._state is _OPEN:
            # The consumer accepted by hand before it failed.
            self.close(INTERNAL_ERROR if status == 500 else NORMAL)

    def _linger(self) -> None:
        self._connection.resume_reading()
        self._connection.finish()
        self._gateway.closing.add(self._connection)

    # Called by the connection, in the loop.

    def data_received(self, data: bytes) -> None:
        """Frames, or what is dropped after the end."""
        self._heard = True
        if self._state is _CONNECTING:
            assert self._early is not None
            self._early += data
            if len(self._early) > _MAX_EARLY_BYTES:
                self._connection.pause_reading()
            return
        if self._state is _CLOSED:
            return
        for event in self._protocol.receive(data):
            kind = type(event)
            if kind is str or kind is bytes:
                if self._state is _OPEN:
                    self._enqueue(event)
            else:
                self._control(event)

    def eof_received(self) -> None:
        """The client left without a word."""
        self._connection.abort()

    def connection_lost(self) -> None:
        """The socket is gone; the disconnect consumer follows what still waits."""
        self._state = _CLOSED
        gateway = self._gateway
        gateway.pings.discard(self)
        gateway.pongs.discard(self)
        gateway.closing.discard(self._connection)
        gateway.layer.detach(self._reply_channel)
        if not self._refused:
            self._enqueue(_DISCONNECT)

    # Messages.

    def _enqueue(self, item: object) -> None:
        if not self._running:
            self._running = True
            self._gateway.pool.submit(self._consume, item)
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(item)
        if len(self._queue) > self._gateway.queue and not self._paused:
            self._paused = True
            self._connection.pause_reading()

    def _consume(self, item: object) -> None:
        self._order += 1
        content: Content = {"reply_channel": self._reply_channel, "path": self._path, "order": self._order}
        if type(item) is str:
            content["text"] = item
            self._consumers.receive(content)
        elif item is _DISCONNECT:
            content["code"] = self._code
            self._consumers.disconnect(content)
            self._forget()
            return
        else:
            content["bytes"] = item
            self._consumers.receive(content)
        self._next()

    def _next(self) -> None:
        queue = self._queue
        if queue is None:
            self._running = False
            return
        item = queue.popleft()
        if not queue:
            self._queue = None
        if self._paused and len(queue) <= self._gateway.queue // 2:
            self._paused = False
            self._connection.resume_reading()
        # Not in a loop here: other connections' messages have their turn in between.
        self._gateway.pool.submit(self._consume, item)

    def _forget(self) -> None:
        self._gateway.layer.detach(self._reply_channel)
        self._gateway.handlers.discard(self)

    # Control frames and the end.

    def _control(self, event: object) -> None:
        if isinstance(event, Ping):
            if self._state is _OPEN:
                self._connection.write(pong_frame(event.payload))
        elif isinstance(event, Close):
            if self._state is _OPEN:
                self._connection.write(close_frame(NORMAL if event.code == NO_CODE else event.code))
            self._state = _CLOSED
            self._code = event.code
            self._gateway.closing.add(self._connection)
            self._connection.close()
        elif isinstance(event, Failure):
            log.info("closing %s with %d: %s", self._connection.peer, event.code, event.reason)
            self._fail(event.code, event.reason)

    def _fail(self, code: int, reason: str) -> None:
        """End it from our side, without waiting for the client's close frame."""
        if self._state is _OPEN:
            self._connection.write(close_frame(code, reason))
        self._state = _CLOSED
        self._code = code
        self._linger()

    def close(self, code: int) -> None:
        """Begin the closing handshake; during the opening one, refuse it."""
        if self._state is _CONNECTING:
            self._refuse(503 if code == GOING_AWAY else 403, "the WebSocket was refused")
        elif self._state is _OPEN:
            self._state = _CLOSING
            self._connection.write(close_frame(code))
            self._gateway.closing.add(self._connection)

    def ping(self) -> None:
        """Ask the client for a sign of life, and again later."""
        if self._state is _OPEN:
            self._heard = False
            self._connection.write(ping_frame(b""))
            self._gateway.pongs.add(self)
            self._gateway.pings.add(self)

    def pong_expired(self) -> None:
        """Nothing came since the ping: nobody is there."""
        if not self._heard:
            log.info("closing %s: no sign of life since the last ping", self._connection.peer)
            self._connection.abort()

    # What is sent to the reply channel and the groups.

    def deliver(self, delivery: Delivery) -> None:
        """Send to the client. Called by the layer in any greenlet, or thread."""
        gateway = self._gateway
        if gateway.thread_id() != gateway.thread:
            gateway.loop.run_callback_threadsafe(self.deliver, delivery)
        elif self._state is _OPEN:
            self._reply(delivery)
        elif self._state is _CONNECTING:
            self._reply_early(delivery)

    def _reply(self, delivery: Delivery) -> None:
        prepared = delivery.prepared
        if prepared is None:
            try:
                prepared = delivery.prepared = prepare(delivery.content)
            except (ValueError, TypeError) as error:
                delivery.prepared = b""
                log.error("a reply at %s was dropped: %s", ascii(self._path), error)
                return
        connection = self._connection
        if type(prepared) is bytes:
            if delivery.more:
                connection.write_soon(prepared)
            else:
                connection.write(prepared)
        else:
            if prepared.frames:
                connection.write(prepared.frames)
            if prepared.close is not None:
                self.close(prepared.close)
        if connection.unsent_bytes > self._gateway.send_buffer and self._state is _OPEN:
            log.warning(
                "closing %s with %d: %d bytes are unsent, over the limit of %d (--ws-send-buffer)",
                connection.peer,
                TRY_AGAIN_LATER,
                connection.unsent_bytes,
                self._gateway.send_buffer,
            )
            self._fail(TRY_AGAIN_LATER, "the client reads too slowly")

    def _reply_early(self, delivery: Delivery) -> None:
        """Before the handshake is answered, the connect consumer's own words decide over it; others' wait."""
        own = getcurrent() is self._opener
        try:
            reply = prepare(delivery.content)
        except (ValueError, TypeError) as error:
            log.error("a reply at %s was dropped: %s", ascii(self._path), error)
            return
        delivery.prepared = reply
        refuses = False
        accepts = own
        subprotocol = None
        if isinstance(reply, Reply):
            accepts = bool(reply.accept) or (own and bool(reply.frames))
            refuses = not accepts and (reply.accept is False or reply.close is not None)
            subprotocol = reply.subprotocol
        if refuses and not self._held:
            self._refuse(403, "the WebSocket was refused")
        elif accepts:
            self._accept(subprotocol)
            if self._state is _OPEN and reply:
                self._reply(delivery)
        elif not refuses:
            self._hold(delivery)
        else:
            self._refuse(403, "the WebSocket was refused")

    def _hold(self, delivery: Delivery) -> None:
        if self._held is None:
            self._held = []
        if len(self._held) < self._gateway.queue:
            self._held.append(delivery)
        else:
            log.warning("a message for %s was dropped: its handshake takes too long", self._connection.peer)

"""The receiver of a routed WebSocket: messages run its consumers, and what they send becomes frames.

It waits without a greenlet; each message runs the receive consumer in the pool, one at a time and in order.
"""

from __future__ import annotations

from collections import deque
from dataclasses import InitVar, dataclass, field
from typing import Any

from offload.interfaces import Content, Delivery, Layer, WebSocketConsumers
from offload.observe.log_lines import SafeLogger
from offload.protocol.websocket.connection import State
from offload.transport.connection import JOIN_BYTES, Connection
from offload.websocket.connection import WebSocketConnection
from offload.websocket.encode import Reply, join, prepare
from offload.websocket.server import WebSocketServer, thread_ident

log = SafeLogger("offload.websocket")

_OPEN, _ENDING = State.OPEN, State.ENDING
_ANSWER, _DISCONNECT = object(), object()
"""What waits in the queue behind the last messages: the answer to the client's end, and the disconnect consumer."""


@dataclass(slots=True, eq=False)
class RoutedReceiver:
    """One routed WebSocket's consumers and their messages.

    Args:
        server: what all WebSockets share.
        layer: delivers what is sent to the reply channel.
        connection: the client's socket.
        consumers: those that the routing has found.
        content: the connect message.

    Attributes:
        websocket: the WebSocket; a member of the server until the disconnect consumer has run.
        reply_channel: its own channel's name.
        path: the request's, decoded.
    """

    server: WebSocketServer
    layer: Layer
    connection: InitVar[Connection]
    consumers: WebSocketConsumers
    content: InitVar[Content]
    websocket: WebSocketConnection = field(init=False)
    reply_channel: str = field(init=False)
    path: str = field(init=False)
    _order: int = field(default=0, init=False)
    # One greenlet at a time serves the connection; the connect consumer is the first.
    _running: bool = field(default=True, init=False)
    _queue: deque[Any] | None = field(default=None, init=False)
    _queued_size: int = field(default=0, init=False)

    def __post_init__(self, connection: Connection, content: Content) -> None:
        self.websocket = WebSocketConnection(self.server, connection, self)
        self.reply_channel = content["reply_channel"]
        self.path = content["path"]

    def attach(self) -> None:
        """Deliver what is sent to the reply channel. Raises what the layer raises."""
        self.layer.attach(self.reply_channel, self.deliver, joins=True)
        self.consumers.client = self

    def forget(self) -> None:
        """No consumer runs any more, and none will."""
        self._queue = None
        self._detach()
        self.server.members.discard(self.websocket)

    def _detach(self) -> None:
        self.layer.detach(self.reply_channel)
        self.consumers.client = None

    # Called by the WebSocket, in the loop; see `Receiver`.

    @property
    def latency(self) -> float | None:
        return self.consumers.latency

    @latency.setter
    def latency(self, seconds: float | None) -> None:
        self.consumers.latency = seconds

    @property
    def is_busy(self) -> bool:
        return self._running

    def take(self, message: str | bytes) -> None:
        if not self._running:
            self._running = True
            self.server.pool.submit(self._consume, message)
            return
        queue = self._wait(message)
        self._queued_size += len(message)
        self.websocket.balance(len(queue), self._queued_size)

    def last_message_taken(self) -> None:
        if self._running:
            self._wait(_ANSWER)
        else:
            self.websocket.answer()

    def closing(self) -> None:
        """See `Receiver`. Messages that wait are consumed all the same."""

    def ended(self) -> None:
        self._detach()
        if self._running:
            self._wait(_DISCONNECT)
        else:
            self._running = True
            self.server.pool.submit(self._consume, _DISCONNECT)

    def connection_lost(self) -> None:
        """See `Receiver`."""

    def renew(self) -> None:
        self.layer.renew(self.reply_channel)
        if self.consumers.has_session:
            self.server.pool.submit(self._renew_session, None)

    def _renew_session(self, _: None) -> None:
        self.consumers.renew()

    # Messages.

    def _wait(self, item: Any) -> deque[Any]:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(item)
        return self._queue

    def _consume(self, item: Any) -> None:
        self._order += 1
        content: Content = {"reply_channel": self.reply_channel, "path": self.path, "order": self._order}
        try:
            if item is _DISCONNECT:
                content["code"] = self.websocket.protocol.code
                self.consumers.disconnect(content)
            else:
                content["text" if type(item) is str else "bytes"] = item
                self.consumers.receive(content)
        finally:
            # Also when the consumer raised what is no Exception, such as SystemExit or a gevent.Timeout.
            if item is _DISCONNECT:
                self.server.members.discard(self.websocket)
            elif self._queue is None and self.websocket.paused is None:
                # Mostly so.
                self._running = False
            else:
                self.consume_next()

    def consume_next(self) -> None:
        """Consume the next message, if one waits."""
        queue = self._queue
        while queue:
            item = queue.popleft()
            if item is _ANSWER:
                self.websocket.answer()
                continue
            if item is not _DISCONNECT:
                self._queued_size -= len(item)
            if not queue:
                self._queue = None
            # Not here and now: other connections' messages are consumed in between.
            self.server.pool.submit(self._consume, item)
            break
        else:
            self._queue = None
            self._running = False
        websocket = self.websocket
        if websocket.paused is not None:
            websocket.balance(len(queue or ()), self._queued_size)

    # What is sent to the reply channel and the groups.

    def reply(self, content: Content) -> bool:
        """Send what the connection's own consumer sends, without a way through the layer.

        Returns:
            False outside of the loop's thread, where the layer has to carry it; so also in a forked child.

        Raises:
            ValueError: the content is no reply.
            TypeError, MessageTooLarge: as for `Layer.send`.
        """
        if thread_ident() != self.server.thread_ident:
            return False
        # What is no dict is the layer's to refuse; nothing is counted that is refused.
        prepared = prepare(content) if isinstance(content, dict) else b""
        frame = prepared if type(prepared) is bytes else b""
        self.layer.check_own(content, len(frame) or None)
        websocket = self.websocket
        connection = websocket.direct
        if frame and connection is not None:
            connection.write(frame)
            if connection.unsent_bytes:
                websocket.relieve()
        elif websocket.handshake is not None:
            delivery = Delivery(content)
            delivery.prepared = prepared
            websocket.handshake.deliver(delivery, prepared)
        else:
            self._send(prepared, False)
        return True

    def deliver(self, delivery: Delivery) -> None:
        """Send to the client. Called by the layer in any greenlet, or thread."""
        if delivery.thread != self.server.thread:
            self.server.loop.run_callback_threadsafe(self.deliver_here, delivery)
            return
        prepared, connection = delivery.prepared, self.websocket.direct
        # The shortest way for what is sent most, a small message to many; otherwise as `WebSocketConnection.send`.
        if connection is not None and type(prepared) is bytes and prepared:
            if delivery.more:
                connection.write_soon(prepared)
                if connection.unsent_bytes > JOIN_BYTES:
                    self.websocket.relieve()
            else:
                connection.write(prepared)
                if connection.unsent_bytes:
                    self.websocket.relieve()
            return
        self.deliver_here(delivery)

    def deliver_here(self, delivery: Delivery) -> None:
        """`deliver` in the loop's own thread, whichever thread it came from."""
        if delivery.parts:
            for part in delivery.parts:
                self.deliver_here(part)
            if delivery.prepared is None:
                delivery.prepared = join([part.prepared for part in delivery.parts])
            return
        websocket = self.websocket
        state = websocket.protocol.state
        if state is not _OPEN and state is not _ENDING and websocket.handshake is None:
            return
        prepared = delivery.prepared
        if prepared is None:
            prepared = delivery.prepared = self._prepare(delivery)
        if websocket.handshake is not None:
            websocket.handshake.deliver(delivery, prepared)
        else:
            self._send(prepared, delivery.more)

    def _send(self, reply: bytes | Reply, more: bool) -> None:
        websocket = self.websocket
        state = websocket.protocol.state
        if state is not _OPEN and state is not _ENDING:
            return
        if not isinstance(reply, Reply):
            if reply:
                websocket.send(reply, more)
            return
        if reply.has_data:
            websocket.send(reply.frames(websocket.protocol.extension), more)
        if reply.close is not None:
            websocket.close(reply.close)

    def _prepare(self, delivery: Delivery) -> bytes | Reply:
        try:
            return prepare(delivery.content)
        except (ValueError, TypeError) as error:
            log.error("a reply at %s was dropped: %s", ascii(self.path), error)
            if self.websocket.handshake is not None:
                self.websocket.handshake.misspoken(delivery)
            return b""

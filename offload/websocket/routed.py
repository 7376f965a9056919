"""One routed WebSocket: frames become messages for its consumers, and what they send becomes frames.

It waits without a greenlet; each message runs the receive consumer in the pool, one at a time and in order.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from offload.interfaces import Content, Delivery, WebSocketConsumers
from offload.protocol.websocket.handshake import Handshake
from offload.transport.connection import Connection
from offload.websocket.connect import Answered, Opening
from offload.websocket.connection import FrameHandler, State
from offload.websocket.reply import Reply, prepare

if TYPE_CHECKING:
    from offload.websocket.routed_server import WebSocketGateway

log = logging.getLogger("offload.websocket")

_UNDECIDED, _OPEN, _ENDING, _REFUSED = State.UNDECIDED, State.OPEN, State.ENDING, State.REFUSED
_FAREWELL, _DISCONNECT = object(), object()
"""What waits in the queue behind the last messages: our close frame, and the disconnect consumer."""


class WebSocketHandler(FrameHandler):
    """One routed WebSocket.

    Attributes:
        gateway: what it shares with the others.
        reply_channel: its own channel's name.
        path: the request's, decoded.
    """

    __slots__ = ("_consumers", "_opening", "_order", "_queue", "_queued_size", "_running", "path", "reply_channel")

    gateway: WebSocketGateway

    def __init__(
        self,
        gateway: WebSocketGateway,
        connection: Connection,
        consumers: WebSocketConsumers,
        content: Content,
        handshake: Handshake,
        early: bytes,
        answered: Answered | None = None,
    ) -> None:
        super().__init__(gateway, connection, handshake.deflate)
        self._consumers = consumers
        self.reply_channel: str = content["reply_channel"]
        self.path: str = content["path"]
        self._order = 0
        # One greenlet at a time serves the connection; the connect consumer is the first.
        self._running = True
        self._queue: deque[Any] | None = None
        self._queued_size = 0
        # It hears the connection until it has decided.
        self._opening: Opening | None = Opening(self, consumers, handshake, early, answered)
        connection.handler = self._opening

    # The opening, as its own part decides.

    def open(self, content: Content) -> None:
        """Run the connect consumer; in a greenlet of the pool."""
        if self._opening is not None:
            self._opening.run(content)
        else:
            # Refused before it began.
            self.forget()

    def opened(self, answer: bytes, held: list[Delivery], early: bytes) -> None:
        """The handshake is accepted.

        Args:
            answer: the head to send.
            held: what others have sent meanwhile.
            early: what the client has.
        """
        self._opening = None
        self._state = _OPEN
        self.connection.handler = self
        self.gateway.counters.opened += 1
        self.connection.write(answer)
        for delivery in held:
            self.deliver_here(delivery)
        self.connection.resume_reading()
        if early:
            self.data_received(early)

    def refused(self, answer: bytes, is_known: bool) -> None:
        """The handshake is refused.

        Args:
            answer: to send.
            is_known: whether the connect consumer runs, so that the disconnect consumer is due unless it refuses.
        """
        self._opening = None
        self._state = _REFUSED
        self.connection.handler = self
        self.connection.write(answer)
        self.finish_sending()
        if is_known:
            self._tell_end()
        self._await_end()

    def lost(self, is_known: bool) -> None:
        """The client left before the handshake was decided.

        Args:
            is_known: whether the connect consumer was asked, so that the disconnect consumer is due.
        """
        self._opening = None
        if not is_known:
            self._state = _REFUSED
        self.connection_lost()

    def forget(self) -> None:
        """No consumer runs any more, and none will."""
        self._queue = None
        self.gateway.layer.detach(self.reply_channel)
        self.gateway.members.discard(self)

    # Messages.

    @property
    def _is_busy(self) -> bool:
        return self._running

    def _take(self, item: Any) -> None:
        """A message, or what follows the last one."""
        if not self._running:
            self._running = True
            self.gateway.pool.submit(self._consume, item)
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(item)
        if type(item) is str or type(item) is bytes:
            self._queued_size += len(item)
            gateway = self.gateway
            if (len(self._queue) > gateway.queue or self._queued_size > gateway.max_size) and self._paused is None:
                self._pause()

    def _consume(self, item: Any) -> None:
        self._order += 1
        content: Content = {"reply_channel": self.reply_channel, "path": self.path, "order": self._order}
        try:
            if type(item) is str:
                content["text"] = item
                self._consumers.receive(content)
            elif item is _DISCONNECT:
                content["code"] = self._code
                self._consumers.disconnect(content)
            else:
                content["bytes"] = item
                self._consumers.receive(content)
        finally:
            # Also when the consumer raised what is no Exception, such as SystemExit or a gevent.Timeout.
            if item is _DISCONNECT:
                self.gateway.members.discard(self)
            else:
                self.consume_next()

    def consume_next(self) -> None:
        """Let the next message have its turn, if one waits."""
        queue = self._queue
        while queue:
            item = queue.popleft()
            if item is _FAREWELL:
                self._say_farewell()
                continue
            if type(item) is str or type(item) is bytes:
                self._queued_size -= len(item)
            if not queue:
                self._queue = None
            # Not here and now: other connections' messages have their turn in between.
            self.gateway.pool.submit(self._consume, item)
            break
        else:
            self._queue = None
            self._running = False
        if self._paused is not None:
            gateway = self.gateway
            if self._queue is None or (
                len(self._queue) <= gateway.queue // 2 and self._queued_size <= gateway.max_size // 2
            ):
                self._let_on()

    # The end.

    def _end_after_messages(self) -> None:
        if self._running:
            self._take(_FAREWELL)
        else:
            self._say_farewell()

    def _tell_end(self) -> None:
        self.gateway.layer.detach(self.reply_channel)
        self._take(_DISCONNECT)

    def _measured(self, latency: float) -> None:
        self._consumers.latency = latency

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake; during the opening one, as soon as it is accepted."""
        if self._opening is not None:
            self._opening.close(code)
        else:
            super().close(code, reason)

    def cut_off(self) -> None:
        """See `FrameHandler`."""
        if self._opening is not None:
            self._opening.cut_off()
        else:
            super().cut_off()

    # What is sent to the reply channel and the groups.

    def deliver(self, delivery: Delivery) -> None:
        """Send to the client. Called by the layer in any greenlet, or thread."""
        gateway = self.gateway
        if delivery.thread != gateway.thread:
            gateway.loop.run_callback_threadsafe(self.deliver_here, delivery)
            return
        prepared = delivery.prepared
        # The shortest way for what is sent most, a small message to many.
        if type(prepared) is bytes and prepared and not delivery.more and self._state is _OPEN and not self._mailbox:
            connection = self.connection
            connection.write(prepared)
            if connection.unsent_bytes:
                self._relieve()
            return
        self.deliver_here(delivery)

    def deliver_here(self, delivery: Delivery) -> None:
        """`deliver` in the loop's own thread, whichever thread it came from."""
        state = self._state
        if state is _OPEN or state is _ENDING:
            prepared = delivery.prepared
            if prepared is None:
                prepared = self._prepare(delivery)
            if type(prepared) is bytes:
                if prepared:
                    self.send(prepared, delivery.more, self.gateway)
            else:
                if prepared.has_data:
                    self.send(prepared.frames(self._protocol.deflate), delivery.more, self.gateway)
                if prepared.close is not None:
                    self.close(prepared.close)
        elif state is _UNDECIDED and self._opening is not None:
            prepared = delivery.prepared
            if prepared is None:
                prepared = self._prepare(delivery)
            self._opening.deliver(delivery, prepared)

    def _prepare(self, delivery: Delivery) -> bytes | Reply:
        try:
            prepared = prepare(delivery.content)
        except (ValueError, TypeError) as error:
            log.error("a reply at %s was dropped: %s", ascii(self.path), error)
            prepared = b""
            if self._opening is not None:
                self._opening.misspoken(delivery)
        delivery.prepared = prepared
        return prepared

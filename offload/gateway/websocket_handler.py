"""One routed WebSocket: frames become messages for its consumers, and what they send becomes frames.

It waits without a greenlet; each message runs the receive consumer in the pool, one at a time and in order.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any

from offload.gateway import liveness
from offload.gateway.opening import Answered, Opening
from offload.gateway.reply import Reply, prepare
from offload.gateway.sending import FrameSender
from offload.interfaces import Content, Delivery, WebSocketConsumers
from offload.protocol.handshake import Handshake
from offload.protocol.websocket import (
    ABNORMAL,
    GOING_AWAY,
    NO_CODE,
    NORMAL,
    POLICY_VIOLATION,
    SERVICE_RESTART,
    TRY_AGAIN_LATER,
    Close,
    Failure,
    Ping,
    Pong,
    WebSocketProtocol,
    close_frame,
    pong_frame,
)
from offload.transport.connection import Connection

if TYPE_CHECKING:
    from offload.gateway.websocket import WebSocketGateway

log = logging.getLogger("offload.websocket")

_MAX_EARLY_BYTES = 65536


class _State(Enum):
    CONNECTING = "the connect consumer decides"
    OPEN = "messages pass both ways"
    ENDING = "the client has closed, or broken the rules; what it sent before has its turn, then we answer"
    CLOSING = "our close frame is sent, the client's is awaited"
    CLOSED = "the socket is gone, or about to go"
    REFUSED = "the same, and it was never open"


_CONNECTING, _OPEN, _ENDING, _CLOSING, _CLOSED, _REFUSED = _State
_DISCONNECT = object()


class _Farewell:
    """The close frame that waits in the queue behind the last messages."""

    __slots__ = ("frame",)

    def __init__(self, frame: bytes) -> None:
        self.frame = frame


class WebSocketHandler(FrameSender):
    """One routed WebSocket.

    Attributes:
        gateway: what it shares with the others.
        reply_channel: its own channel's name.
        path: the request's, decoded.
    """

    __slots__ = (
        "_code",
        "_consumers",
        "_heard",
        "_opening",
        "_order",
        "_paused",
        "_ping",
        "_protocol",
        "_queue",
        "_queued_size",
        "_rate_due",
        "_running",
        "_state",
        "gateway",
        "path",
        "reply_channel",
    )

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
        super().__init__(connection)
        self.gateway = gateway
        self._consumers = consumers
        self.reply_channel: str = content["reply_channel"]
        self.path: str = content["path"]
        self._protocol = WebSocketProtocol(gateway.max_size, handshake.deflate, is_lazy=True)
        self._state = _CONNECTING
        self._code = ABNORMAL
        self._order = 0
        # Whether anything came since the last ping, and that ping until its pong.
        self._heard = True
        self._ping: liveness.Ping | None = None
        # One greenlet at a time serves the connection; the connect consumer is the first.
        self._running = True
        self._paused = False
        self._queue: deque[Any] | None = None
        self._queued_size = 0
        self._rate_due = 0.0
        self._opening: Opening | None = Opening(self, consumers, handshake, early, answered)

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
        self.gateway.counters.opened += 1
        self.connection.write(answer)
        for delivery in held:
            self.deliver(delivery)
        self.connection.resume_reading()
        if early:
            self.data_received(early)

    def refused(self, answer: bytes) -> None:
        """The handshake is refused."""
        self._opening = None
        self._state = _REFUSED
        self.connection.write(answer)
        self._leave(_REFUSED)

    def forget(self) -> None:
        """No consumer runs any more, and none will."""
        self._queue = None
        self.gateway.layer.detach(self.reply_channel)
        self.gateway.members.discard(self)

    # Called by the connection, in the loop.

    def data_received(self, data: bytes) -> None:
        """Frames, or what is dropped after the end."""
        self._heard = True
        state = self._state
        if state is _CONNECTING:
            opening = self._opening
            assert opening is not None
            opening.early += data
            if len(opening.early) > _MAX_EARLY_BYTES:
                self.connection.pause_reading()
            return
        rate = self.gateway.rate
        protocol = self._protocol
        while state is _OPEN or state is _CLOSING:
            for event in protocol.receive(data):
                if rate is not None and self._state is _OPEN and self._is_too_fast(rate):
                    return
                kind = type(event)
                if kind is str or kind is bytes:
                    if self._state is _OPEN:
                        self._enqueue(event)
                else:
                    self._control(event)
            if not protocol.held:
                return
            state, data = self._state, b""
            if state is _OPEN and self._running:
                self._pause()
                return

    def eof_received(self) -> None:
        """The client will send nothing more."""
        if self._state is _CLOSED or self._state is _REFUSED:
            self.connection.close()
        elif self._state is not _ENDING:
            # Without a word. A client that did close may still read what its last messages bring.
            self.connection.abort()

    def connection_lost(self) -> None:
        """The socket is gone; the disconnect consumer follows what still waits."""
        gateway, opening = self.gateway, self._opening
        gateway.admission.leave(self)
        gateway.closing.discard(self)
        self.drop_mailbox()
        if self._state is _CLOSED:
            # The disconnect consumer was told when the closing handshake was over.
            return
        gateway.layer.detach(self.reply_channel)
        is_known = self._state is not _REFUSED
        self._state = _CLOSED
        if opening is not None:
            self._opening = None
            opening.lose()
            is_known = opening.has_begun
        if is_known:
            self._enqueue(_DISCONNECT)

    # Messages.

    def _enqueue(self, item: Any) -> None:
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
            if (len(self._queue) > gateway.queue or self._queued_size > gateway.max_size) and not self._paused:
                self._pause()

    def _pause(self) -> None:
        self._paused = True
        self.connection.pause_reading()

    def _let_on(self) -> None:
        self._paused = False
        # While we did not read, nothing could be heard.
        self._heard = True
        self.connection.resume_reading()
        if self._protocol.held:
            self.data_received(b"")

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
            if type(item) is _Farewell:
                self._say_farewell(item.frame)
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
        if self._paused:
            gateway = self.gateway
            if self._queue is None or (
                len(self._queue) <= gateway.queue // 2 and self._queued_size <= gateway.max_size // 2
            ):
                self._let_on()

    def _is_too_fast(self, rate: float) -> bool:
        """Count one message or control frame; `rate` a second pass, and as many at once after a silence."""
        now = time.monotonic()
        self._rate_due = max(self._rate_due, now) + 1.0 / rate
        if self._rate_due - now <= 1.001:
            return False
        self.gateway.counters.too_fast += 1
        log.info("closing %s with %d: over %g messages a second (--ws-rate)", self.peer, POLICY_VIOLATION, rate)
        self._fail(POLICY_VIOLATION, f"over {rate:g} messages a second")
        return True

    # Control frames and the end.

    def _control(self, event: object) -> None:
        if isinstance(event, Ping):
            if self._state is _OPEN:
                self.send_control(pong_frame(event.payload))
        elif isinstance(event, Pong):
            ping = self._ping
            if ping is not None and event.payload == ping.payload:
                self._ping = None
                self._consumers.latency = time.monotonic() - ping.moment
        elif isinstance(event, Close):
            self._code = event.code
            self._end(close_frame(NORMAL if event.code == NO_CODE else event.code))
        elif isinstance(event, Failure):
            self.gateway.counters.count_failure(event.code)
            log.info("closing %s with %d: %s", self.peer, event.code, event.reason)
            if self._state is _OPEN:
                self._code = event.code
            self._end(close_frame(event.code, event.reason))

    def _end(self, frame: bytes) -> None:
        """Nothing more is taken from the client; what came before has its turn before our close frame."""
        if self._state is _CLOSING:
            # Ours has been sent.
            self._leave()
        elif self._state is _OPEN:
            self._state = _ENDING
            if self._running:
                self.gateway.closing.add(self)
                self._enqueue(_Farewell(frame))
            else:
                self._say_farewell(frame)

    def _say_farewell(self, frame: bytes) -> None:
        if self._state is _ENDING:
            self.send_last(frame)
            self._leave()

    def _fail(self, code: int, reason: str) -> None:
        """End it from our side, without waiting for anything."""
        if self._state is _OPEN:
            self._code = code
        self.send_last(close_frame(code, reason))
        self._leave()

    def _leave(self, state: _State = _CLOSED) -> None:
        """Let the client read everything, then end the connection. For the consumers it has ended now."""
        ends = state is _CLOSED and self._state is not _CLOSED
        self._state = state
        self.finish_sending()
        if ends:
            self.gateway.layer.detach(self.reply_channel)
            self._enqueue(_DISCONNECT)
        if not self.connection.closed:
            self.gateway.closing.add(self)
            self.connection.resume_reading()

    def close(self, code: int) -> None:
        """Begin the closing handshake; during the opening one, refuse it."""
        if self._opening is not None:
            self._opening.refuse(503 if code in (GOING_AWAY, SERVICE_RESTART) else 403)
        elif self._state is _OPEN:
            self._state = _CLOSING
            self.send_last(close_frame(code))
            self.gateway.closing.add(self)
            # A client that has filled the queue could not answer otherwise.
            self._let_on()

    def close_expired(self) -> None:
        """The closing handshake took too long: the consumers before our answer, or the client's answer to us."""
        if self._state is _ENDING:
            for item in self._queue or ():
                if type(item) is _Farewell:
                    self._say_farewell(item.frame)
                    return
        if self._state is _CLOSING:
            self.gateway.counters.unanswered_closes += 1
        self.connection.abort()

    # Liveness; called by the gateway's timer, in the loop.

    def ping(self, ping: liveness.Ping) -> None:
        """Ask the client for a sign of life."""
        if self._state is _OPEN:
            if self._heard:
                self._heard = False
                self._ping = ping
            self.send_control(ping.frame)

    def check(self, before: float) -> None:
        """End it when nothing came since a ping that was sent before this moment."""
        ping = self._ping
        if not self._heard and ping is not None and ping.moment <= before and not self._paused:
            self.gateway.counters.silent += 1
            log.info("closing %s: no sign of life since the last ping", self.peer)
            self.connection.abort()

    # What is sent to the reply channel and the groups.

    def deliver(self, delivery: Delivery) -> None:
        """Send to the client. Called by the layer in any greenlet, or thread."""
        gateway = self.gateway
        if gateway.thread_id() != gateway.thread:
            gateway.loop.run_callback_threadsafe(self.deliver, delivery)
            return
        state = self._state
        if state is _OPEN or state is _ENDING:
            prepared = delivery.prepared
            if prepared is None:
                prepared = self._prepare(delivery)
            if type(prepared) is bytes:
                if prepared:
                    self.send(prepared, delivery.more, gateway)
            else:
                if prepared.has_data:
                    self.send(prepared.frames(self._protocol.deflate), delivery.more, gateway)
                if prepared.close is not None:
                    self.close(prepared.close)
        elif state is _CONNECTING and self._opening is not None:
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
                self._opening.misspoken()
        delivery.prepared = prepared
        return prepared

    def overflowed(self) -> None:
        """See `FrameSender`."""
        log.warning(
            "closing %s with %d: over %d bytes are unsent (--ws-send-buffer)",
            self.peer,
            TRY_AGAIN_LATER,
            self.gateway.send_buffer,
        )
        self._fail(TRY_AGAIN_LATER, "the client reads too slowly")

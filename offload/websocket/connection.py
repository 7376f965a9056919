"""One WebSocket: its socket, its protocol, and a receiver that its messages go to.

Reading, sending, limits, pings and the closing handshake are the same for every receiver: routed consumers
(``offload.websocket.routed``) or an application's own loop (``offload.websocket.raw``). Everything here runs in the
loop, or in a greenlet that sends.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from offload.interfaces import Delivery
from offload.observe.log_lines import SafeLogger
from offload.observe.observer import WebSocketEvent
from offload.protocol.websocket.connection import Event, Failure, Ping, Pong, State, WebSocketProtocol
from offload.protocol.websocket.frames import POLICY_VIOLATION, TOO_BIG, TRY_AGAIN_LATER, Extension, pong_frame
from offload.transport.connection import JOIN_BYTES, Connection
from offload.websocket import keepalive
from offload.websocket.encode import Reply
from offload.websocket.send_queue import Overflow, SendQueue
from offload.websocket.server import WebSocketServer

log = SafeLogger("offload.websocket")

SPARED_SECONDS = 9.0
"""A client that sent less than ``--ws-rate`` may send more than a second's messages at once, up to those of ten
seconds: a network that stands still for a while, or a busy server, lets what was sent in time arrive together."""

_FAULTS: dict[int, WebSocketEvent] = {TOO_BIG: "too_big", POLICY_VIOLATION: "too_many_frames"}

_CONNECTING, _OPEN, _ENDING, _CLOSING, _CLOSED = State


class Receiver(Protocol):
    """What a WebSocket gives its messages to. All methods are called in the loop, and return at once."""

    latency: float | None
    """Seconds from the last answered ping to its pong; None before the first. The WebSocket sets it."""

    @property
    def is_busy(self) -> bool:
        """Whether messages wait, so that those that are not inflated yet had better stay so."""

    def take(self, message: str | bytes) -> None:
        """A message has come. The receiver calls `WebSocketConnection.balance` when it waits."""

    def last_message_taken(self) -> None:
        """Nothing more comes: `WebSocketConnection.answer` is to be called when what waits has been answered."""

    def closing(self) -> None:
        """Our close frame is sent, so that nothing can be sent any more; what the client sends is dropped."""

    def ended(self) -> None:
        """The closing handshake is over, or the connection is lost, whichever comes first. Called once, and not for
        a WebSocket that was refused."""

    def connection_lost(self) -> None:
        """The socket is gone."""

    def renew(self) -> None:
        """The connection lives: what it has in the layer must not expire."""


class Undecided(Protocol):
    """A handshake whose connect consumer has not decided; see `offload.websocket.connect.PendingHandshake`."""

    def deliver(self, delivery: Delivery, reply: bytes | Reply) -> None: ...
    def misspoken(self, delivery: Delivery) -> None: ...
    def close(self, code: int) -> None: ...
    def abort(self) -> None: ...


@dataclass(slots=True, eq=False)
class WebSocketConnection:
    """One WebSocket.

    Args:
        server: what it shares with the others.
        connection: its socket.
        receiver: gets its messages.

    Attributes:
        direct: its connection, while data frames may be written there at once: from the handshake to our close frame,
            unless frames wait in the send queue. A delivery to many looks at nothing else.
        protocol: its frames and its state.
        handshake: hears the connection until the connect consumer has decided; None afterwards.
        paused: since when it is not read, because too much waits; otherwise None.
    """

    _server: WebSocketServer
    connection: Connection
    _receiver: Receiver
    direct: Connection | None = field(default=None, init=False)
    protocol: WebSocketProtocol = field(init=False)
    handshake: Undecided | None = field(default=None, init=False)
    # Only while the socket takes nothing more.
    send_queue: SendQueue | None = field(default=None, init=False)
    # Whether anything came since the last ping, and that ping until its pong.
    _heard: bool = field(default=True, init=False)
    _ping: keepalive.Ping | None = field(default=None, init=False)
    paused: float | None = field(default=None, init=False)
    # When the messages that came would have come at the highest rate; and for how long it may have sent less.
    _rate_due: float | None = field(default=None, init=False)
    _spared: float = field(default=SPARED_SECONDS, init=False)

    def __post_init__(self) -> None:
        self.protocol = WebSocketProtocol(self._server.options.max_size, is_lazy=True, state=_CONNECTING)

    @property
    def client(self) -> str:
        """The client's address for the log."""
        return self.connection.client

    # Called by the connection.

    def data_received(self, data: bytes) -> None:
        """Frames, or what is dropped after the end."""
        self._heard = True
        protocol, receiver, rate = self.protocol, self._receiver, self._server.options.rate
        while True:
            for event in protocol.receive(data):
                if rate is not None and self._is_too_fast(rate):
                    return
                kind = type(event)
                if kind is str or kind is bytes:
                    receiver.take(event)  # type: ignore[arg-type]
                else:
                    self._control(event)
                    if self.connection.closed:
                        return
            if not protocol.held:
                return
            data = b""
            if protocol.state is _OPEN and receiver.is_busy:
                self._pause()
                return

    def eof_received(self) -> None:
        """The client will send nothing more."""
        state = self.protocol.state
        if state is _CLOSED:
            self.connection.close()
        elif state is not _ENDING:
            # Without a word. A client that did close may still read what its last messages bring.
            self.connection.abort()

    def connection_lost(self) -> None:
        """The socket is gone."""
        server = self._server
        server.connection_limit.leave(self)
        server.closing.discard(self)
        server.answering.discard(self)
        self._drop_queue()
        self.direct = None
        protocol = self.protocol
        if protocol.state is not _CLOSED:
            # Otherwise it was told when the closing handshake was over.
            protocol.abandon()
            self._receiver.ended()
        self._receiver.connection_lost()

    def renew(self) -> None:
        """Called now and then while the connection lives."""
        self._receiver.renew()

    # What its receiver asks for.

    def open(self, extension: Extension | None, answer: bytes) -> None:
        """The handshake is accepted, with this answer; the connection is not read yet."""
        self._server.observer.websocket("opened")
        self.protocol.open(extension)
        self.direct = self.connection
        self.connection.handler = self
        self.connection.write(answer)

    def balance(self, count: int, size: int) -> None:
        """Read no more while more than the limits waits for the receiver, and again at half of them.

        Args:
            count, size: how many messages wait, and their characters or bytes.
        """
        options = self._server.options
        if self.paused is None:
            if count > options.queue or size > options.max_size:
                self._pause()
        elif count <= options.queue // 2 and size <= options.max_size // 2:
            self._resume()

    def _pause(self) -> None:
        self.paused = time.monotonic()
        self.connection.pause_reading()

    def _resume(self) -> None:
        if self.paused is not None:
            # What it sent meanwhile comes now.
            self._spared = max(SPARED_SECONDS, time.monotonic() - self.paused)
            self.paused = None
        # While we did not read, nothing could be heard.
        self._heard = True
        self.connection.resume_reading()
        if self.protocol.held:
            self.data_received(b"")

    def answer(self) -> None:
        """What the client sent before its end has been answered: answer that, too, unless somebody has."""
        frame = self.protocol.answer()
        if frame:
            self._end(frame)

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake, as soon as the opening one is accepted; nothing when it has begun."""
        if self.handshake is not None:
            self.handshake.close(code)
            return
        frame = self.protocol.close(code, reason)
        if frame:
            self._send_last(frame)
            self._receiver.closing()
            self._await_end()
            # A client that has filled the queue could not answer otherwise.
            self._resume()

    def refuse(self, answer: bytes) -> None:
        """The handshake is refused with this answer."""
        self.protocol.abandon()
        self.connection.write(answer)
        self._finish_sending()
        self._await_end()

    # Sending.

    def send(self, frames: bytes, more: bool = False) -> None:
        """Send whole data frames; past the limit the overflow policy acts.

        Args:
            frames: whole frames.
            more: whether others follow in the same turn of the loop; they are joined into one system call.
        """
        if self.send_queue is not None:
            self._put(frames, self.send_queue)
            return
        connection = self.connection
        if more:
            connection.write_soon(frames)
            if connection.unsent_bytes > JOIN_BYTES:
                self.relieve()
        else:
            connection.write(frames)
            if connection.unsent_bytes:
                self.relieve()

    def write(self, frame: bytes) -> None:
        """Send a frame for a caller that waits by itself until the client has taken enough."""
        if self.send_queue is not None:
            # Pings and pongs. The queue is asked when nothing else is unsent, which may never be.
            self._write_queue(self.send_queue)
        self.connection.write(frame)

    def _send_control(self, frame: bytes) -> None:
        """Send a ping or a pong, ahead of data that waits."""
        if self.send_queue is not None:
            self.send_queue.put_control(frame)
        else:
            self.send(frame)

    def _send_last(self, frame: bytes) -> None:
        """Send a close frame, behind all data."""
        self.direct = None
        if self.send_queue is not None:
            self.send_queue.put(frame)
        else:
            self.connection.write(frame)

    def _finish_sending(self) -> None:
        """End the sending half, behind all that waits."""
        self.direct = None
        if self.send_queue is not None:
            self._write_queue(self.send_queue)
        self.connection.finish()

    def _write_queue(self, queue: SendQueue) -> None:
        waiting = queue.take(float("inf"))
        self._drop_queue()
        self.connection.write(waiting)

    def _drop_queue(self) -> None:
        """What waits is not sent."""
        queue, self.send_queue = self.send_queue, None
        if queue is not None:
            self.connection.refill = None
            if self.protocol.state is _OPEN:
                self.direct = self.connection
            if queue.dropped:
                log.warning("%d messages for %s were dropped: it reads too slowly", queue.dropped, self.client)

    def relieve(self) -> None:
        """Send what is held back; when the socket takes no more, the frames after it wait in a queue."""
        connection = self.connection
        connection.flush()
        if connection.blocked:
            self.send_queue = SendQueue()
            self.direct = None
            connection.refill = self._refill

    def _refill(self) -> bytes:
        queue = self.send_queue
        if queue is None:
            return b""
        data = queue.take()
        if queue.is_empty:
            self._drop_queue()
        return data

    def _put(self, frames: bytes, queue: SendQueue) -> None:
        """Let frames wait, or do as the overflow policy says."""
        server = self._server
        room = server.options.send_buffer - self.connection.unsent_bytes - len(frames)
        if queue.fits(room):
            queue.put(frames)
            return
        overflow = server.overflow
        if overflow is Overflow.CLOSE:
            self._drop_queue()
            self.overflow()
            return
        if not queue.dropped:
            log.warning("messages for %s are dropped from now on: it reads too slowly (--ws-overflow)", self.client)
        if overflow is Overflow.DROP_OLDEST:
            server.observer.websocket("dropped_oldest", queue.drop_oldest(room))
            if room >= 0:
                queue.put(frames)
                return
        queue.dropped += 1
        self.drop_newest()

    def drop_newest(self) -> None:
        """Count a message that the client has no room for."""
        self._server.observer.websocket("dropped_newest")

    def overflow(self) -> None:
        """The client holds too many unsent bytes: close it."""
        self._server.observer.websocket("too_slow")
        self._end(self.protocol.fail(TRY_AGAIN_LATER, "the client reads too slowly"))
        log.warning(
            "closing %s with %d: over %d bytes are unsent (--ws-send-buffer)",
            self.client,
            TRY_AGAIN_LATER,
            self._server.options.send_buffer,
        )

    def took_nothing(self, seconds: float | None) -> None:
        """The client let a sender wait for so long: end it."""
        self._server.observer.websocket("too_slow")
        log.warning("closing %s: it took nothing for %s s (--send-timeout)", self.client, seconds)
        self.connection.abort()

    # Control frames and the end.

    def _is_too_fast(self, rate: float) -> bool:
        """Count one message or control frame."""
        if self.protocol.state is _CLOSED or self.protocol.state is _CLOSING:
            return False
        now = time.monotonic()
        due = self._rate_due = (now if self._rate_due is None else max(self._rate_due, now - self._spared)) + 1.0 / rate
        if due - now <= 1.001:
            return False
        self._server.observer.websocket("too_fast")
        log.info("closing %s with %d: over %g messages a second (--ws-rate)", self.client, POLICY_VIOLATION, rate)
        self._end(self.protocol.fail(POLICY_VIOLATION, f"over {rate:g} messages a second"))
        return True

    def _control(self, event: Event) -> None:
        state = self.protocol.state
        if isinstance(event, Ping):
            if state is _OPEN or state is _ENDING:
                self._send_control(pong_frame(event.payload))
            return
        if isinstance(event, Pong):
            ping = self._ping
            if ping is not None and event.payload == ping.payload:
                self._ping = None
                self._receiver.latency = time.monotonic() - ping.moment
            return
        if isinstance(event, Failure):
            self._server.observer.websocket(_FAULTS.get(event.code, "broken"))
            log.info("closing %s with %d: %s", self.client, event.code, event.reason)
        if state is _CLOSED:
            # Ours had been sent.
            self._end(b"")
        else:
            self._server.closing.add(self)
            self._receiver.last_message_taken()

    def _end(self, last: bytes) -> None:
        """Let the client read everything, then end the connection. For the receiver it has ended now."""
        if last:
            self._send_last(last)
        self._finish_sending()
        self._receiver.ended()
        self._await_end()

    def _await_end(self) -> None:
        """Give the client a while to end the connection; what was sent last may have ended it already."""
        if not self.connection.closed:
            self._server.closing.add(self)
            self.connection.resume_reading()

    # Called by the server's timers.

    def close_expired(self) -> None:
        """The closing handshake took too long: the application before our answer, or the client's answer to us."""
        if self.protocol.state is _ENDING:
            self.answer()
        else:
            self.abort()

    def abort(self) -> None:
        """Nobody waits for it any longer; its receiver is told now, unless it was."""
        if self.handshake is not None:
            self.handshake.abort()
            return
        if self.protocol.state is _CLOSING:
            self._server.observer.websocket("unanswered_closes")
        self.connection.abort()

    def ping(self, ping: keepalive.Ping) -> None:
        """Ask the client for a sign of life."""
        if self.protocol.state is _OPEN:
            if self._heard:
                self._heard = False
                self._ping = ping
            self._send_control(ping.frame)

    def check(self, before: float) -> None:
        """End it when nothing came since a ping that was sent before this moment, unless it is us who do not read."""
        ping = self._ping
        if not self._heard and ping is not None and ping.moment <= before and self.paused is None:
            self._server.observer.websocket("silent")
            self.connection.abort()
            log.info("closing %s: no sign of life since the last ping", self.client)

"""One open WebSocket, whoever its messages are for: reading, control frames, limits, liveness, the closing handshake.

Its subclasses say where messages go, when the last of them have had their turn, and who is told of the end.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, Any

from offload.protocol.websocket.connection import (
    ABNORMAL,
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
from offload.protocol.websocket.deflate import Deflate
from offload.transport.connection import Connection
from offload.websocket import keepalive as liveness
from offload.websocket.encode import FrameSender

if TYPE_CHECKING:
    from offload.websocket.server import FrameGateway

log = logging.getLogger("offload.websocket")

SPARED_SECONDS = 9.0
"""A client that sent less than ``--ws-rate`` may send more than a second's messages at once, up to those of ten
seconds: a network that stands still for a while, or a busy server, lets what was sent in time arrive together."""


class State(Enum):
    """Where a WebSocket is between its handshake and its end."""

    UNDECIDED = "the application decides about the handshake"
    OPEN = "messages pass both ways"
    ENDING = "the client has closed, or broken the rules; what it sent before has its turn, then we answer"
    CLOSING = "our close frame is sent, the client's is awaited"
    CLOSED = "the socket is gone, or about to go"
    REFUSED = "the same, and it was never open"


_UNDECIDED, _OPEN, _ENDING, _CLOSING, _CLOSED, _REFUSED = State


class FrameHandler(FrameSender):
    """One open WebSocket.

    Attributes:
        gateway: what it shares with the others.
    """

    __slots__ = (
        "_code",
        "_farewell",
        "_heard",
        "_paused",
        "_ping",
        "_protocol",
        "_rate_due",
        "_spared",
        "_state",
        "gateway",
    )

    def __init__(self, gateway: FrameGateway, connection: Connection, deflate: Deflate | None = None) -> None:
        super().__init__(connection)
        self.gateway = gateway
        self._protocol = WebSocketProtocol(gateway.max_size, deflate, is_lazy=True)
        self._state = _UNDECIDED
        # What it was closed with, and our close frame while the last messages have their turn.
        self._code = ABNORMAL
        self._farewell = b""
        # Whether anything came since the last ping, and that ping until its pong.
        self._heard = True
        self._ping: liveness.Ping | None = None
        # Since when it is not read, if it is not.
        self._paused: float | None = None
        # When the messages that came would have come at the highest rate; and for how long it may have sent less.
        self._rate_due: float | None = None
        self._spared = SPARED_SECONDS

    # What a subclass decides.

    @property
    @abstractmethod
    def _is_busy(self) -> bool:
        """Whether messages wait, so that those that are not inflated yet had better stay so."""

    @abstractmethod
    def _take(self, item: Any) -> None:
        """A message has come, a `str` or `bytes`. It pauses reading when too many wait."""

    @abstractmethod
    def _end_after_messages(self) -> None:
        """Nothing more comes: have `_say_farewell` called behind what waits."""

    @abstractmethod
    def _tell_end(self) -> None:
        """For the application it has ended: its closing handshake is over, or its connection is lost, whichever comes
        first. Called once, and not for one that was refused."""

    @abstractmethod
    def _measured(self, latency: float) -> None:
        """A ping was answered after so many seconds."""

    # Called by the connection, in the loop.

    def data_received(self, data: bytes) -> None:
        """Frames, or what is dropped after the end."""
        self._heard = True
        state, protocol, rate = self._state, self._protocol, self.gateway.rate
        while state is _OPEN or state is _CLOSING:
            for event in protocol.receive(data):
                if rate is not None and self._state is _OPEN and self._is_too_fast(rate):
                    return
                kind = type(event)
                if kind is str or kind is bytes:
                    if self._state is _OPEN:
                        self._take(event)
                else:
                    self._control(event)
            if not protocol.held:
                return
            state, data = self._state, b""
            if state is _OPEN and self._is_busy:
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
        """The socket is gone."""
        gateway = self.gateway
        gateway.admission.leave(self)
        gateway.closing.discard(self)
        self.drop_mailbox()
        state = self._state
        if state is not _CLOSED and state is not _REFUSED:
            # Otherwise it was told when the closing handshake was over.
            self._state = _CLOSED
            self._tell_end()

    def _pause(self) -> None:
        self._paused = time.monotonic()
        self.connection.pause_reading()

    def _let_on(self) -> None:
        if self._paused is not None:
            # What it sent meanwhile comes now.
            self._spared = max(SPARED_SECONDS, time.monotonic() - self._paused)
            self._paused = None
        # While we did not read, nothing could be heard.
        self._heard = True
        self.connection.resume_reading()
        if self._protocol.held:
            self.data_received(b"")

    def _is_too_fast(self, rate: float) -> bool:
        """Count one message or control frame."""
        now = time.monotonic()
        due = self._rate_due = (now if self._rate_due is None else max(self._rate_due, now - self._spared)) + 1.0 / rate
        if due - now <= 1.001:
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
                self._measured(time.monotonic() - ping.moment)
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
            self._farewell = frame
            self.gateway.closing.add(self)
            self._end_after_messages()

    def _say_farewell(self) -> None:
        """The last messages have had their turn; nothing when somebody ended it meanwhile."""
        if self._state is _ENDING:
            self.send_last(self._farewell)
            self._leave()

    def _fail(self, code: int, reason: str) -> None:
        """End it from our side, without waiting for anything."""
        if self._state is _OPEN:
            self._code = code
        self.send_last(close_frame(code, reason))
        self._leave()

    def _leave(self) -> None:
        """Let the client read everything, then end the connection. For the application it has ended now."""
        has_ended, self._state = self._state is _CLOSED, _CLOSED
        self.finish_sending()
        if not has_ended:
            self._tell_end()
        self._await_end()

    def _await_end(self) -> None:
        """Give the client a while to end the connection; what was sent last may have ended it already."""
        if not self.connection.closed:
            self.gateway.closing.add(self)
            self.connection.resume_reading()

    def close(self, code: int, reason: str = "") -> None:
        """Begin the closing handshake; nothing when it has begun."""
        if self._state is _OPEN:
            self._state = _CLOSING
            self.send_last(close_frame(code, reason))
            self._await_end()
            # A client that has filled the queue could not answer otherwise.
            self._let_on()

    def overflowed(self) -> None:
        """See `FrameSender`."""
        self._fail(TRY_AGAIN_LATER, "the client reads too slowly")
        log.warning(
            "closing %s with %d: over %d bytes are unsent (--ws-send-buffer)",
            self.peer,
            TRY_AGAIN_LATER,
            self.gateway.send_buffer,
        )

    # Called by the gateway's timers, in the loop.

    def close_expired(self) -> None:
        """The closing handshake took too long: the application before our answer, or the client's answer to us."""
        if self._state is _ENDING:
            self._say_farewell()
        else:
            self.cut_off()

    def cut_off(self) -> None:
        """Nobody waits for it any longer; its end is told now, unless it was."""
        if self._state is _CLOSING:
            self.gateway.counters.unanswered_closes += 1
        self.connection.abort()

    def ping(self, ping: liveness.Ping) -> None:
        """Ask the client for a sign of life."""
        if self._state is _OPEN:
            if self._heard:
                self._heard = False
                self._ping = ping
            self.send_control(ping.frame)

    def check(self, before: float) -> None:
        """End it when nothing came since a ping that was sent before this moment, unless it is us who do not read."""
        ping = self._ping
        if not self._heard and ping is not None and ping.moment <= before and self._paused is None:
            self.gateway.counters.silent += 1
            self.connection.abort()
            log.info("closing %s: no sign of life since the last ping", self.peer)

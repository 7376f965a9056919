"""A connection: a socket on the loop, a handler for what it reads, and a queue of what it could not send yet.

Reading happens in the loop's callback, without a greenlet; sending is tried at once, and waits for the socket only
after it said EAGAIN. A peer that then takes too little is cut off, also when the connection is closing.
"""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import os
import struct
import termios
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import gevent
from gevent.event import Event

from offload.observe.log_lines import SafeLogger, address_text
from offload.transport.pool import wait_for_client
from offload.transport.timeouts import LeastRate

if TYPE_CHECKING:
    from gevent._types import _IoWatcher, _Loop

log = SafeLogger("offload.server")

READ_BYTES = 65536
JOIN_BYTES = 65536
"""Waiting pieces are joined into sends of about this size."""
HIGH_WATER_BYTES = 262144
"""A greenlet that sends a body waits while more than this is unsent."""
LOW_WATER_BYTES = 65536

FILE_BYTES = 1048576
"""A file is sent in parts of this size, with a turn for other greenlets in between."""

_READ, _WRITE = 1, 2
_NO_LINGERING = struct.pack("ii", 1, 0)
_INT = struct.Struct("i")


class Source(Protocol):
    """Where a connection reads: its socket, or what decrypts."""

    def recv(self, size: int, /) -> bytes:
        """As a socket's that does not block."""


class Handler(Protocol):
    """What a connection calls, always in the loop: its methods must not wait."""

    def data_received(self, data: bytes) -> None:
        """The peer sent something."""

    def eof_received(self) -> None:
        """The peer will send nothing more; reading has stopped. The handler closes, now or when it has answered."""

    def connection_lost(self) -> None:
        """The connection has ended, whoever ended it. Called exactly once."""


class Connection:
    """One accepted socket.

    Args:
        loop: gevent's loop.
        sock: connected and non-blocking; the connection owns it from now on.
        peer: the client's address, as the socket module gives it.
        left: called once, with the connection, when it has ended.
        sending: cuts off connections whose peer takes too little (see `sending_watch`).

    Attributes:
        handler: called with what arrives; may be replaced at any time.
        patient: whether the handler itself ends the connection when its peer takes too little; until `close`.
        closed: whether it has ended. Writing to a closed connection does nothing.
        unsent_bytes: what the socket has not taken yet.
        refill: None, or asked for more as soon as everything is sent; it returns b"" when it has nothing.
        sends_files: whether the kernel can send files on it, because bytes pass as they are.
    """

    sends_files = True

    __slots__ = (
        "_drained",
        "_drained_at",
        "_end",
        "_handed",
        "_left",
        "_loop",
        "_reader",
        "_reading",
        "_sending",
        "_sock",
        "_source",
        "_unsent",
        "_writer",
        "closed",
        "handler",
        "patient",
        "peer",
        "refill",
        "unsent_bytes",
    )

    def __init__(
        self,
        loop: _Loop,
        sock: _socket.socket,
        peer: object,
        left: Callable[[Connection], None],
        sending: LeastRate[Connection] | None = None,
    ) -> None:
        self._loop = loop
        self._sock = sock
        # Objects, and not their bound methods: these would cost an idle connection 72 bytes each.
        self._source: Source = sock
        self.peer = peer
        self._left = left
        self._sending = sending
        # Bytes that the kernel took while the peer was slow.
        self._handed = 0
        self.handler: Handler | None = None
        self.patient = False
        self.closed = False
        self.refill: Callable[[], bytes] | None = None
        self.unsent_bytes = 0
        self._unsent: deque[bytes | memoryview] | None = None
        # Set, for all greenlets that wait, as soon as no more than this is unsent.
        self._drained: Event | None = None
        self._drained_at = LOW_WATER_BYTES
        # What happens once everything is sent: nothing, the end of the sending half, or the end.
        self._end: Callable[[], None] | None = None
        self._writer: _IoWatcher | None = None
        self._reader = loop.io(sock.fileno(), _READ)
        self._reading = False

    @property
    def client(self) -> str:
        """The peer's address, for the log."""
        return address_text(self.peer)

    @property
    def socket(self) -> _socket.socket:
        """The socket, for its number, names and options; bytes pass through this object alone."""
        return self._sock

    def start(self, handler: Handler) -> None:
        """Begin to read."""
        self.handler = handler
        self.resume_reading()

    def pause_reading(self) -> None:
        """Leave what arrives in the kernel, so that the peer has to wait."""
        if self._reading:
            self._reading = False
            self._reader.stop()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._reading and not self.closed:
            self._reading = True
            self._reader.start(self._readable)

    def read_now(self) -> None:
        """Read what has arrived and the loop has not said so yet; nothing while reading is paused."""
        if self._reading:
            self._readable()

    def _readable(self) -> None:
        try:
            data = self._source.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        except Exception:  # noqa: BLE001 -- it is logged
            # A TLS connection reads to the end of its handshake and into HTTP.
            try:
                log.exception("a connection failed before it had a handler; it is closed")
            finally:
                # Also when a handler of the log fails, or may not wait here.
                self.abort()
            return
        handler = self.handler
        if handler is None:
            return
        try:
            if data:
                handler.data_received(data)
            else:
                self.pause_reading()
                handler.eof_received()
        except Exception:  # noqa: BLE001 -- it is logged
            try:
                log.exception("a connection's handler failed; the connection is closed")
            finally:
                self.abort()

    def write(self, data: bytes) -> None:
        """Send now what the socket takes, and the rest as soon as it can."""
        if self.closed or self._end is not None:
            return
        if self._unsent is not None:
            self._unsent.append(data)
            self.unsent_bytes += len(data)
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.abort()
            return
        if sent < len(data):
            self._unsent = deque((memoryview(data)[sent:] if sent else data,))
            self.unsent_bytes = len(data) - sent
            self._await_writable()

    def write_soon(self, data: bytes) -> None:
        """Send at the end of this turn of the loop, joined with what else is written until then."""
        if self.closed or self._end is not None:
            return
        if self._unsent is None:
            self._unsent = deque()
            self._loop.run_callback(self._flush)
        self._unsent.append(data)
        self.unsent_bytes += len(data)

    def hold_back(self) -> None:
        """Have what is written in this turn of the loop leave at its end, joined, unless `flush` comes first."""
        if self._unsent is None and not self.closed and self._end is None:
            self._unsent = deque()
            self._loop.run_callback(self._flush)

    @property
    def blocked(self) -> bool:
        """Whether the socket has taken all that it can for now."""
        return self._writer is not None

    def flush(self) -> None:
        """Send now what `write_soon` or `hold_back` keeps."""
        if self._writer is None:
            self._flush()

    def _refilled(self, unsent: deque[bytes | memoryview]) -> bool:
        data = self.refill() if self.refill is not None else b""
        if data:
            unsent.append(data)
            self.unsent_bytes += len(data)
        return bool(data)

    def _await_writable(self) -> None:
        if self._writer is None:
            self._writer = self._loop.io(self._sock.fileno(), _WRITE)
            self._writer.start(self._flush)
            self._watch_sending()

    def _watch_sending(self) -> None:
        if self._sending is not None and self._writer is not None and not self.patient:
            self._sending.add(self)

    def taken(self) -> int:
        """Bytes that the peer has taken, from some moment on: the kernel may hold a lot for it."""
        held = 0
        with contextlib.suppress(OSError):
            (held,) = _INT.unpack(fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, _INT.pack(0)))
        return self._handed - held

    def _flush(self) -> None:
        unsent = self._unsent
        if self.closed or unsent is None:
            return
        try:
            while unsent or self._refilled(unsent):
                data = _joined(unsent)
                sent = self._sock.send(data)
                self.unsent_bytes -= sent
                self._handed += sent
                if sent < len(data):
                    unsent.appendleft(memoryview(data)[sent:])
                    break
        except (BlockingIOError, InterruptedError):
            unsent.appendleft(data)
        except OSError:
            self.abort()
            return
        if unsent:
            self._await_writable()
        else:
            self._unsent = None
            if self._writer is not None:
                self._writer.close()
                self._writer = None
                if self._sending is not None:
                    self._sending.discard(self)
            if self._end is not None:
                self._end()
        drained = self._drained
        if drained is not None and self.unsent_bytes <= self._drained_at:
            self._drained = None
            drained.set()

    def wait_drained(self, timeout: float | None = None) -> bool:
        """Let the calling greenlet wait while too much is unsent.

        Args:
            timeout: seconds that the peer may take nothing, for a `patient` connection; others are cut off anyway.

        Returns:
            Whether the connection can take more; False when it is closed, or no room came within `timeout` seconds.
        """
        while not self.closed and self.unsent_bytes > HIGH_WATER_BYTES:
            if not self._wait_until(LOW_WATER_BYTES, timeout):
                return False
        return not self.closed

    def _wait_until(self, unsent_bytes: int, timeout: float | None) -> bool:
        before = self.unsent_bytes
        drained = self._drained
        if drained is None:
            drained = self._drained = Event()
            self._drained_at = unsent_bytes
        else:
            # Another greenlet of the same request waits: both for the lower mark, and both look again.
            self._drained_at = min(self._drained_at, unsent_bytes)
        in_time = wait_for_client(drained.wait, timeout)
        return in_time or self.unsent_bytes < before

    def send_file(self, descriptor: int, offset: int, size: int) -> int:
        """Send part of a file, the kernel copying; the calling greenlet waits whenever the socket is full.

        Args:
            descriptor, offset, size: which part of which file.

        Returns:
            How many bytes the socket took: fewer than `size` when the file is shorter, or when the connection has
            ended.
        """
        left = size
        while left and not self.closed:
            if self._unsent is not None:
                self._wait_until(0, None)
                continue
            try:
                sent = os.sendfile(self._sock.fileno(), descriptor, offset, min(left, FILE_BYTES))
            except (BlockingIOError, InterruptedError):
                # Nothing of ours waits, but what others write has to wait behind the file, and we for the socket.
                self._unsent = deque()
                self._await_writable()
                continue
            except OSError:
                self.abort()
                break
            if not sent:
                break
            offset += sent
            left -= sent
            self._handed += sent
            # A reader as fast as we are would keep the others from running.
            gevent.sleep(0)
        return size - left

    def finish(self) -> None:
        """Send what is unsent, then end the sending half, so that the peer reads everything. Reading goes on."""
        if self._end is None:
            self._end = self._shut
            self._await_end()

    def close(self) -> None:
        """Send what is unsent, then close."""
        self._end = self.abort
        self._await_end()

    def _await_end(self) -> None:
        self.patient = False
        if self._unsent is None:
            assert self._end is not None
            self._end()
        else:
            self._watch_sending()

    def _shut(self) -> None:
        try:
            self._sock.shutdown(_socket.SHUT_WR)
        except OSError:
            self.abort()

    def reset(self) -> None:
        """Close now, and have the kernel drop what it holds for a peer that does not take it."""
        if not self.closed:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _NO_LINGERING)
            self._end_now()

    def let_go(self) -> None:
        """In a forked child: the connection is the parent's alone. Nothing is sent, ended, or told to the handler."""
        self.closed = True
        self._end = None
        self._unsent = self.refill = self.handler = None
        self._sock.close()

    def abort(self) -> None:
        """Close now; what is unsent is lost."""
        if not self.closed:
            # A child that the application forked may hold the descriptor, too: the peer is to see the end.
            with contextlib.suppress(OSError):
                self._sock.shutdown(_socket.SHUT_RDWR)
            self._end_now()

    def _end_now(self) -> None:
        self.closed = True
        self._end = None
        # The watchers leave before the descriptor: its number may come back with the next accept.
        self._reader.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._sending is not None:
            self._sending.discard(self)
        self._unsent = self.refill = None
        self.unsent_bytes = 0
        self._sock.close()
        self._left(self)
        if self._drained is not None:
            self._drained.set()
        handler, self.handler = self.handler, None
        if handler is not None:
            try:
                handler.connection_lost()
            except Exception:
                log.exception("a connection's handler failed while the connection ended")


def sending_watch(seconds: float | None, rate: float | None) -> LeastRate[Connection]:
    """What cuts off the connections of a process whose peers take too little.

    Args:
        seconds: longest time in which a peer may take nothing; None for no limit.
        rate: least bytes a second after a grace; None for none.
    """

    def expired(connection: Connection) -> None:
        connection.reset()
        log.info("%s is cut off: it takes too little (--send-timeout, --send-min-rate)", connection.client)

    return LeastRate(seconds, rate, Connection.taken, expired)


def _joined(unsent: deque[bytes | memoryview]) -> bytes | memoryview:
    first = unsent.popleft()
    if not unsent or len(first) >= JOIN_BYTES:
        return first
    pieces, size = [first], len(first)
    while unsent and size < JOIN_BYTES:
        piece = unsent.popleft()
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)

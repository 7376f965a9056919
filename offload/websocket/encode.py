"""Sending frames to one client: at once while it reads, through a mailbox with a limit while it does not."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Protocol

from offload.transport.connection import JOIN_BYTES, Connection
from offload.websocket.counters import WebSocketCounters
from offload.websocket.send_queue import Mailbox, Overflow

log = logging.getLogger("offload.websocket")


class Sending(Protocol):
    """What all senders of a process share.

    Attributes:
        send_buffer: unsent bytes that one client may hold.
        overflow: what happens past it.
        counters: where that is counted.
    """

    send_buffer: int
    overflow: Overflow
    counters: WebSocketCounters


class FrameSender(ABC):
    """The sending half of a WebSocket; its owner is a subclass, so that an idle connection has one object less."""

    __slots__ = ("_mailbox", "connection")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        # Only while the socket takes nothing more.
        self._mailbox: Mailbox | None = None

    @property
    def peer(self) -> object:
        """The client's address."""
        return self.connection.peer

    @abstractmethod
    def overflowed(self) -> None:
        """The client holds too many unsent bytes and is to be closed."""

    def send(self, frames: bytes, more: bool, shared: Sending) -> None:
        """Send data frames.

        Args:
            frames: whole frames.
            more: whether others follow in the same turn of the loop; they are joined into one system call.
            shared: the limits.
        """
        if self._mailbox is not None:
            self._post(frames, self._mailbox, shared)
            return
        connection = self.connection
        if more:
            connection.write_soon(frames)
            if connection.unsent_bytes > JOIN_BYTES:
                self._relieve()
        else:
            connection.write(frames)
            if connection.unsent_bytes:
                self._relieve()

    def send_control(self, frame: bytes) -> None:
        """Send a ping or a pong, ahead of data that waits."""
        if self._mailbox is not None:
            self._mailbox.put_control(frame)
        else:
            self.connection.write(frame)
            if self.connection.unsent_bytes:
                self._relieve()

    def send_last(self, frame: bytes) -> None:
        """Send a close frame, behind all data."""
        if self._mailbox is not None:
            self._mailbox.put(frame)
        else:
            self.connection.write(frame)

    def finish_sending(self) -> None:
        """End the sending half, behind all that waits."""
        connection = self.connection
        if self._mailbox is not None:
            waiting = self._mailbox.take_all()
            self.drop_mailbox()
            connection.write(waiting)
        connection.finish()

    def drop_mailbox(self) -> None:
        """What waits is not sent."""
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None:
            self.connection.refill = None
            if mailbox.dropped:
                log.warning("%d messages for %s were dropped: it reads too slowly", mailbox.dropped, self.peer)

    def _relieve(self) -> None:
        """Send what is held back; when the socket takes no more, the frames after it wait in a mailbox."""
        connection = self.connection
        connection.flush()
        if connection.blocked:
            self._mailbox = Mailbox()
            connection.refill = self._refill

    def _refill(self) -> bytes:
        mailbox = self._mailbox
        if mailbox is None:
            return b""
        data = mailbox.take()
        if mailbox.is_empty:
            self.drop_mailbox()
        return data

    def _post(self, frames: bytes, mailbox: Mailbox, shared: Sending) -> None:
        """Let frames wait, or do as the overflow policy says."""
        room = shared.send_buffer - self.connection.unsent_bytes - len(frames)
        if mailbox.size <= room:
            mailbox.put(frames)
            return
        counters = shared.counters
        if shared.overflow is Overflow.CLOSE:
            counters.too_slow += 1
            self.drop_mailbox()
            self.overflowed()
            return
        if not mailbox.dropped:
            log.warning("messages for %s are dropped from now on: it reads too slowly (--ws-overflow)", self.peer)
        if shared.overflow is Overflow.DROP_OLDEST:
            counters.dropped_oldest += mailbox.drop_oldest(room)
            if room >= 0:
                mailbox.put(frames)
                return
        mailbox.dropped += 1
        counters.dropped_newest += 1

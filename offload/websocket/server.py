"""What all WebSockets of one kind share in a process: limits, timers, counters, and the way out."""

from __future__ import annotations

from dataclasses import dataclass

from offload.http.origin_check import Origins
from offload.protocol.websocket.connection import GOING_AWAY
from offload.transport.timeouts import Timeouts
from offload.websocket.connection import FrameHandler
from offload.websocket.connection_limit import Admission
from offload.websocket.counters import WebSocketCounters
from offload.websocket.drain import Drain
from offload.websocket.keepalive import Liveness, Members
from offload.websocket.send_queue import Overflow


@dataclass(frozen=True)
class WebSocketLimits:
    """What one client may do.

    Attributes:
        max_size: bytes of the largest message taken.
        queue: messages that may wait for the consumers of one connection before it stops reading.
        send_buffer: unsent bytes that one client may hold.
        overflow: what happens past them.
        rate: messages a second from one connection; None for no limit.
        handshakes: undecided at a time; None for no limit.
        per_address: WebSockets of one client address; None for no limit.
        ping_interval, ping_timeout: seconds; None for no pings.
        close_timeout: seconds that a closing handshake may take, on either side.
        compresses: whether messages are compressed for clients that offer it.
    """

    max_size: int
    queue: int
    send_buffer: int
    overflow: Overflow = Overflow.CLOSE
    rate: float | None = None
    handshakes: int | None = None
    per_address: int | None = None
    ping_interval: float | None = None
    ping_timeout: float | None = None
    close_timeout: float = 10.0
    compresses: bool = True


class FrameGateway:
    """What all WebSockets of one kind share.

    Args:
        origins: decides which pages may connect.
        limits: what one client may do.
        counters: of all that happens to WebSockets.
        admission: counts those of each client.

    Attributes:
        members: those that have not ended.
        closing: those whose closing handshake is under way.
        stopping: whether further handshakes are refused.
    """

    def __init__(
        self, origins: Origins, limits: WebSocketLimits, counters: WebSocketCounters, admission: Admission
    ) -> None:
        self.origins = origins
        self.max_size = limits.max_size
        self.queue = limits.queue
        self.send_buffer = limits.send_buffer
        self.overflow = limits.overflow
        self.rate = limits.rate
        self.compresses = limits.compresses
        self.counters = counters
        self.admission = admission
        self.stopping = False
        self.members: Members[FrameHandler] = Members()
        self.liveness = Liveness(self.members, limits.ping_interval, limits.ping_timeout)
        self.closing: Timeouts[FrameHandler] = Timeouts(limits.close_timeout, FrameHandler.close_expired)
        self._drain: Drain | None = None

    def stop(self, code: int = GOING_AWAY, seconds: float = 0.0) -> None:
        """Refuse further handshakes, and close every WebSocket.

        Args:
            code: what to close with.
            seconds: over which the closes are spread, so that not all clients come back at once.
        """
        self.stopping = True
        self._drain = Drain(self.members, code, seconds)

    def cut_off(self) -> int:
        """End those that are left without waiting for their clients; how many there were."""
        left = list(self.members)
        for member in left:
            member.cut_off()
        return len(left)

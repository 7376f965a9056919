"""What all WebSockets of one kind share in a process: limits, timers, counters, and the way out."""

from __future__ import annotations

from offload.http.origin_check import Origins
from offload.protocol.websocket.connection import GOING_AWAY
from offload.settings import WebSocketOptions
from offload.transport.timeouts import Timeouts
from offload.websocket.connection import FrameHandler
from offload.websocket.connection_limit import Admission
from offload.websocket.counters import WebSocketCounters
from offload.websocket.drain import Drain
from offload.websocket.keepalive import Liveness, Members
from offload.websocket.send_queue import Overflow


class FrameGateway:
    """What all WebSockets of one kind share.

    Args:
        origins: decides which pages may connect.
        options: what one client may do.
        counters: of all that happens to WebSockets.
        admission: counts those of each client.

    Attributes:
        members: those that have not ended.
        closing: those whose closing handshake is under way.
        stopping: whether further handshakes are refused.
    """

    def __init__(
        self, origins: Origins, options: WebSocketOptions, counters: WebSocketCounters, admission: Admission
    ) -> None:
        self.origins = origins
        self.max_size = options.max_size
        self.queue = options.queue
        self.send_buffer = options.send_buffer
        self.overflow = Overflow(options.overflow)
        self.rate = options.rate
        self.compresses = options.compression == "auto"
        self.counters = counters
        self.admission = admission
        self.stopping = False
        self.members: Members[FrameHandler] = Members()
        self.liveness = Liveness(self.members, options.ping_interval, options.ping_timeout)
        self.closing: Timeouts[FrameHandler] = Timeouts(options.close_timeout, FrameHandler.close_expired)
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

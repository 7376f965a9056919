"""Who may open a WebSocket: bounds on undecided handshakes, and on the WebSockets of one client address."""

from __future__ import annotations

from offload.protocol.http.request import HttpError
from offload.settings import WebSocketOptions
from offload.websocket.counters import WebSocketCounters


class Admission:
    """Counts the WebSockets of a process.

    Args:
        options: how many handshakes may be undecided at a time, and how many WebSockets one client may have.
        counters: where refusals are counted.
    """

    def __init__(self, options: WebSocketOptions, counters: WebSocketCounters) -> None:
        self._handshakes = options.handshakes
        self._per_address = options.limit_per_ip
        self._counters = counters
        self.undecided = 0
        self._counts: dict[str, int] = {}
        # Kept only where there is a limit: an idle connection has no entry of its own otherwise.
        self._addresses: dict[object, str] = {}

    def check(self, address: str) -> None:
        """Refuse one too many.

        Args:
            address: the client's; "" where it has none, as behind a Unix socket.

        Raises:
            HttpError: 503 while too many handshakes are undecided, 429 when the address has too many WebSockets.
        """
        if self._handshakes is not None and self.undecided >= self._handshakes:
            self._counters.too_many_handshakes += 1
            raise HttpError(503, f"{self._handshakes} WebSocket handshakes are undecided (--ws-handshakes)")
        if self._per_address is not None and self._counts.get(address, 0) >= self._per_address:
            self._counters.too_many_per_address += 1
            raise HttpError(429, f"{self._per_address} WebSockets are open from this address (--ws-limit-per-ip)")

    def enter(self, member: object, address: str) -> None:
        """A handshake begins."""
        self.undecided += 1
        if self._per_address is not None and address:
            self._counts[address] = self._counts.get(address, 0) + 1
            self._addresses[member] = address

    def decided(self) -> None:
        """A handshake was accepted or refused, or its client left."""
        self.undecided -= 1

    def leave(self, member: object) -> None:
        """A WebSocket, or the connection of a refused handshake, is gone."""
        address = self._addresses.pop(member, None)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

"""Who may open a WebSocket: the pages, the number of undecided handshakes, and of each client's WebSockets.

Browsers send a page's origin with the handshake, and enforce nothing themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from offload.observe.observer import Observer
from offload.origins import is_own, parse_allowed, parse_origin
from offload.protocol.http.request import HttpError
from offload.protocol.websocket.handshake import VERSION

log = logging.getLogger("offload.websocket")

Policy = Callable[[str, str], bool]


class Origins:
    """Decides over a handshake's Origin.

    Args:
        allowed: entries that `parse_allowed` takes, or ``*`` for all; empty allows the host that the handshake itself
            was sent to.
        policy: asked instead where the application has one.
    """

    def __init__(self, allowed: Sequence[str], policy: Policy | None = None) -> None:
        self._allows_all = "*" in allowed
        self._allowed = [parse_allowed(entry) for entry in allowed if entry != "*"]
        self._policy = None if allowed else policy

    def __call__(self, origin: str, host: str, secure: bool) -> bool:
        """Whether a page may connect.

        Args:
            origin: the handshake's ``Origin`` field.
            host: its ``Host`` field.
            secure: whether it came over TLS.
        """
        if self._policy is not None:
            try:
                return self._policy(origin, host)
            except Exception:
                log.exception("the application's check of Origins failed; the handshake is refused")
                return False
        if self._allows_all:
            return True
        page = parse_origin(origin)
        if page is None:
            return False
        if self._allowed:
            return any(entry.allows(page) for entry in self._allowed)
        return is_own(page, host, secure)


class ConnectionLimit:
    """Counts the WebSockets of a process.

    Args:
        handshakes: how many may be undecided at a time; None for no limit.
        per_address: how many one client address may have; None for no limit.
        observer: told of refusals.

    Attributes:
        undecided: handshakes that are.
    """

    def __init__(self, handshakes: int | None, per_address: int | None, observer: Observer) -> None:
        self._handshakes = handshakes
        self._per_address = per_address
        self._observer = observer
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
            self._observer.websocket("too_many_handshakes")
            raise HttpError(503, f"{self._handshakes} WebSocket handshakes are undecided (--ws-handshakes)")
        if self._per_address is not None and self._counts.get(address, 0) >= self._per_address:
            self._observer.websocket("too_many_per_address")
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


def refusal_fields(error: HttpError) -> bytes:
    """The header lines that belong to a refused handshake's answer."""
    if error.status != 426:
        return b""
    return b"Sec-WebSocket-Version: " + VERSION + b"\r\nUpgrade: websocket\r\n"

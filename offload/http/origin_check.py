"""Which pages may open WebSockets: browsers send a page's origin with the handshake, and enforce nothing themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from offload.origins import is_own, parse_allowed, parse_origin

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

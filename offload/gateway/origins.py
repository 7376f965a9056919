"""Which pages may open WebSockets: browsers send a page's origin with the handshake, and enforce nothing themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

log = logging.getLogger("offload.websocket")

Policy = Callable[[str, str], bool]


class Origins:
    """Decides over a handshake's Origin.

    Args:
        allowed: host names (``example.com``, ``.example.com`` for it and all below), ``host:port``, whole origins
            (``https://example.com``), or ``*``; empty allows the host that the handshake itself was sent to.
        policy: asked instead where the application has one.
    """

    def __init__(self, allowed: Sequence[str], policy: Policy | None = None) -> None:
        self._allowed = [entry.lower() for entry in allowed]
        self._policy = policy

    def __call__(self, origin: str, host: str) -> bool:
        if self._policy is not None and not self._allowed:
            try:
                return self._policy(origin, host)
            except Exception:
                log.exception("the application's check of Origins failed; the handshake is refused")
                return False
        if "*" in self._allowed:
            return True
        origin = origin.lower()
        try:
            parts = urlsplit(origin)
            name, port = parts.hostname, parts.port or _default_port(parts.scheme)
        except ValueError:
            return False
        if not name:
            return False
        if not self._allowed:
            return _with_port(parts.netloc, parts.scheme) == _with_port(host.lower(), parts.scheme)
        return any(_matches(entry, origin, name, port) for entry in self._allowed)


def _with_port(netloc: str, scheme: str) -> str:
    name, colon, port = netloc.rpartition(":")
    if colon and port.isdigit():
        return f"{name}:{port}"
    return f"{netloc}:{_default_port(scheme)}"


def _default_port(scheme: str) -> int:
    return 443 if scheme in ("https", "wss") else 80


def _matches(entry: str, origin: str, name: str, port: int) -> bool:
    if "://" in entry:
        return origin == entry
    if entry.startswith("."):
        return name == entry[1:] or name.endswith(entry)
    if ":" in name:
        name = f"[{name}]"
    return entry in (name, f"{name}:{port}")

"""Requests over TLS for a host that the certificate of their connection is not for (RFC 9110, 7.4 and 15.5.20).

Their client has mixed up its connections, or hides behind one host what it wants from another.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Set

from offload.protocol.http.request import HttpError, Request

_MAX_NAME = 253
"""No host's name is longer."""


class HostCheck:
    """Refuses the misdirected requests of one connection.

    Args:
        hosts: those that the certificate is for, lower case: names, names that begin with ``*.``, addresses.
        asked_for: the name with which the client asked for a certificate, or None. Whatever certificate there was
            for it, a request for that host is where it was meant to be.
    """

    __slots__ = ("_hosts", "_passed", "asked_for")

    def __init__(self, hosts: Set[str], asked_for: str | None) -> None:
        self._hosts = hosts
        self.asked_for = asked_for.lower().rstrip(".") if asked_for is not None else None
        # Most clients ask for one host again and again.
        self._passed: bytes | None = None

    def __call__(self, request: Request) -> None:
        """Let the request pass; one that names no host has none that could be wrong.

        Raises:
            HttpError: 421.
        """
        authority = request.host
        if not authority or authority == self._passed:
            return
        host = _host_of(authority)
        if host != self.asked_for and host not in self._hosts and f"*.{host.partition('.')[2]}" not in self._hosts:
            # Such a host has no character that could do harm in a log or a plain text.
            raise HttpError(421, f"the certificate of this connection is not for {host[:_MAX_NAME]}")
        self._passed = authority


def _host_of(authority: bytes) -> str:
    """The host of ``host:port``, as certificates write it."""
    text = authority.decode("latin-1").lower()
    if text.startswith("["):
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(text[1 : text.find("]")]))
    return text.partition(":")[0].rstrip(".")

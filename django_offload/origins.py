"""Which pages may open WebSockets: those of the hosts in ``ALLOWED_HOSTS``.

A browser lets any page open a WebSocket anywhere, with the cookies of the site that it opens it to; only the Origin
tells them apart.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import split_domain_port, validate_host

# What HttpRequest.get_host allows while DEBUG is on and ALLOWED_HOSTS is empty.
_LOCAL_HOSTS = [".localhost", "127.0.0.1", "[::1]"]


def origin_is_allowed(origin: str, host: str = "") -> bool:
    """Whether a page of this Origin may open WebSockets.

    Args:
        origin: the handshake's ``Origin`` field. ``null`` (a sandboxed frame, a file) names no host: not allowed.
        host: the handshake's ``Host`` field; what counts are the settings.
    """
    allowed = settings.ALLOWED_HOSTS
    if settings.DEBUG and not allowed:
        allowed = _LOCAL_HOSTS
    try:
        domain, _ = split_domain_port(urlsplit(origin).netloc)
    except ValueError:
        return False
    return bool(domain) and validate_host(domain, allowed)

"""Tells the service manager how the server is: ready, or stopping.

The protocol of systemd's services of type "notify", which others speak as well: datagrams of NAME=value lines to the
Unix socket that NOTIFY_SOCKET names. Follows sd_notify(3).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

log = logging.getLogger("offload.server")

_PATIENCE_SECONDS = 5.0


class ServiceManager:
    """Whoever started the server, and may want to know.

    Args:
        environ: names its socket, a path or (with an @) an abstract name; or does not.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._place = environ.get("NOTIFY_SOCKET")

    def tell(self, **news: str) -> None:
        """Send one datagram: ``READY="1"``, ``STOPPING="1"``, ``STATUS`` with words for people."""
        if not self._place:
            return
        address = "\0" + self._place[1:] if self._place.startswith("@") else self._place
        text = "\n".join(f"{name}={value}" for name, value in news.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                # It may be busy, but one that does not read must not hold up the server for long.
                sock.settimeout(_PATIENCE_SECONDS)
                # Paths and arguments may have bytes that are no UTF-8.
                sock.sendto(text.encode("utf-8", "surrogateescape"), address)
        except OSError as error:
            what = error.strerror or error
            log.warning(
                "the service manager at NOTIFY_SOCKET=%s was not told %s: %s", self._place, next(iter(news)), what
            )

"""Tells the service manager how the server is: ready, or stopping.

The protocol of systemd's services of type "notify", which others speak as well: datagrams of NAME=value lines to the
Unix socket that NOTIFY_SOCKET names. Follows sd_notify(3). A manager that does not read holds nobody up: what it has no
room for waits here until it has, or until the server ends.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Mapping

log = logging.getLogger("offload.server")


class ServiceManager:
    """Whoever started the server, and may want to know.

    Args:
        environ: names its socket, a path or (with an @) an abstract name; or does not.
        selector: its owner calls the data of each key that is ready, so that this hears when there is room again.
    """

    def __init__(self, environ: Mapping[str, str], selector: selectors.BaseSelector) -> None:
        self._place = environ.get("NOTIFY_SOCKET")
        self._selector = selector
        self._waiting: deque[tuple[str, bytes]] = deque()
        # Open, and registered, as long as something waits.
        self._sock: socket.socket | None = None
        wanted = environ.get("WATCHDOG_USEC", "")
        is_meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # Half of the time, as sd_watchdog_enabled(3) advises.
        self._sign_seconds = int(wanted) / 2e6 if wanted.isdigit() else 0.0
        self._next_sign = time.monotonic() if self._place and self._sign_seconds and is_meant else None

    def tell(self, **news: str) -> None:
        """Send one datagram: ``READY="1"``, ``STOPPING="1"``, ``STATUS`` with words for people. Does not wait."""
        if not self._place:
            return
        text = "\n".join(f"{name}={value}" for name, value in news.items())
        # Paths and arguments may have bytes that are no UTF-8.
        self._waiting.append((next(iter(news)), text.encode("utf-8", "surrogateescape")))
        if self._sock is None:
            self._begin(self._place)

    @property
    def next_sign(self) -> float | None:
        """When the next sign of life is due, by the monotonic clock; None where nobody wants any."""
        return self._next_sign

    def keep_alive(self) -> None:
        """Send the sign of life that a manager with a watchdog waits for, when it is due."""
        if self._next_sign is not None and self._next_sign <= time.monotonic():
            self._next_sign = time.monotonic() + self._sign_seconds
            self.tell(WATCHDOG="1")

    def end(self) -> None:
        """Nothing more is told; what waits is given up, with a word in the log."""
        if self._sock is not None:
            if not self._send(self._sock):
                self._give_up("it does not read")
            self._part()

    def leave(self) -> None:
        """In a forked child: what waits is its parent's to tell, and what is registered the parent's to change."""
        self._waiting.clear()
        if self._sock is not None:
            self._sock.close()

    def _begin(self, place: str) -> None:
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:
            # There are no descriptors left; the server itself may go on.
            self._give_up(error.strerror or str(error))
            return
        sock.setblocking(False)
        try:
            # The kernel tells when there is room only to who is connected.
            sock.connect("\0" + place[1:] if place.startswith("@") else place)
        except OSError as error:
            self._give_up(error.strerror or str(error))
        if self._send(sock):
            sock.close()
        else:
            log.warning(
                "the service manager at NOTIFY_SOCKET=%s does not read; it is told %s as soon as it does",
                place, self._waiting[0][0],
            )  # fmt: skip
            self._sock = sock
            self._selector.register(sock, selectors.EVENT_WRITE, self._has_room)

    def _has_room(self) -> None:
        if self._sock is not None and self._send(self._sock):
            self._part()

    def _send(self, sock: socket.socket) -> bool:
        """Returns whether nothing waits any more."""
        while self._waiting:
            try:
                sock.send(self._waiting[0][1])
            except BlockingIOError:
                return False
            except OSError as error:
                self._give_up(error.strerror or str(error))
            else:
                self._waiting.popleft()
        return True

    def _part(self) -> None:
        assert self._sock is not None
        self._selector.unregister(self._sock)
        self._sock.close()
        self._sock = None

    def _give_up(self, why: str) -> None:
        names = " and ".join(name for name, _ in self._waiting)
        self._waiting.clear()
        log.warning("the service manager at NOTIFY_SOCKET=%s was not told %s: %s", self._place, names, why)

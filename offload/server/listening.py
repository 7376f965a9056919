"""The sockets that a server listens on: of ``--bind``, of systemd, or of the supervisor before this one."""

from __future__ import annotations

import os
import socket

from offload.server import sockets
from offload.server.handover import Handover
from offload.settings import ProcessOptions, Settings


class Listening:
    """Made by the supervisor, inherited by all processes.

    Args:
        handover: what the supervisor before this one has left.

    Attributes:
        by_address: the sockets.
    """

    def __init__(self, handover: Handover) -> None:
        self.by_address: dict[str, socket.socket] = {}
        self._handover = handover
        self._places: list[sockets.Place] = []

    @property
    def sockets(self) -> list[socket.socket]:
        """All of them."""
        return list(self.by_address.values())

    @staticmethod
    def addresses(settings: Settings) -> tuple[str, ...]:
        """Where to listen."""
        passed = sockets.passed(os.environ)
        return passed if passed and "bind" not in settings.sources else (*passed, *settings.listen.bind)

    def open(self, address: str, settings: Settings) -> None:
        """Listen there.

        Raises:
            ConfigurationError: the address cannot be bound.
        """
        options: ProcessOptions = settings.process
        sock, place = self._handover.take(address), None
        if sock is None:
            sock, place = sockets.listen(address, settings.listen, options.umask)
        elif address.startswith("unix:"):
            place = sockets.Place(sock.getsockname())
        self.by_address[address] = sock
        if place is not None:
            place.give_to(options.user, options.group)
            self._places.append(place)

    def named(self, settings: Settings) -> str:
        """Where it listens, as a phrase for people; empty where nowhere."""
        scheme = "https" if settings.tls.certfile else "http"
        places = ", ".join(sockets.name_of(sock, scheme) for sock in self.by_address.values())
        return f" at {places}" if places else ""

    def close(self) -> None:
        """Close this process's copies."""
        for sock in self.by_address.values():
            sock.close()

    def unlink(self) -> None:
        """Take away the files of Unix sockets."""
        for place in self._places:
            place.unlink()

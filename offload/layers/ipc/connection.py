"""A process's connection to its hub: who may be at the other end, the greeting, and the frames of each read."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
from typing import Any

from offload.exceptions import ConfigurationError, LayerUnavailable, LayerUnreachable
from offload.layers.addresses import hub_path
from offload.layers.backend import Owner
from offload.layers.ipc import wire
from offload.layers.link.outage import Outage

logger = logging.getLogger("offload.layer")

_READ_BYTES = 256 * 1024


class Hopeless(Outage):
    """Waiting would not help: those who ask are told so at once."""

    def __init__(self, error: LayerUnavailable | ConfigurationError) -> None:
        super().__init__(str(error))
        self._error = error

    def error(self, *, sent: bool) -> Any:
        return type(self._error)(*self._error.args)


class HubServer:
    """Makes connections to the hub.

    Args:
        path: the hub's socket.
        patience: seconds to wait for a connection.
        owner: whom the greeting tells of.
        is_foreign: see ``offload.layers.addresses.hub_path.check_directory``.
        is_expected: whether to wait for a hub that is not there; one that was there is waited for anyway.
    """

    layer = "ipc"
    timeout = math.inf  # a hub that hangs keeps its connection, since no other would serve
    keepalive = b""

    def __init__(self, path: str, patience: float, owner: Owner, *, is_foreign: bool, is_expected: bool) -> None:
        self.path = path
        self.patience = patience
        self.is_foreign = is_foreign
        self.is_expected = is_expected
        self.shown = f"its hub at {path}"
        self.seen = 0.0
        settings = owner.settings
        told = {
            "expiry": settings.expiry,
            "capacity": settings.capacity,
            "channel_capacity": list(settings.channel_capacity.items()),
            "group_expiry": settings.group_expiry,
        }
        self.hello = wire.pack(wire.HELLO, 1, wire.VERSION, settings.prefix, owner.process, told)

    def wire(self, duty: str) -> HubConnection:
        return HubConnection(self)

    def unreachable(self, reason: str, *, is_there: bool) -> Outage:
        text = f"layer 'ipc' cannot reach {self.shown}: {reason}"
        remedy = "start 'offload APP' in this directory, or name the socket with ipc:///path"
        if is_there or self.is_expected or self.seen:
            return Outage(text, remedy)
        return Hopeless(LayerUnreachable(f"{text}; {remedy}"))

    def loss(self) -> Outage:
        return Outage(f"layer 'ipc' lost {self.shown}", was_open=True)


class HubConnection:
    """The `Wire` of a link."""

    def __init__(self, server: HubServer) -> None:
        self._server = server
        self._socket: socket.socket | None = None
        self._frames = wire.FrameReader()

    def open(self) -> None:
        try:
            self._open()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else "connection refused"
            raise self._server.unreachable(reason, is_there=False) from None
        except (ConfigurationError, LayerUnavailable) as error:
            raise Hopeless(error) from None
        except (OSError, wire.BrokenFrame) as error:
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
            raise self._server.unreachable(reason, is_there=True) from None

    def _open(self) -> None:
        server = self._server
        hub_path.check_directory(server.path, foreign=server.is_foreign)
        hub_path.check_socket(server.path)
        # Known from the first, so that a forked child, or `close`, finds it.
        self._socket = connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(server.patience)
        connected.connect(server.path)
        _, user = hub_path.peer(connected)
        if user not in (None, os.geteuid()) and not server.is_foreign:
            raise LayerUnreachable(
                f"layer 'ipc' refuses {server.shown}: it belongs to user {user}, not to {os.geteuid()}"
            )
        connected.sendall(server.hello)
        answers: list[list[Any]] = []
        while not answers:
            data = connected.recv(_READ_BYTES)
            if not data:
                raise OSError("the hub ended the connection")
            answers = self._frames.feed(data)
        try:
            wire.value_of(answers[0])
        except LayerUnavailable as error:
            raise LayerUnreachable(f"layer 'ipc' was refused by {server.shown}, which {error}") from None
        connected.settimeout(None)

    def send(self, data: bytes) -> None:
        assert self._socket is not None
        try:
            self._socket.sendall(data)
        except OSError:
            raise self._server.loss() from None

    def replies(self, most: int) -> list[Any]:
        assert self._socket is not None
        try:
            if data := self._socket.recv(_READ_BYTES):
                return self._frames.feed(data)
        except OSError:
            pass  # as its end
        except wire.BrokenFrame as error:
            logger.error("layer 'ipc': the hub at %s sent what cannot be read: %s", self._server.path, error)
        raise self._server.loss()

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Also for who reads or sends at this moment, and for a forked child that still has it.
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def abandon(self) -> None:
        if self._socket is not None:
            self._socket.close()

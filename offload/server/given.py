"""What a forked process is given, and what it has imported, or finds imported. It knows no gevent."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from offload.server.control import Control
from offload.server.hooks import Hooks, Worker
from offload.server.load import LoadSlot
from offload.settings import Settings


@dataclass
class Loaded:
    """An application, imported, with its layers and routing declared; nothing is connected.

    Attributes:
        application: its WSGI callable; None in a worker.
        aliases: the layers that are in use from the start.
    """

    application: Callable[..., Any] | None
    aliases: list[str]


@dataclass
class Given:
    """What a forked process is given.

    Attributes:
        settings: the server's.
        listening: bound sockets, shared with the other server processes; not used by workers.
        control: to the supervisor.
        load: this process's counter.
        hooks: those of the configuration file.
        worker: this process, as they see it.
        is_spare: whether it serves only when the supervisor tells it to.
        loaded: the application, where it is imported already.
    """

    settings: Settings
    listening: list[socket.socket]
    control: Control
    load: LoadSlot
    hooks: Hooks
    worker: Worker
    is_spare: bool = False
    loaded: Loaded | None = None

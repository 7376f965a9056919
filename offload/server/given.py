"""What a forked process is given, and what it has imported, or finds imported. It knows no gevent."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from offload.server.control import Control
from offload.server.hooks import Hooks, Worker
from offload.server.load import LoadSlot
from offload.settings import Settings


class HubRequests:
    """What a process asks its supervisor for, by whichever control it has."""

    def __init__(self, control: Control) -> None:
        self.control = control

    def __call__(self, path: str) -> None:
        self.control.tell(hub=path)


@dataclass
class Loaded:
    """An application, imported, with its layers and routing declared; nothing is connected.

    Attributes:
        module: the application's.
        application: its WSGI callable; None in a worker.
        aliases: the layers that are in use from the start.
        hubs: asked for the hub of an IPC layer; tells the supervisor by the control of the process that it is in.
    """

    module: ModuleType
    application: Callable[..., Any] | None
    aliases: list[str]
    hubs: HubRequests


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
        is_spare: whether it serves only when the supervisor says so.
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

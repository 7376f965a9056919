"""The first words of a process to its hub: who may be behind the socket, and what each tells the other.

Knows the wire's greeting and nothing that follows it.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from offload.exceptions import LayerUnavailable, LayerUnreachable
from offload.layers.ipc import path as ipc_path
from offload.layers.ipc import wire

_READ_BYTES = 64 * 1024


def check_place(path: str, foreign: bool) -> None:
    """Raises ``FileNotFoundError`` when there is no socket (yet), ``ConfigurationError`` for what is no private one."""
    ipc_path.check_directory(path, foreign=foreign)
    ipc_path.check_socket(path)


def greet(connected: socket.socket, path: str, foreign: bool, hello: tuple[Any, ...]) -> wire.FrameReader:
    """Connect and say hello.

    Args:
        connected: a new socket with a timeout.
        foreign: see ``offload.layers.ipc.path.check_directory``.
        hello: prefix, process token and settings.

    Returns:
        What is to read on.

    Raises:
        LayerUnreachable: the hub is another user's, or it refuses; trying again would not help.
        OSError, BrokenFrame: it cannot be reached, or ends the connection.
    """
    connected.connect(path)
    user = ipc_path.peer_user(connected)
    if user not in (None, os.geteuid()) and not foreign:
        raise LayerUnreachable(
            f"layer 'ipc' refuses its hub at {path}: it belongs to user {user}, not to {os.geteuid()}"
        )
    connected.sendall(wire.pack(wire.HELLO, 1, wire.VERSION, *hello))
    frames = wire.FrameReader()
    answers: list[list[Any]] = []
    while not answers:
        data = connected.recv(_READ_BYTES)
        if not data:
            raise OSError("the hub ended the connection")
        answers = frames.feed(data)
    try:
        wire.value_of(answers[0])
    except LayerUnavailable as error:
        raise LayerUnreachable(f"layer 'ipc' was refused by its hub at {path}, which {error}") from None
    return frames

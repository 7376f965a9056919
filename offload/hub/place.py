"""A hub's place: the lock file that one hub at a time holds, and the socket that it serves."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket

from offload.layers.ipc import path as ipc_path

_PAUSE = 1.0


def lock(path: str, *, wait: bool) -> int | None:
    """Take the lock that the path's hub holds; None when another has it and we do not wait."""
    name = f"{path}.lock"
    while True:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been removed and made again while we waited: that lock would be worth nothing.
            with contextlib.suppress(FileNotFoundError):
                if identity(os.stat(name)) == identity(os.fstat(lock)):
                    return lock
        except BlockingIOError:
            os.close(lock)
            return None
        os.close(lock)


def connected(path: str) -> socket.socket | None:
    """A connection to the hub that serves a path, or one that it has no room for now; None where none serves."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.setblocking(False)
    try:
        ipc_path.check_socket(path)
        with contextlib.suppress(BlockingIOError):
            client.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        client.close()
        return None
    except BaseException:
        client.close()
        raise
    return client


async def end_of(client: socket.socket) -> None:
    """Wait until a hub has ended its connection, or for a moment where there is none."""
    try:
        await asyncio.get_running_loop().sock_recv(client, 1)
    except OSError:
        await asyncio.sleep(_PAUSE)


def listen(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        ipc_path.check_socket(path)
        os.unlink(path)  # left by a hub that was killed: nobody answers there
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    return listener


def identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino

"""A hub's place: the lock file that one hub at a time holds, and the socket that it serves.

The lock file has the roster: which processes are subscribed. It outlives a hub that is killed, so the next one knows
whom to wait for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterable

from offload.layers.addresses import hub_path


def lock(path: str) -> int | None:
    """Take the lock that the path's hub holds; None when another has it."""
    name = f"{path}.lock"
    while True:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been removed and made again in between: that lock would be worth nothing.
            with contextlib.suppress(FileNotFoundError):
                if identity(os.stat(name)) == identity(os.fstat(lock)):
                    return lock
        except BlockingIOError:
            os.close(lock)
            return None
        os.close(lock)


def write_roster(lock: int, processes: Iterable[tuple[str, str, int]]) -> None:
    """
    Args:
        lock: the lock file's descriptor.
        processes: the prefix, token and id of each.
    """
    data = json.dumps(list(processes)).encode()
    os.pwrite(lock, data, 0)
    os.ftruncate(lock, len(data))


def read_roster(lock: int) -> dict[str, set[str]]:
    """The tokens of the processes that were there with the hub before, and live; by prefix."""
    found: dict[str, set[str]] = {}
    try:
        processes = json.loads(os.pread(lock, os.fstat(lock).st_size, 0))
    except ValueError:
        return found  # empty, or its hub was killed while it wrote
    for prefix, token, pid in processes:
        if _lives(pid):
            found.setdefault(prefix, set()).add(token)
    return found


def _lives(pid: int) -> bool:
    if pid == 0:
        return True  # one that cannot be seen from here, as of another container
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def is_served(path: str) -> bool:
    """Whether a hub takes connections at a path, or has no room for one now."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            hub_path.check_socket(path)
            with contextlib.suppress(BlockingIOError):
                client.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def listen(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        hub_path.check_socket(path)
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

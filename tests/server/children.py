"""What tests of the supervisor share: servers of a project, requests under way, and processes that are to end."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path

from tests.serving import DEADLINE, ROOT, Server

HANGING_IMPORT = """
import os
from gevent.monkey import get_original

with open("importing", "w") as fifo:
    fifo.write(str(os.getpid()))
# An import that never comes back to the loop.
get_original("time", "sleep")(600)
"""
"""A module; it tells the process's number to who opens the fifo "importing"."""


def start(project: Path, *arguments: str, workers: int = 1) -> Server:
    """A server of the project's module "shop", with a layer of its own."""
    env = {"PYTHONPATH": f"{project}:{ROOT}"}
    return Server("shop", "--layer", "memory://", *arguments, workers=workers, cwd=project, env=env)


def begin_waiting(sock: socket.socket) -> None:
    """Have the application wait, in a request to /wait, for one byte more."""
    sock.sendall(b"POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    # The application has begun to read.
    assert sock.recv(100).startswith(b"HTTP/1.1 100")


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than one that nobody has reaped."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_gone(pid: int) -> None:
    """Wait for the end of a process that may be another's child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([pidfd], [], [], DEADLINE)
        assert ready, f"process {pid} still runs"
    finally:
        os.close(pidfd)

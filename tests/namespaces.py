"""Machines for tests: network namespaces, each with a cable of its own to a hub in the middle.

Nothing of it is in the host's own network, and nothing is left of it. It takes root and iproute2.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

MIDDLE = "192.0.2.1"
"""The address of the namespace in the middle; of the range that documentation may use."""

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()

T = TypeVar("T")


def require_namespaces() -> None:
    """Without root and iproute2 the test is skipped, or fails where CI=true promises both."""
    remedy = None
    if shutil.which("ip") is None:
        remedy = "needs ip; run: apt-get install iproute2"
    elif os.geteuid() != 0:
        remedy = "needs root for network namespaces; run the tests as root"
    else:
        # Root of a container may be without the right.
        probe = f"offload-{os.getpid()}-probe"
        done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
        if done.returncode:
            remedy = f"needs the right to make network namespaces: {done.stderr.strip()}"
        else:
            _ip("netns", "delete", probe)
    if remedy is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(remedy)
        pytest.skip(remedy)


@contextlib.contextmanager
def machines(number: int) -> Iterator[tuple[str, list[str]]]:
    """Namespaces that reach the one in the middle, at `MIDDLE`, and not each other.

    Yields:
        The names of the middle and of the others.
    """
    require_namespaces()
    start = f"offload-{os.getpid()}-{next(_numbers)}"
    with contextlib.ExitStack() as stack:
        middle = stack.enter_context(_namespace(f"{start}-middle"))
        names = []
        for place in range(1, number + 1):
            name = stack.enter_context(_namespace(f"{start}-{place}"))
            # Both ends are made inside, and vanish with the namespaces.
            _ip(
                "-n",
                name,
                "link",
                "add",
                "name",
                "cable",
                "type",
                "veth",
                "peer",
                "name",
                f"down{place}",
                "netns",
                middle,
            )
            _ip("-n", name, "addr", "add", f"192.0.2.{1 + place}", "peer", MIDDLE, "dev", "cable")
            _ip("-n", middle, "addr", "add", MIDDLE, "peer", f"192.0.2.{1 + place}", "dev", f"down{place}")
            _ip("-n", name, "link", "set", "cable", "up")
            _ip("-n", middle, "link", "set", f"down{place}", "up")
            names.append(name)
        yield middle, names


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[str]:
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        _ip("netns", "delete", name)


def connect_inside(name: str, address: tuple[str, int], timeout: float) -> socket.socket:
    """A connection from inside a namespace, to be used from anywhere."""
    return run_inside(name, lambda: socket.create_connection(address, timeout))


def run_inside(name: str, function: Callable[[], T]) -> T:
    """Call something in a thread that is inside a namespace."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with open(f"/run/netns/{name}") as handle:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(handle.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns failed")
            done.append(function())
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"

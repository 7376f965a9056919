"""What a server process and its supervisor say to each other: JSON lines over a socket pair.

The pair is also each side's sign of life: when one ends, the other reads the end of file.
"""

from __future__ import annotations

import json
import socket

# Bound before gevent patches it: threads of the system's tell, too, which know no greenlets.
from threading import Lock
from typing import Any

from offload.exceptions import ConfigurationError

Note = dict[str, Any]

BOOT_FAILED = 3
"""Exit status of a process that could not begin its work, and of its server then (gunicorn's number)."""


class Control:
    """One end of the pair.

    Args:
        sock: non-blocking on the reading side.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""
        self._lock = Lock()

    def tell(self, **note: Any) -> bool:
        """Send one note.

        Returns:
            Whether it was sent: not to a side that has ended, nor to one that has long stopped reading.
        """
        try:
            with self._lock:
                self.sock.sendall(json.dumps(note).encode() + b"\n")
        except OSError:
            # Also where this end was closed, because the other was: a process may live on without it.
            return False
        return True

    def hear(self) -> tuple[list[Note], bool]:
        """The notes that have arrived, and whether the other side is still there."""
        try:
            data = self.sock.recv(65536)
        except (BlockingIOError, InterruptedError):
            return [], True
        except ConnectionResetError:
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines], bool(data)


def pair() -> tuple[Control, Control]:
    """The supervisor's end and the child's end."""
    mine, theirs = socket.socketpair()
    mine.setblocking(False)
    return Control(mine), Control(theirs)


class BootError(ConfigurationError):
    """A server process could not begin to serve."""

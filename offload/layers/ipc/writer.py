"""The writing half of a process's connection to its hub: what anybody says goes out in order, and nobody waits for it.

What the socket does not take at once is kept, and a thread is started to write the rest. Knows frames as bytes only.
"""

from __future__ import annotations

import socket
import threading
from _thread import RLock

MAX_UNSENT_BYTES = 32 * 1024 * 1024

_WRITE_BYTES = 256 * 1024
_NEVER_WAIT = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)


class Writer:
    """Writes to one connection after the other.

    Args:
        lock: the link's; whoever calls `open`, `write` or `close` holds it. Nothing under it may wait.
    """

    def __init__(self, lock: RLock) -> None:
        self._lock = lock
        # Two objects of one socket, for gevent's sake: one that waits, to write the rest, and one that never does.
        self._waiting: socket.socket | None = None
        self._direct: socket.socket | None = None
        self._unsent = bytearray()
        self._writing_rest = False

    @property
    def unsent_bytes(self) -> int:
        return len(self._unsent)

    def open(self, connected: socket.socket) -> None:
        self._unsent.clear()
        self._direct = connected.dup()
        self._direct.setblocking(False)
        connected.settimeout(None)  # last: the blocking mode of a plain socket is its duplicate's as well
        self._waiting = connected

    def close(self) -> None:
        """Give back the duplicate; the connection itself is the link's."""
        if self._direct is not None:
            self._direct.close()
        self._waiting = self._direct = None
        self._unsent.clear()

    def write(self, frame: bytes) -> None:
        sent = 0
        if not self._unsent and self._direct is not None:
            try:
                sent = self._direct.send(frame, _NEVER_WAIT)
            except BlockingIOError:
                pass
            except OSError:
                return  # the reader meets the end of the connection, and tells everybody
        if sent < len(frame):
            self._unsent += frame[sent:]

    def write_rest(self) -> None:
        """Have a thread write what the socket did not take. Without the lock: starting a thread waits a little."""
        if not self._unsent:
            return
        with self._lock:
            if self._writing_rest or not self._unsent or self._waiting is None:
                return
            self._writing_rest = True
        try:
            threading.Thread(target=self._run, name="offload-ipc-writer", daemon=True).start()
        except BaseException:
            self._writing_rest = False
            raise

    def _run(self) -> None:
        while True:
            with self._lock:
                connected = self._waiting
                if not self._unsent or connected is None:
                    self._writing_rest = False
                    return
                chunk = bytes(self._unsent[:_WRITE_BYTES])
            try:
                sent = connected.send(chunk)
            except OSError:
                sent = 0
            with self._lock:
                if connected is self._waiting and sent:
                    del self._unsent[:sent]
                elif connected is self._waiting:
                    self._writing_rest = False
                    return

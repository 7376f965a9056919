"""Clients that keep a server busy, and remember every request that was not answered."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter

from tests.serving import DEADLINE

PARTING_SECONDS = 0.5
"""A client that has left a connection idle for so long takes into account that the server has closed it."""


class Load:
    """Asks without a pause, within a ``with`` block: half of the clients keep their connections, half open others.

    Args:
        port: of the loopback.
        clients: how many ask at a time.
        path: what they ask for; a 200 is expected.

    Attributes:
        answers: how often each body came.
        failures: what went wrong, in words.
    """

    def __init__(self, port: int, clients: int = 12, path: str = "/") -> None:
        self.answers: Counter[bytes] = Counter()
        self.failures: list[str] = []
        self._port = port
        self._path = path
        self._changed = threading.Condition()
        self._stopped = False
        self._threads = [threading.Thread(target=self._ask, args=(number % 2 == 0,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let each client have its last answer."""
        self._stopped = True
        for thread in self._threads:
            thread.join(DEADLINE)

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return sum(self.answers.values())

    def wait_for_more(self, count: int = 200) -> None:
        """Wait for so many further answers."""
        with self._changed:
            goal = self.answered + count
            assert self._changed.wait_for(lambda: self.answered >= goal, DEADLINE), self.failures

    def _ask(self, keeps: bool) -> None:
        closing = "" if keeps else "Connection: close\r\n"
        request = f"GET {self._path} HTTP/1.1\r\nHost: a\r\n{closing}\r\n".encode()
        sock: socket.socket | None = None
        idle_since = 0.0
        while not self._stopped:
            began = time.monotonic()
            was_idle = sock is not None and began - idle_since > PARTING_SECONDS
            try:
                if sock is None:
                    sock = socket.create_connection(("127.0.0.1", self._port), DEADLINE)
                sock.sendall(request)
                head, body = _answer(sock)
            except OSError as error:
                if sock is not None:
                    sock.close()
                    sock = None
                if not was_idle:
                    self.failures.append(f"{'kept' if keeps else 'new'} connection: {error!r}")
                continue
            idle_since = time.monotonic()
            if not head.startswith(b"HTTP/1.1 200 "):
                self.failures.append(f"{head[:100]!r}")
            with self._changed:
                self.answers[body] += 1
                self._changed.notify_all()
            if b"\r\nconnection: close" in head.lower():
                sock.close()
                sock = None
        if sock is not None:
            sock.close()


def _answer(sock: socket.socket) -> tuple[bytes, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(sock, received)
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    assert length is not None, head
    while len(body) < int(length[1]):
        body += _more(sock, received)
    return head, body


def _more(sock: socket.socket, received: bytes) -> bytes:
    piece = sock.recv(65536)
    if not piece:
        raise ConnectionResetError("cut off" if received else "closed without an answer")
    return piece

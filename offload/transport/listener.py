"""A listener: accepts connections on the loop, a few at a time, and leaves some to its neighbours.

Server processes share one listening socket, and whichever wakes first accepts. A process that holds more connections
than the mean of all waits a moment before it accepts, so that a less busy one comes first.
"""

from __future__ import annotations

import _socket
import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from offload.observe.log_lines import RepeatedLines

if TYPE_CHECKING:
    from gevent._types import _Loop

from offload.observe.log_lines import SafeLogger

log = SafeLogger("offload.server")

ACCEPTS_PER_TURN = 16
FULL_SECONDS = 0.05
"""How often a process that is full looks whether it has room again."""
HANDICAP_SECONDS = 0.002
"""How long a process above the mean leaves a new connection to the others."""
EXHAUSTED_SECONDS = 0.5
"""Pause after the process or the system ran out of descriptors or memory."""

_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Listener:
    """Accepts from one listening socket.

    Args:
        loop: gevent's loop.
        sock: bound, listening and non-blocking; it stays the caller's.
        accepted: called with each connected, non-blocking socket and its peer's address; it must not raise.
        is_above_mean: whether this process holds more connections than its fair share.
        is_full: whether it may not take another one.
    """

    def __init__(
        self,
        loop: _Loop,
        sock: _socket.socket,
        accepted: Callable[[_socket.socket, Any], None],
        is_above_mean: Callable[[], bool],
        is_full: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._sock = sock
        # Told to each accepted socket, so that Python need not ask the kernel; as numbers, since it makes an
        # enumeration of them at each look.
        self._kind = int(sock.family), int(sock.type), sock.proto
        self._accepted = accepted
        self._is_above_mean = is_above_mean
        self._is_full = is_full
        self._watcher = loop.io(sock.fileno(), 1)
        self._timer = loop.timer(0, ref=False)
        self._exhausted = RepeatedLines(log, "pauses of accepting", partial(loop.timer, ref=False), lines=1)
        self._open = False

    def start(self) -> None:
        """Begin to accept."""
        self._open = True
        self._watcher.start(self._acceptable)

    def stop(self) -> None:
        """Accept nothing more; what waits in the backlog is left to others."""
        self._open = False
        self._watcher.stop()
        self._timer.stop()

    def _acceptable(self) -> None:
        if self._is_above_mean():
            self._pause(HANDICAP_SECONDS)
        else:
            self._accept()

    def _pause(self, seconds: float) -> None:
        self._watcher.stop()
        self._timer.close()
        self._timer = self._loop.timer(seconds, ref=False)
        self._timer.start(self._resume)

    def _resume(self) -> None:
        if self._open:
            # First, since accepting may find a reason to pause again.
            self._watcher.start(self._acceptable)
            self._accept()

    def _accept(self) -> None:
        listening = self._sock
        for _ in range(ACCEPTS_PER_TURN):
            if self._is_full():
                self._pause(FULL_SECONDS)
                return
            try:
                descriptor, peer = listening._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._exhausted.write(
                        logging.ERROR, str(error), "accepting pauses for %s s: %s", EXHAUSTED_SECONDS, error
                    )  # fmt: skip
                    self._pause(EXHAUSTED_SECONDS)
                else:
                    # The peer's network failed before it was accepted; the next one has nothing to do with it.
                    log.debug("a connection failed before it was accepted: %s", error)
                return
            sock = _socket.socket(*self._kind, fileno=descriptor)
            sock.setblocking(False)
            self._accepted(sock, peer)
            if self._is_above_mean():
                return

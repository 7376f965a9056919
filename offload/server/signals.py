"""The supervisor's signals: a handler writes down what was asked, and the loop that is woken does it."""

from __future__ import annotations

import logging
import os
import selectors
import signal
from collections.abc import Mapping

from offload.server import logs

log = logging.getLogger("offload.server")

_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_IGNORED: Mapping[int, str] = {
    signal.SIGUSR2: "offload starts no second supervisor beside itself; SIGHUP takes new code, a restart all else",
    signal.SIGTTIN: "the number of processes stays what --workers says; a restart changes it",
    signal.SIGTTOU: "the number of processes stays what --workers says; a restart changes it",
    signal.SIGWINCH: "the processes do not end without their supervisor; SIGTERM ends both",
}
"""What they do to gunicorn, offload does not do."""
_FROM_TERMINALS = frozenset((signal.SIGWINCH,))
"""Sent whenever a window changes its size, and then no news."""
_STOPPED_BY_TERMINALS = frozenset((signal.SIGTTIN, signal.SIGTTOU))
"""Sent to a job in the background that uses its terminal. The use is begun again after a handler, and so for ever."""
HANDLED = (*_STOP, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1, *_IGNORED)


class Signals:
    """What the supervisor has been told.

    Attributes:
        stop: how it is to stop: SIGQUIT for at once.
        hung_up: whether a reload is due.
        logs_moved: whether the logs are to be begun anew.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.hung_up = False
        self.logs_moved = False
        self._ignored: list[int] = []

    def catch(self, selector: selectors.BaseSelector) -> None:
        """From now on they are written down, and wake the selector."""
        self._wake_reader, self._wake_writer = os.pipe()
        for descriptor in (self._wake_reader, self._wake_writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        on_terminal = any(os.isatty(stream) for stream in (0, 1, 2))
        for number in HANDLED:
            if number in _STOPPED_BY_TERMINALS and on_terminal:
                continue
            signal.signal(number, self._signalled)
        selector.register(self._wake_reader, selectors.EVENT_READ, lambda: os.read(self._wake_reader, 4096))

    def _signalled(self, number: int, frame: object) -> None:
        if number in _STOP:
            # The second signal means it: nothing is waited for.
            quick = self.stop is not None or number == signal.SIGQUIT
            self.stop = signal.SIGQUIT if quick else number
        elif number == signal.SIGHUP:
            self.hung_up = True
        elif number == signal.SIGUSR1:
            self.logs_moved = True
        elif number in _IGNORED:
            self._ignored.append(number)

    def tell_ignored(self) -> None:
        """Have a line in the log for each that came and does nothing."""
        while self._ignored:
            number = self._ignored.pop(0)
            level = logging.DEBUG if number in _FROM_TERMINALS else logging.WARNING
            log.log(level, "%s does nothing: %s", signal.Signals(number).name, _IGNORED[number])

    def leave(self) -> None:
        """In a forked child: they are the parent's no longer."""
        signal.set_wakeup_fd(-1)
        for number in (*_STOP, signal.SIGCHLD, *_IGNORED):
            signal.signal(number, signal.SIG_DFL)
        # Ctrl-C, or a terminal's end, reaches the whole foreground group; the supervisor is the one to act on it. Not
        # ignored, which programs that the application starts would inherit.
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _do_nothing)
            # Nor noticed by what waits in C.
            signal.siginterrupt(number, False)
        # It may come at any time, and would end a process that does nothing about it.
        signal.signal(signal.SIGUSR1, lambda *_: logs.reopen_later())
        os.close(self._wake_reader)
        os.close(self._wake_writer)


def _do_nothing(number: int, frame: object) -> None:
    """A signal's handler."""

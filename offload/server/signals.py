"""The supervisor's signals: a handler writes down what was asked, and the loop that is woken does it."""

from __future__ import annotations

import os
import selectors
import signal

from offload.server import logs

_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_STOPPED_BY_TERMINALS = frozenset((signal.SIGTTIN, signal.SIGTTOU))
"""Sent to a job in the background that uses its terminal. The use is begun again after a handler, and so for ever."""
_OTHERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH)
HANDLED = (*_STOP, signal.SIGCHLD, *_OTHERS)


class Signals:
    """What the supervisor has been told.

    Attributes:
        stop: how it is to stop: SIGQUIT for at once.
        others: further signals that came, and have not been seen to.
        on_terminal: whether the supervisor was started on a terminal.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.others: list[int] = []
        self.on_terminal = any(os.isatty(stream) for stream in (0, 1, 2))

    def catch(self, selector: selectors.BaseSelector) -> None:
        """From now on they are written down, and wake the selector."""
        self._wake_reader, self._wake_writer = os.pipe()
        for descriptor in (self._wake_reader, self._wake_writer):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        for number in HANDLED:
            if number in _STOPPED_BY_TERMINALS and self.on_terminal:
                continue
            signal.signal(number, self._signalled)
        selector.register(self._wake_reader, selectors.EVENT_READ, lambda: os.read(self._wake_reader, 4096))

    def _signalled(self, number: int, frame: object) -> None:
        if number in _STOP:
            # The second signal means it: the end comes at once.
            quick = self.stop is not None or number == signal.SIGQUIT
            self.stop = signal.SIGQUIT if quick else number
        elif number in _OTHERS:
            self.others.append(number)

    def leave(self) -> None:
        """In a forked child: they are the parent's no longer."""
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
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

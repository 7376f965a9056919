"""USR2: a new supervisor, of the program and the settings of now, beside this one, which retires when it is ready.

The new one is a child of the old one, gets its listening sockets, and so refuses nobody.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence

from offload.server import exit_handlers, system

VARIABLE = "OFFLOAD_HANDOVER"


class Handover:
    """What a supervisor got from the one before it.

    Args:
        environ: has a variable that tells, which is taken out.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        told = json.loads(environ.pop(VARIABLE, "null")) or {"supervisor": None, "sockets": {}}
        # After the end of the old one, its parent is another's.
        self.old: int | None = told["supervisor"]
        self._descriptors: Mapping[str, int] = told["sockets"]

    def take(self, address: str) -> socket.socket | None:
        """The old supervisor's socket for this address, if it had one."""
        descriptor = self._descriptors.get(address)
        if descriptor is None:
            return None
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        sock.set_inheritable(False)
        return sock

    def when_old_has_ended(self, selector: selectors.BaseSelector, act: Callable[[], None]) -> None:
        """Call it then; its owner calls the data of each key of the selector that is ready."""
        if self.old is None or not hasattr(os, "pidfd_open"):
            return
        end = os.pidfd_open(self.old)

        def ended() -> None:
            selector.unregister(end)
            os.close(end)
            act()

        selector.register(end, selectors.EVENT_READ, ended)

    def retire_old(self) -> None:
        """The new processes serve; nothing is left for the old ones to do but to finish."""
        if self.old is not None and os.getppid() == self.old:
            os.kill(self.old, signal.SIGTERM)
        self.old = None


def start_another(listening: Mapping[str, socket.socket], directory: str, handled: Sequence[int]) -> int:
    """Start the program anew, as it was started.

    Args:
        listening: sockets by their addresses.
        directory: where the command was given.
        handled: signals that this process handles, and the new program begins without.

    Returns:
        Its process id.

    Raises:
        OSError: it cannot be started.
    """
    system.flush_streams()
    pid = os.fork()
    if pid:
        return pid
    try:
        exit_handlers.forget()
        os.chdir(directory)
        sockets = {address: sock.fileno() for address, sock in listening.items()}
        for sock in listening.values():
            sock.set_inheritable(True)
        os.environ[VARIABLE] = json.dumps({"supervisor": os.getppid(), "sockets": sockets})
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvp(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    finally:
        # The program is not there any more; the old supervisor tells of it.
        os._exit(127)

"""A process that the supervisor has forked, and the fork itself."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from offload.server import exit_handlers, system
from offload.server.control import Control, pair
from offload.server.hooks import Worker
from offload.server.signals import HANDLED

log = logging.getLogger("offload.server")

_SLOW_BOOT_SECONDS = 10.0
"""A process that is not ready by then is told of, and again with doubling pauses."""


@dataclass
class Child:
    """A forked process: a server process, a worker, a template of these, or the hub of the IPC layer.

    Attributes:
        what: it is called in the log.
        slot: which of the ``--workers`` places it fills; None for a hub, a spare or a template.
        counter: its place in the shared load: while one process replaces another, both count.
        stands_by: whether it is ready to take a place of another, and has none.
        replaces: whose place it takes when it is ready.
        retired: whether it was told to leave for its replacement.
        kill_at: when that will have taken too long.
        give_up_at: when its boot will have taken too long.
        tell_at: when the log tells next that it is not ready.
        worker: as hooks see it.
        orders: the socket by which a template is told to fork; None for others.
    """

    pid: int
    what: str
    control: Control
    started: float
    slot: int | None = None
    counter: int | None = None
    hub_path: str | None = None
    replaces: Child | None = None
    stands_by: bool = False
    ready: bool = False
    retired: bool = False
    kill_at: float | None = None
    failure: str | None = None
    give_up_at: float | None = None
    tell_at: float | None = None
    worker: Worker | None = None
    orders: socket.socket | None = None

    @property
    def serves(self) -> bool:
        """Whether it takes connections: it has booted, and no other took its place."""
        return self.slot is not None and self.ready and not self.retired

    @property
    def is_spare(self) -> bool:
        """Whether it has no place yet."""
        return self.slot is None and self.worker is not None and not self.retired

    def expect(self, seconds: float | None) -> None:
        """It has so long to be ready; None for as long as it takes."""
        self.tell_at = self.started + _SLOW_BOOT_SECONDS
        self.give_up_at = None if seconds is None else self.started + seconds

    def has_booted(self) -> None:
        """Nothing is expected any more."""
        self.tell_at = self.give_up_at = None

    @property
    def boots(self) -> bool:
        """Whether it is on its way to serve."""
        return self.slot is not None and not self.ready and not self.retired


def fork(what: str, work: Callable[[Control], int], leave: Callable[[], None]) -> Child:
    """Fork a process.

    Args:
        what: it is called in the log.
        work: what it does; its exit status.
        leave: called in it first, to let go of what is the parent's.

    Returns:
        To the parent alone.

    Raises:
        OSError: there may be no more processes, memory or descriptors.
    """
    mine, theirs = pair()
    supervisor = os.getpid()
    system.flush_streams()
    # A signal between the fork and the child's own dispositions would be recorded there as the parent's.
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        mine.sock.close()
        theirs.sock.close()
        raise
    if pid == 0:

        def begin() -> int:
            leave()
            exit_handlers.forget()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            mine.sock.close()
            system.end_with_parent(supervisor)
            return work(theirs)

        run_and_end(begin)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    theirs.sock.close()
    return Child(pid, what, mine, time.monotonic())


def run_and_end(work: Callable[[], int]) -> NoReturn:
    """In a forked process: do its work, and end it with the exit status that this returns."""
    status = 1
    try:
        status = work()
    except BaseException as error:
        log.critical("a process failed: %r", error, exc_info=error)
    finally:
        # Not sys.exit: the parent's clean-up is not the child's to run.
        logging.shutdown()
        os._exit(status)

"""The children that live: they are forked, heard, signalled, killed when their time is over, and reaped.

What an end or a note of one means is not known here.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from offload.exceptions import ConfigurationError
from offload.server.child import Child, fork
from offload.server.control import BOOT_FAILED, Control, Note
from offload.server.system import become
from offload.settings import ProcessOptions

log = logging.getLogger("offload.server")


class Children:
    """All processes that the supervisor has forked, and not reaped.

    Args:
        selector: its owner calls the data of each key that is ready.
        leave: called in a fresh child, to let go of what is the supervisor's.
        heard: called with each note of a child.
    """

    def __init__(
        self, selector: selectors.BaseSelector, leave: Callable[[], None], heard: Callable[[Child, Note], None]
    ) -> None:
        self._selector = selector
        self._leave = leave
        self._heard = heard
        self._by_pid: dict[int, Child] = {}

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._by_pid.values()))

    def __len__(self) -> int:
        return len(self._by_pid)

    def __contains__(self, child: object) -> bool:
        return isinstance(child, Child) and self._by_pid.get(child.pid) is child

    def with_pid(self, pid: int) -> Child:
        """The child with this process id."""
        return self._by_pid[pid]

    def fork(self, what: str, options: ProcessOptions, work: Callable[[Control], int]) -> Child:
        """Fork one.

        Args:
            what: it is called in the log.
            options: name the user that it becomes.
            work: what it does; its exit status.

        Raises:
            OSError: there may be no more processes, memory or descriptors.
        """

        def begin(control: Control) -> int:
            try:
                become(options)
            except ConfigurationError as error:
                control.tell(failed=str(error))
                return BOOT_FAILED
            return work(control)

        return self.add(fork(what, begin, self._leave))

    def add(self, child: Child) -> Child:
        """Take on one that was forked."""
        self._by_pid[child.pid] = child
        self._selector.register(child.control.sock, selectors.EVENT_READ, partial(self._hear, child))
        return child

    def leave(self) -> None:
        """In a fresh child: the ends of the pairs are its parent's."""
        for child in self:
            child.control.sock.close()
            if child.orders is not None:
                child.orders.close()

    def _hear(self, child: Child) -> None:
        notes, alive = child.control.hear()
        for note in notes:
            self._heard(child, note)
        if not alive:
            self.part(child)

    def part(self, child: Child) -> None:
        """Close this end of a child's pair; the child reads it as its supervisor's end."""
        if child.control.sock.fileno() >= 0:
            self._selector.unregister(child.control.sock)
            child.control.sock.close()

    def reap(self) -> Iterator[tuple[int, Child | None, int]]:
        """Those that have ended.

        Returns:
            The process id, the child, and its exit status, negative for the signal that killed it. No child for a
            process that another has started.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._by_pid.get(pid)
            if child is not None:
                # Its last words may not have been read yet.
                if child.control.sock.fileno() >= 0:
                    self._hear(child)
                del self._by_pid[pid]
                self.part(child)
            yield pid, child, os.waitstatus_to_exitcode(status)

    @staticmethod
    def signal(children: Iterable[Child], number: int) -> None:
        """Send a signal."""
        for child in children:
            os.kill(child.pid, number)

    def retire(self, child: Child, seconds: float) -> None:
        """Have one leave, in so many seconds; its clients may come back to another."""
        child.retired = True
        child.kill_at = time.monotonic() + seconds
        if child.orders is not None and child.ready:
            # It has nothing to finish, and ends with these.
            child.orders.close()
        # A note is not read before it is ready.
        elif not child.ready or not child.control.tell(retire=True):
            self.signal([child], signal.SIGTERM)

    def end_at_once(self, children: Iterable[Child], number: int, is_hooked: bool, seconds: float) -> None:
        """Kill.

        Args:
            children: the processes.
            number: a signal at which their hook is called, before they end.
            is_hooked: whether there is such a hook.
            seconds: it may take.
        """
        if not is_hooked:
            number = signal.SIGKILL
        for child in children:
            self.signal([child], number)
            if is_hooked:
                child.kill_at = time.monotonic() + seconds

    def kill(self, overdue: Iterable[Child], seconds: float) -> None:
        """Kill those that run so long past their time."""
        for child in overdue:
            child.kill_at = None
            log.warning(
                "%s %d still runs %g s past its time (--kill-timeout); it is killed", child.what, child.pid, seconds
            )
            self.signal([child], signal.SIGKILL)

    def kill_overdue(self, seconds: float) -> None:
        """Kill those whose own time is over."""
        now = time.monotonic()
        self.kill([child for child in self if child.kill_at is not None and child.kill_at <= now], seconds)

    def look_at_boots(self, seconds: float | None) -> None:
        """Tell of processes that are slow to be ready, and kill those that replace others.

        Args:
            seconds: --boot-timeout.
        """
        now = time.monotonic()
        for child in self:
            if child.tell_at is not None and child.tell_at <= now:
                lasted = now - child.started
                child.tell_at = child.started + 2 * lasted
                log.warning("%s %d is not ready yet, after %.0f s", child.what, child.pid, lasted)
            if child.give_up_at is not None and child.give_up_at <= now:
                child.give_up_at = None
                if child.replaces is not None:
                    child.failure = f"was not ready after {seconds:g} s (--boot-timeout); it is killed"
                    self.signal([child], signal.SIGKILL)
                else:
                    log.error("%s %d was not ready after %g s (--boot-timeout)", child.what, child.pid, seconds)

    def moments(self) -> list[float]:
        """When something is due, by the monotonic clock."""
        moments = [moment for child in self for moment in (child.kill_at, child.give_up_at, child.tell_at)]
        return [moment for moment in moments if moment is not None]

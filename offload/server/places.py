"""The places of ``--workers``: which process serves in each of them, and the spares that wait for one."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from functools import partial

from offload.server.child import Child
from offload.server.children import Children
from offload.server.control import BootError
from offload.server.forking import Order, Source
from offload.server.heartbeat import Heartbeats
from offload.server.load import SharedLoad
from offload.server.release import Release
from offload.server.restarts import Restarts

log = logging.getLogger("offload.server")

_WAIT_FOR_CHANGE_SECONDS = 86400.0
"""A reload comes before that, or somebody has gone home."""


class Places:
    """Fills the places with processes.

    Args:
        children: the supervisor's.
        release: what processes are forked with.
        restarts: those that are due.
        source: where processes come from.
        load: their counters.
        what: such a process is called in the log.

    Attributes:
        count: how many there are to be.
        has_served: whether any process has been ready.
        is_complete: whether all places have been filled.
        is_changing: whether a reload is under way.
    """

    def __init__(
        self,
        children: Children,
        release: Release,
        restarts: Restarts,
        source: Source,
        load: SharedLoad,
        what: str,
    ) -> None:
        self.count = 0
        self.has_served = False
        self.is_complete = False
        self.is_changing = False
        self._children = children
        self._release = release
        self._restarts = restarts
        self._source = source
        self._load = load
        self._what = what
        self._heartbeats = Heartbeats()

    def named(self, count: int) -> str:
        """The word for so many processes."""
        several = f"{self._what}es" if self._what.endswith("s") else f"{self._what}s"
        return self._what if count == 1 else several

    @property
    def serving(self) -> int:
        """How many processes serve."""
        return sum(child.serves for child in self._children)

    # How many there are to be.

    def change_count(self, count: int, why: str = "") -> None:
        """Have so many; nothing changes before the first one is ready."""
        if not self.has_served:
            return
        if why:
            log.info("%d %s: %s", count, self.named(count), why)
        hooks = self._release.hooks
        old, self.count = self.count, count
        hooks.server.num_workers = count
        if count != old:
            hooks.call("nworkers_changed", hooks.server, count, old)
        self.fill()
        for child in self._children:
            if child.slot is not None and child.slot >= count and not child.retired:
                self._children.retire(child, self._release.settings.process.kill_seconds)

    def fill(self) -> None:
        """Start what is missing."""
        for slot in range(self.count):
            if not self._is_filled(slot):
                self.start(slot)

    def _is_filled(self, slot: int) -> bool:
        return any(child.slot == slot and not child.retired for child in self._children)

    def refill(self, slot: int) -> None:
        """Fill a place whose process has ended: by a spare, or by a new one."""
        if slot >= self.count or self._is_filled(slot):
            return
        spare = next((child for child in self._children if child.is_spare and child.stands_by), None)
        if spare is None or spare.counter is None or not spare.control.tell(serve=True):
            self.start(slot)
            return
        log.info("%s %d was a spare, and takes the place", self._what, spare.pid)
        spare.slot, spare.stands_by = slot, False
        self._load.join(spare.counter)
        self.fill_spares()

    def fill_spares(self) -> None:
        """Have as many as are wanted, of the code of those that serve."""
        if self.is_complete and not self.is_changing:
            have = sum(child.is_spare for child in self._children)
            for _ in range(have, self._release.settings.replace.spare):
                self.start(None)

    # One process.

    def start(self, slot: int | None) -> None:
        """Fork a process for a place, or for none: a spare. Where that cannot be, it is tried again.

        While the application is imported that they are forked with, there is none; then the places are filled.

        Raises:
            BootError: the first one cannot be forked.
        """
        if not self._source.is_ready:
            return
        try:
            self.fork(slot)
        except OSError as error:
            if not self.has_served:
                raise BootError(f"the {self._what} cannot be started: {error.strerror}") from error
            again = self.fill_spares if slot is None else partial(self.refill, slot)
            self._restarts.try_again(slot, self._what, error, again)

    def fork(self, slot: int | None, replaces: Child | None = None) -> None:
        """Fork a process.

        Args:
            slot: its place; None for a spare.
            replaces: leaves when the new one is ready.

        Raises:
            OSError: there may be no more processes, memory or descriptors.
        """
        hooks = self._release.hooks
        counter = self._load.take()
        if slot is None:
            self._load.put_aside(counter)
        worker = hooks.worker()
        hooks.call("pre_fork", hooks.server, worker)
        try:
            child = self._source.fork(Order(counter, worker, slot is None))
        except OSError:
            self._load.clear(counter)
            raise
        child.slot, child.counter, child.replaces, child.worker = slot, counter, replaces, worker
        worker.pid = child.pid
        hooks.server.WORKERS[child.pid] = worker
        child.expect(self._release.settings.replace.boot_timeout)

    def ready(self, child: Child) -> None:
        """It serves."""
        child.ready = True
        child.has_booted()
        if child.worker is not None:
            child.worker.booted = True
        log.info("%s %d is ready", self._what, child.pid)
        if not self.has_served:
            self.has_served = True
            self.change_count(self._release.settings.process.workers)

    def stands_by(self, child: Child) -> None:
        """It is ready, and a spare."""
        child.stands_by = True
        child.has_booted()
        log.info("spare %s %d is ready", self._what, child.pid)

    def count_out(self, child: Child) -> None:
        """It has ended, whatever comes next."""
        hooks = self._release.hooks
        if child.counter is not None:
            self._load.clear(child.counter)
        if child.worker is not None:
            child.worker.alive = False
            hooks.server.WORKERS.pop(child.pid, None)
            hooks.call("child_exit", hooks.server, child.worker)

    def ended(self, child: Child, how: str) -> None:
        """Have another in the place of one that has ended.

        Raises:
            BootError: it was the first one, and was never ready.
        """
        why = f": {child.failure}" if child.failure else ""
        lived = time.monotonic() - child.started
        if child.is_spare:
            log.error("spare %s %d %s%s", self._what, child.pid, how, why)
            self._restarts.add(self._restarts.pause_after("spare", lived, child.stands_by), self.fill_spares)
        elif not self.has_served:
            self.not_begun(child, how, partial(self.start, child.slot))
        elif any(other.replaces is child for other in self._children):
            log.error("%s %d %s; another is about to take its place", self._what, child.pid, how)
        elif child.slot is not None:
            log.error("%s %d %s%s; starting another", self._what, child.pid, how, why)
            pause = self._restarts.pause_after(child.slot, lived, child.ready)
            self._restarts.add(pause, partial(self.refill, child.slot))

    def not_begun(self, child: Child, how: str, restart: Callable[[], None]) -> None:
        """The first one has ended before it was ready; with --reload the next one starts when code changes.

        Raises:
            BootError: it ends the server.
        """
        if not self._release.settings.replace.reload:
            raise BootError(child.failure or f"the {child.what} {how} before it was ready")
        why = f": {child.failure}" if child.failure else ""
        log.error("%s %d %s%s; waiting for a change", child.what, child.pid, how, why)
        self._restarts.add(_WAIT_FOR_CHANGE_SECONDS, restart)

    # Loops that are stuck.

    def kill_stuck(self) -> None:
        """Never one that is busy with long requests: its loop goes on."""
        options = self._release.settings.replace
        beats = {
            child.pid: self._load.beats(child.counter)
            for child in self._children
            if child.counter is not None and child.serves
        }
        for pid in self._heartbeats.stuck(beats, options.timeout):
            log.critical(
                "%s %d: a task has held its loop for %g s (--timeout); it is killed", self._what, pid, options.timeout
            )
            self.end_at_once([self._children.with_pid(pid)], signal.SIGABRT, "worker_abort")

    def end_at_once(self, children: list[Child], number: int, hook: str) -> None:
        """Kill; where there is such a hook, it is called before the end."""
        is_hooked = self._release.hooks[hook] is not None
        self._children.end_at_once(children, number, is_hooked, self._release.settings.process.kill_timeout)

    def interrupt(self, children: list[Child]) -> None:
        """Have the hook of interrupts called in them, if there is one, as by a terminal's Ctrl-C."""
        if self._release.hooks["worker_int"] is not None:
            self._children.signal(children, signal.SIGINT)

    @property
    def next_look(self) -> float | None:
        """When to look for stuck ones, by the monotonic clock."""
        return self._heartbeats.next_look

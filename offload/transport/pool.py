"""The pool: reused greenlets that run requests and consumers.

A task never starts inside the callback that submits it: the loop starts all tasks of one turn together, so a read
callback is never entered again from below, and one wake-up serves any number of tasks.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from greenlet import getcurrent, greenlet

log = logging.getLogger("offload.server")

Task = tuple[Callable[[Any], None], Any]


class Pool:
    """At most `size` greenlets; a task that finds all of them busy waits its turn.

    Args:
        size: how many tasks may run side by side.

    Attributes:
        rested: called whenever a task has ended, none runs, and none waits.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._hub = gevent.get_hub()
        self._run_callback = self._hub.loop.run_callback
        self._ready: deque[Task] = deque()
        self._idle: list[greenlet] = []
        self._made = 0
        self._due = False
        # What the greenlet that is switched to has to do; anybody could switch to it, and with anything.
        self._handed: Task | None = None
        self.rested: Callable[[], None] | None = None

    @property
    def busy(self) -> int:
        """Tasks that are running."""
        return self._made - len(self._idle)

    @property
    def waiting(self) -> int:
        """Tasks that have not begun."""
        return len(self._ready)

    def submit(self, function: Callable[[Any], None], argument: Any) -> None:
        """Have ``function(argument)`` run in a greenlet of the pool. What it raises is logged."""
        self._ready.append((function, argument))
        if not self._due:
            self._due = True
            self._run_callback(self._start)

    def _start(self) -> None:
        # Runs in the hub. Only what is ready now: tasks that these submit wait for the next turn, so that reads,
        # timers and signals get theirs.
        self._due = False
        ready, idle = self._ready, self._idle
        for _ in range(len(ready)):
            if idle:
                worker = idle.pop()
            elif self._made < self.size:
                self._made += 1
                worker = greenlet(self._work, self._hub)
            else:
                return
            self._handed = ready.popleft()
            worker.switch()

    def _work(self) -> None:
        me = getcurrent()
        try:
            self._work_on(me)
        except BaseException as error:  # noqa: BLE001 -- see below
            # It had no task, so this was meant for an earlier one: a timeout that nobody cancelled, a late kill. Who
            # threw it may throw more, so a new greenlet takes its place. Not among the idle ones while it logs, which
            # could wait.
            self._made -= 1
            if me in self._idle:
                self._idle.remove(me)
            try:
                log.error(
                    "a greenlet of the pool was ended by what an earlier task left behind: %r", error, exc_info=error
                )
            finally:
                self._look()

    def _work_on(self, me: greenlet) -> None:
        wait = self._hub.switch
        while True:
            task, self._handed = self._handed, None
            while task is None:
                # Switched to by a stranger.
                wait()
                task, self._handed = self._handed, None
            function, argument = task
            try:
                function(argument)
            except BaseException as error:
                # Not even an application's SystemExit may end a greenlet that others' tasks wait for.
                log.error("a task of the pool failed: %r", error, exc_info=error)
            del function, argument, task
            # Context variables are the task's own, as if the greenlet were new.
            me.gr_context = None
            self._idle.append(me)
            if self._ready or self.rested is not None:
                self._look()
            wait()

    def _look(self) -> None:
        """See whether somebody waits for what has become free."""
        if self._ready:
            if not self._due:
                self._due = True
                self._run_callback(self._start)
        elif self.rested is not None and not self.busy:
            self.rested()

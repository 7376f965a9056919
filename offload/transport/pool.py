"""The pool: reused greenlets that run requests and consumers.

A task never starts inside the callback that submits it, so a read callback is never entered again from below. The loop
starts the tasks of a turn together, and polls between two turns: what tasks submit waits, so that reads, timers and
signals run next. A turn ends after some milliseconds, whatever waits.
"""

from __future__ import annotations

import weakref
from _thread import get_native_id
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar

import gevent
from greenlet import GreenletExit, getcurrent, greenlet

from offload.exceptions import TaskTimeout
from offload.observe.log_lines import SafeLogger

log = SafeLogger("offload.server")

_MOMENT = 1e-6
"""Over with the next poll."""
TURN_SECONDS = 0.005
"""After this long no further task of a turn begins."""

Task = tuple[Callable[[Any], None], Any]
T = TypeVar("T")


class _Worker(greenlet):
    """One of a pool's greenlets."""

    def __init__(self, pool: Pool, run: Callable[[], None], parent: greenlet) -> None:
        super().__init__(run, parent)
        self.pool = pool
        self.runs = False
        self.limit: gevent.Timeout | None = None
        self.timeouts: weakref.WeakSet[gevent.Timeout] | None = None

    def throw(self, *error: Any) -> Any:
        if self.runs:
            return super().throw(*error)
        log.warning("%r was thrown into a task that has ended, and is dropped", error[0])
        return None

    def kill(
        self,
        exception: type[BaseException] | BaseException = GreenletExit,
        block: bool = True,
        timeout: float | None = None,
    ) -> None:
        """End the task, as `gevent.Greenlet.kill` ends a greenlet; this one goes on to the next task.

        Args:
            exception: what is raised in the task.
            block, timeout: accepted; another greenlet's call does not wait for the end.
        """
        if self is getcurrent():
            raise exception
        gevent.get_hub().loop.run_callback(self.throw, exception)

    def begin_limit(self, seconds: float) -> None:
        """From now on the task has so much time."""
        late = TaskTimeout(f"it ran for more than {seconds:g} s (--request-timeout)")
        self.limit = gevent.Timeout.start_new(seconds, late)

    def lift_limit(self) -> None:
        """The task may take its time."""
        if self.limit is not None:
            self.limit.close()
            self.limit = None

    def end_times(self) -> None:
        """End what would interrupt the next task for the sake of the last one."""
        self.lift_limit()
        timeouts, self.timeouts = self.timeouts, None
        for timeout in list(timeouts or ()):
            if timeout.pending:
                log.warning("%r was not closed by the task that started it; it is closed now", timeout)
                timeout.close()


class Pool:
    """At most `size` tasks side by side, not counting those that wait for clients; the others wait in order.

    Args:
        size: how many tasks may run side by side.
        limit: seconds that a task may run, before `TaskTimeout` is raised in it; None for no limit.

    Attributes:
        ended: tasks that have ended.
        rested: called whenever a task has ended, none runs, and none waits.
    """

    def __init__(self, size: int, limit: float | None = None) -> None:
        self.size = size
        self.limit = limit
        self._hub = gevent.get_hub()
        self._loop = self._hub.loop
        self._ready: deque[Task] = deque()
        self._idle: list[_Worker] = []
        # Tasks that have begun: those that hold a place, and those that wait for a client.
        self.ended = 0
        self._running = 0
        self._away = 0
        # How many of the ready tasks belong to this turn, and until when they may begin.
        self._left = 0
        self._until = 0.0
        # Whether a turn is on its way; and how often the loop had polled when the last one began.
        self._due = False
        self._polls: int | None = None
        # libev runs a timer of no seconds after its next poll.
        self._after_poll = self._loop.timer(0.0, ref=False)
        # The greenlet that is switched to for a task; anybody could switch to it, and with anything.
        self._called: _Worker | None = None
        self.rested: Callable[[], None] | None = None

    @property
    def busy(self) -> int:
        """Tasks that have begun and not ended."""
        return self._running + self._away

    @property
    def greenlets(self) -> int:
        """Those of the tasks that have begun, and those that wait for a task."""
        return self.busy + len(self._idle)

    @property
    def waiting(self) -> int:
        """Tasks that have not begun."""
        return len(self._ready)

    @property
    def has_time(self) -> bool:
        """Whether a task may go on to work that could as well wait for the next turn."""
        return perf_counter() < self._until

    def submit(self, function: Callable[[Any], None], argument: Any) -> None:
        """Have ``function(argument)`` run in a greenlet of the pool. What it raises is logged."""
        self._ready.append((function, argument))
        if not self._due:
            self._due = True
            self._loop.run_callback(self._start)

    def let_go(self, end: Callable[[], None]) -> None:
        """In a forked child: no task but the one that forked runs any more.

        Args:
            end: called when that one has ended.
        """
        self._ready.clear()
        self._idle.clear()
        self._left = self._away = 0
        self._running = 1
        self.rested = end

    def _start(self) -> None:
        # Runs in the hub. gevent runs callbacks that callbacks add in the same pass, without a poll.
        polls = self._loop.iteration
        if polls == self._polls:
            self._after_poll.start(self._polled)
            return
        self._polls = polls
        self._due = False
        ready, idle = self._ready, self._idle
        self._left = len(ready)
        self._until = perf_counter() + TURN_SECONDS
        while self._left and self._running < self.size:
            self._running += 1
            worker = idle.pop() if idle else _Worker(self, self._work, self._hub)
            self._called = worker
            # It comes back when the turn is over, or when its task waits for something.
            worker.switch()
        self._left = 0
        self._look()

    def _polled(self) -> None:
        # libuv does not count its polls.
        self._polls = None
        # Behind the reads of the same poll, whose tasks are of the same turn.
        self._loop.run_callback(self._start)

    def _work(self) -> None:
        me = getcurrent()
        assert isinstance(me, _Worker)
        wait = self._hub.switch
        while True:
            self._called = None
            try:
                self._run_tasks(me)
            finally:
                self._running -= 1
            if len(self._idle) >= self.size:
                # Tasks that waited for clients had taken more greenlets than there are places.
                self._look()
                return
            self._idle.append(me)
            if self._ready or self.rested is not None:
                self._look()
            wait()
            while self._called is not me:
                # Switched to by a stranger.
                wait()

    def _run_tasks(self, me: _Worker) -> None:
        """Run tasks of this turn, as long as there is time; a switch to the hub for each would cost more than most."""
        ready = self._ready
        while self._left:
            self._left -= 1
            function, argument = ready.popleft()
            me.runs = True
            if self.limit is not None:
                me.begin_limit(self.limit)
            try:
                function(argument)
            except BaseException as error:
                # Not even an application's SystemExit may end a greenlet that others' tasks wait for.
                log.error("a task of the pool failed: %r", error, exc_info=error)
            del function, argument
            me.runs = False
            self.ended += 1
            # Context variables are the task's own, as if the greenlet were new.
            me.gr_context = None
            if me.limit is not None or me.timeouts is not None:
                me.end_times()
            if self._left and perf_counter() >= self._until:
                self._left = 0

    def wait_outside(self, wait: Callable[..., T], *arguments: Any) -> T:
        """See `wait_for_client`."""
        self._running -= 1
        self._away += 1
        self._look()
        try:
            return wait(*arguments)
        finally:
            # Without waiting for a place: who has one may wait for what this task holds.
            self._away -= 1
            self._running += 1

    def _look(self) -> None:
        """See whether somebody waits for what has become free."""
        if self._ready:
            if not self._due and self._running < self.size:
                self._due = True
                self._loop.run_callback(self._start)
        elif self.rested is not None and not self.busy:
            self.rested()


def wait_for_client(wait: Callable[..., T], *arguments: Any) -> T:
    """Call ``wait(*arguments)``, which blocks until a client sends or takes something.

    A task of a pool holds no place there meanwhile: a client decides how long it takes.
    """
    me = getcurrent()
    return me.pool.wait_outside(wait, *arguments) if isinstance(me, _Worker) else wait(*arguments)


def make_pause() -> Callable[[], None]:
    """A function that lets the loop poll and others run, for whoever does much at once. Where its caller may not wait,
    in the loop itself and in other threads, it does nothing."""
    hub, thread = gevent.get_hub(), get_native_id()

    def pause() -> None:
        if getcurrent() is not hub and get_native_id() == thread:
            gevent.sleep(_MOMENT)

    return pause


def begin_anew() -> None:
    """Have the rest of this task be one of its own, without the context variables and timeouts of what it did."""
    me = getcurrent()
    if isinstance(me, _Worker):
        me.pool.ended += 1
        me.gr_context = None
        me.end_times()
        if me.pool.limit is not None:
            me.begin_limit(me.pool.limit)


def take_time() -> None:
    """This task is no request, but a whole conversation: no limit of time applies to it."""
    me = getcurrent()
    if isinstance(me, _Worker):
        me.lift_limit()


def keep_timeouts_in_tasks() -> None:
    """From now on a `gevent.Timeout` that a task of a pool forgets ends with the task, and hits no later one."""
    start = gevent.Timeout.start

    def started(timeout: gevent.Timeout) -> None:
        start(timeout)
        me = getcurrent()
        if isinstance(me, _Worker):
            if me.timeouts is None:
                me.timeouts = weakref.WeakSet()
            me.timeouts.add(timeout)

    gevent.Timeout.start = started  # type: ignore[assignment, method-assign]

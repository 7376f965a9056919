"""The threads of a link: greenlets where gevent has patched this process, and each started when it is first needed.

The one place that asks whether gevent has patched.
"""

from __future__ import annotations

import _thread
import sys
import threading
import time
from _thread import RLock
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from offload.exceptions import LayerUnreachable

T = TypeVar("T")


def threads_are_greenlets() -> bool:
    """Whether gevent has patched this process's threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


def give_way() -> None:
    """Let the other greenlets run. Threads run anyway, and would pay for the call: a sleep of no
    time takes Linux a tenth of a millisecond."""
    if threads_are_greenlets():
        time.sleep(0)


def is_real_thread() -> bool:
    """Whether this is a real thread among greenlets: one that is not of the main thread's event loop."""
    return threads_are_greenlets() and not sys.modules["gevent"].get_hub().main_hub


def refuse_real_thread(layer: str) -> None:
    """A link is of use to the event loop of the main thread alone.

    Raises:
        LayerUnreachable: in a real thread among greenlets.
    """
    if is_real_thread():
        raise LayerUnreachable(
            f"layer {layer!r} cannot be used by a real thread of a process that gevent has patched; have a greenlet of"
            " the main thread do it"
        )


class HomeThread:
    """As `refuse_real_thread`, for whoever is asked often.

    Args:
        layer: its name.
    """

    def __init__(self, layer: str) -> None:
        self._layer = layer
        self._home = 0
        self._thread_of: Callable[[], int] | None = None
        """Tells in which thread of the system a greenlet runs."""
        if threads_are_greenlets():
            self._thread_of = sys.modules["gevent.monkey"].get_original("_thread", "get_ident")

    def check(self) -> None:
        if self._thread_of is not None and self._thread_of() != self._home:
            refuse_real_thread(self._layer)
            self._home = self._thread_of()


def start(run: Callable[[], None], name: str) -> None:
    """Start a thread, or a greenlet. Does not wait; but for real threads, until it runs.

    Raises:
        RuntimeError: the system allows no further thread.
    """
    if threads_are_greenlets():
        # Not `Thread.start`, which waits until it runs: an event loop may be calling.
        _thread.start_new_thread(run, ())
    else:
        threading.Thread(target=run, name=name, daemon=True).start()


class Gate(Protocol):
    """Whoever waits at it goes on when it is released; one for each release."""

    def acquire(self, blocking: bool = True, timeout: Any = ...) -> bool: ...

    def release(self) -> None: ...

    def locked(self) -> bool: ...


def closed_gate() -> Gate:
    """A gate to wait at, see `wait_at`. Many are made: a condition or an event costs several locks, and gevent's lock
    twice as much as its semaphore."""
    if threads_are_greenlets():
        semaphore: Gate = sys.modules["gevent.lock"].Semaphore(0)
        return semaphore
    lock = threading.Lock()
    lock.acquire()
    return lock


def wait_at(gate: Gate, timeout: float | None) -> bool:
    """Returns False when nobody has released it in so many seconds; None is no limit."""
    if timeout is None:
        return gate.acquire()
    return gate.acquire(True, min(max(timeout, 0.0), threading.TIMEOUT_MAX))


class Ticks:
    """Ends what greenlets wait for every so often: one timer, where a timeout of its own would cost a call more than
    most take.

    Args:
        seconds: from one tick to the next.
    """

    def __init__(self, seconds: float) -> None:
        gevent = sys.modules["gevent"]
        self._current: Callable[[], Any] = gevent.getcurrent
        self._waiting: set[Any] = set()
        self._timer = gevent.get_hub().loop.timer(seconds, seconds, ref=False)
        self._timer.start(self._tick)

    def call(self, act: Callable[[Any], T], argument: Any) -> T:
        """``act(argument)``. Raises ``TimeoutError`` at the next tick."""
        me = self._current()
        self._waiting.add(me)
        try:
            return act(argument)
        finally:
            self._waiting.discard(me)

    def _tick(self) -> None:
        for waiting in tuple(self._waiting):
            waiting.throw(TimeoutError())

    def stop(self) -> None:
        self._timer.close()


class Duty:
    """Work that one thread at a time does, and only while there is some.

    Whoever makes work calls `ensure` afterwards. A signal may raise in there, before or after the thread was started:
    several may be started then, and the first to run does the work.

    Args:
        work: does what there is to do, in the thread. It returns when `may_end` has said so.
        name: of the thread.
    """

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._work = work
        self._name = name
        self._lock = RLock()
        self._running: object = None

    @property
    def is_running(self) -> bool:
        return self._running is not None

    def ensure(self) -> None:
        """Have it done. Raises ``RuntimeError`` where the system allows no further thread."""
        if self._running is None:
            start(self._run, self._name)

    def may_end(self, has_work: Callable[[], bool]) -> bool:
        """Asked by `work`: whether it returns, since there is nothing to do. Whoever makes work from now on starts
        another thread."""
        with self._lock:
            if has_work():
                return False
            self._running = None
            return True

    def _run(self) -> None:
        mark = object()
        with self._lock:
            if self._running is not None:
                return
            self._running = mark
        try:
            self._work()
        finally:
            with self._lock:
                if self._running is mark:
                    self._running = None

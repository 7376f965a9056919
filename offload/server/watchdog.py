"""The watchdog of a process: tells the supervisor of a task that holds the loop, with the task's stack.

The loop beats: a timer counts in memory that the supervisor reads, which kills a process without a beat (--timeout). A
thread that gevent knows nothing of looks at the beats as well. It logs nothing itself, since the task that it tells of
may hold the locks of the log.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from gevent import monkey

from offload.server.control import Control
from offload.server.load import LoadSlot

if TYPE_CHECKING:
    from gevent._types import _Loop

_BEATS = 4
"""Beats in the time that a task may hold the loop."""
_MOST_FRAMES = 30

_start_thread: Callable[..., int] = monkey.get_original("_thread", "start_new_thread")
_get_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
_sleep: Callable[[float], None] = monkey.get_original("time", "sleep")
_now: Callable[[], float] = monkey.get_original("time", "monotonic")


class Watchdog:
    """Watches the loop of the thread that makes it.

    Args:
        loop: gevent's.
        control: to the supervisor.
        load: where the beats are counted.
        blocked_after: seconds that a task may hold the loop; None to tell of none.
        timeout: seconds without a beat after which the supervisor kills; None for never.

    Attributes:
        blocked: how often a task has held the loop for longer.
    """

    def __init__(
        self, loop: _Loop, control: Control, load: LoadSlot, blocked_after: float | None, timeout: float | None
    ) -> None:
        self.blocked = 0
        self._control = control
        self._load = load
        self._after = blocked_after
        self._interval = min(blocked_after or 1.0, timeout or 1.0) / _BEATS
        self._timer = loop.timer(self._interval, self._interval, ref=False)
        self._beaten = _now()

    def start(self) -> None:
        """Begin to beat, and to watch."""
        self._beat()
        self._timer.start(self._beat)
        if self._after is not None:
            _start_thread(self._watch, (_get_ident(), self._after))

    def _beat(self) -> None:
        self._beaten = _now()
        self._load.beat()

    def _watch(self, watched: int, after: float) -> None:
        patience = after
        while True:
            _sleep(self._interval)
            held = _now() - self._beaten - self._interval
            if held < after:
                patience = after
            elif held >= patience:
                self.blocked += patience == after
                patience = 2 * held
                self._tell(held, sys._current_frames().get(watched))

    def _tell(self, held: float, frame: FrameType | None) -> None:
        stack = "".join(traceback.format_stack(frame, _MOST_FRAMES)) if frame is not None else ""
        self._control.tell(blocked=held, stack=stack)

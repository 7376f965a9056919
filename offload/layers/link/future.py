"""What a caller waits for while a link does the input and output: a reply that comes, fails, or comes too late.

Callers are killed, interrupted by signals, and have time limits; a link's threads are not. So a caller does nothing but
wait, and an exception ends its wait and nothing else. Knows no link.
"""

from __future__ import annotations

from _thread import RLock
from collections.abc import Callable
from typing import Any

from offload.layers.link.thread import closed_gate, wait_at

Unclaimed = Callable[[Any], None]

# Of all futures, for a few assignments: a link's writer and reader may set the same one. The interpreter's own lock
# (see ``offload.layers.local.subscriptions``).
_setting = RLock()


class Overdue(TimeoutError):
    """The reply has not come in time. Not what a caller's own time limit may raise."""


class Future:
    """A reply to come. One waits for it; a link sets it once, by `resolve` or `fail`.

    Args:
        unclaimed: is called once with a reply that nobody gets any more: whoever waited was interrupted, or was told
            that it failed before it came after all. Called with None when such a reply never comes. It may be called
            from the link's threads, and must not wait.

    Attributes:
        done: whether it is set.
        left: whether nobody waits any more; what was not sent yet need not be sent.
    """

    __slots__ = ("_error", "_gate", "_unclaimed", "_value", "done", "left")

    def __init__(self, unclaimed: Unclaimed | None = None) -> None:
        self._gate = closed_gate()
        # Taken out by whoever calls it, which only one can do.
        self._unclaimed = None if unclaimed is None else [unclaimed]
        self._value: Any = None
        self._error: Exception | None = None
        self.done = False
        self.left = False

    def result(self, timeout: float | None = None) -> Any:
        """The reply, when it has come; one caller asks for it, once.

        Args:
            timeout: seconds; None where whoever sets it does so in time.

        Raises:
            Overdue: it has not come in time.
            What it failed with.
        """
        try:
            if not wait_at(self._gate, timeout):
                raise Overdue
            if self._error is not None:
                raise self._error
            return self._value
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Nobody waits any more."""
        with _setting:
            self.left = True
            is_unclaimed = self.done and self._error is None
        if is_unclaimed:
            self._give(self._value)

    def resolve(self, value: Any) -> None:
        """The reply has come. After `fail` it is given to `unclaimed`."""
        with _setting:
            is_first = not self.done
            if is_first:
                self._value = value
                self.done = True
            is_unclaimed = self.left or not is_first
        if is_first:
            self._gate.release()
        if is_unclaimed:
            self._give(value)

    def fail(self, error: Exception) -> None:
        """It has failed, and may come after all where `unclaimed` is given. Nothing happens when it is set."""
        with _setting:
            is_first = not self.done
            if is_first:
                self._error = error
                self.done = True
        if is_first:
            self._gate.release()

    def lose(self) -> None:
        """It never comes, and it is not known what it was."""
        self._give(None)

    @property
    def is_claimable(self) -> bool:
        """Whether its reply is still of use to `unclaimed`."""
        return bool(self._unclaimed)

    def _give(self, value: Any) -> None:
        if self._unclaimed:
            try:
                unclaimed = self._unclaimed.pop()
            except IndexError:
                return  # another thread has just done so
            unclaimed(value)

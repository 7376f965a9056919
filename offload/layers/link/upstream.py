"""What this process is subscribed to at the layer's server, kept in step with what it wants.

Turns "a first member came" and "the last one left", which happen at any time in any thread, into calls of `subscribe`
and `unsubscribe` that for one name never overlap and always alternate; knows which subscriptions are lost for the time
being, and lets those who need one wait for its return. Knows no server and no members.

The lock guards the tables and is never held during those calls (its kind: see ``offload.layers.local.subscriptions``).
Whoever starts a change carries it out; others who need the name wait on an event until the change is over. A signal may
raise anything anywhere in that, so from a change's first moment on there is somebody who ends it.
"""

from __future__ import annotations

import threading
import time
from _thread import RLock
from collections.abc import Callable, Iterable

from offload.exceptions import LayerUnavailable, OffloadError

_LOOK = 1.0  # seconds after which one who waits looks whether there is still something to wait for


class _Change:
    """A call to the server that is under way for one name."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: OffloadError | None = None


class _Loss:
    """Of one name's subscription, which the server does not know any more, and will be told of again."""

    __slots__ = ("ended", "patience", "reason")

    def __init__(self, reason: str, patience: float) -> None:
        self.reason = reason
        self.patience = patience
        self.ended: threading.Event | None = None  # when somebody waits


class Upstream:
    """The names subscribed to.

    Args:
        subscribe: returns when the subscription is in force; raises when that fails.
        unsubscribe: neither waits nor raises; may leave the work to others, in order. Also called when `subscribe` was
            interrupted, or has failed.
        is_wanted: whether the name still has a use.
    """

    def __init__(
        self,
        subscribe: Callable[[str], None],
        unsubscribe: Callable[[str], None],
        is_wanted: Callable[[str], bool],
    ) -> None:
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._is_wanted = is_wanted
        self._lock = RLock()
        self._states: dict[str, _Change | None] = {}  # None: in force, unless there is a loss
        self._losses: dict[str, _Loss] = {}
        self._closed: LayerUnavailable | None = None

    def ensure(self, name: str) -> None:
        """Return when the subscription is in force; the caller has made the name wanted before.

        Raises:
            LayerUnavailable: it is lost, and did not come back in time.
            What `subscribe` raised, here or in another thread that was at it for the same name.
        """
        deadline: float | None = None
        while True:
            with self._lock:
                change = self._states.get(name, _UNKNOWN)
                loss = self._losses.get(name)
            if change is None:
                if loss is None:
                    return
                deadline = deadline or time.monotonic() + loss.patience
                self._wait_for_return(name, deadline)
            elif change is _UNKNOWN:
                if self._enter(name):
                    return
            else:
                while not change.done.wait(_LOOK) and self._states.get(name) is change:
                    pass
                if change.error is not None:
                    # One bounded wait for all who came together, not one after the other.
                    raise again(change.error)

    def release(self, name: str) -> None:
        """Give up a subscription that nothing wants any more. Neither waits nor raises; idempotent.

        While a change is under way nothing happens here: who carries it out looks again at its end.
        """
        if self._states.get(name, self) is not None:
            return
        change = _Change()
        try:
            with self._lock:
                if self._states.get(name, self) is not None or self._is_wanted(name):
                    return
                self._states[name] = change
            self._leave(name, change)
        finally:
            if self._states.get(name) is change:
                self._leave(name, change)

    def is_in_force(self, name: str) -> bool:
        """Also of one that is lost: messages may come before it is known to be back."""
        return self._states.get(name, self) is None

    def lose(self, names: Iterable[str], reason: str, patience: float) -> None:
        """These subscriptions are lost, and will be restored. Does not wait.

        Args:
            names: no `unsubscribe` of one of them may return during this call.
            reason: of the error that those get who waited for their return.
            patience: seconds for which they wait.
        """
        with self._lock:
            for name in names:
                if name in self._states and name not in self._losses:
                    self._losses[name] = _Loss(reason, patience)

    def restore(self, name: str) -> None:
        """This one is back. Does not wait."""
        with self._lock:
            loss = self._losses.pop(name, None)
            if loss is not None and loss.ended is not None:
                loss.ended.set()

    def give_up(self, name: str) -> None:
        """The server restores this one no more; whoever needs it next subscribes to it anew. Does not wait."""
        with self._lock:
            if self._states.get(name, self) is None:
                del self._states[name]
            self.restore(name)

    def close(self, error: LayerUnavailable) -> None:
        """Nothing comes back any more: whoever waits for that gets the error."""
        with self._lock:
            self._closed = error
            names = list(self._losses)
        for name in names:
            self.restore(name)

    def _wait_for_return(self, name: str, deadline: float) -> None:
        with self._lock:
            loss = self._losses.get(name)
            if loss is None:
                return
            if loss.ended is None:
                loss.ended = threading.Event()
            ended = loss.ended
        if not ended.wait(max(0.0, deadline - time.monotonic())):
            raise LayerUnavailable(f"{loss.reason}; the subscription was not back within {loss.patience:g} s")
        if self._closed is not None:
            raise again(self._closed)

    def _enter(self, name: str) -> bool:
        """Returns False when somebody else was quicker."""
        change = _Change()
        try:
            with self._lock:
                if name in self._states:
                    return False
                self._states[name] = change
            self._subscribe(name)
            with self._lock:
                if self._is_wanted(name):
                    self._states[name] = None
                    return True
            self._leave(name, change)
            return True
        except BaseException as error:
            # When this greenlet was killed, that says nothing about the server: those who wait then try themselves.
            if isinstance(error, OffloadError):
                change.error = error
            raise
        finally:
            if self._states.get(name) is change:
                self._leave(name, change)
            change.done.set()

    def _leave(self, name: str, change: _Change) -> None:
        try:
            self._unsubscribe(name)
        finally:
            with self._lock:
                self._states.pop(name, None)
                self.restore(name)
            change.done.set()


_UNKNOWN = _Change.__new__(_Change)  # nobody waits for it


def again(error: OffloadError) -> OffloadError:
    """The same error for another thread: one object for all would collect the tracebacks of all."""
    made = error.__class__.__new__(error.__class__, *error.args)
    made.__dict__.update(error.__dict__)
    return made

"""What this process is subscribed to at the layer's server, kept in step with what it wants.

Turns "a first member came" and "the last one left", which happen at any time in any thread, into calls of `subscribe`
and `unsubscribe` that for one name never overlap and always alternate. Knows no server and no members.

The lock guards one table and is never held during those calls (its kind: see ``offload.layers.subscriptions``). Whoever
starts a change carries it out; others who need the name wait on an event until the change is over.
"""

from __future__ import annotations

import logging
import threading
from _thread import RLock
from collections.abc import Callable

logger = logging.getLogger("offload.layer")


class _Change:
    """A call to the server that is under way for one name."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None


class Upstream:
    """The names subscribed to.

    Args:
        subscribe: returns when the subscription is in force; raises when that fails.
        unsubscribe: neither waits nor raises; may leave the work to others, in order.
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
        self._states: dict[str, _Change | None] = {}  # None: in force

    def ensure(self, name: str) -> None:
        """Return when the subscription is in force; the caller has made the name wanted before.

        Raises:
            What `subscribe` raised, here or in another thread that was at it for the same name.
        """
        while True:
            with self._lock:
                if name in self._states:
                    change = self._states[name]
                    if change is None:
                        return
                    mine = False
                else:
                    change = self._states[name] = _Change()
                    mine = True
            if mine:
                self._enter(name, change)
                return
            change.done.wait()
            if change.error is not None:
                # One bounded wait for all who came together, not one after the other.
                raise change.error

    def release(self, name: str) -> None:
        """Give up a subscription that nothing wants any more. Neither waits nor raises; idempotent.

        While a change is under way nothing happens here: who carries it out looks again at its end.
        """
        with self._lock:
            if name not in self._states or self._states[name] is not None or self._is_wanted(name):
                return
            change = self._states[name] = _Change()
        self._leave(name, change)

    def is_in_force(self, name: str) -> bool:
        return self._states.get(name, self) is None

    def in_force(self) -> list[str]:
        """The names to restore after the connection to the server was lost."""
        with self._lock:
            return [name for name, change in self._states.items() if change is None]

    def _enter(self, name: str, change: _Change) -> None:
        try:
            self._subscribe(name)
        except BaseException as error:
            with self._lock:
                self._states.pop(name, None)
            # When this greenlet was killed, that says nothing about the server: those who wait then try themselves.
            if isinstance(error, Exception):
                change.error = error
            change.done.set()
            raise
        with self._lock:
            wanted = self._is_wanted(name)
            if wanted:
                self._states[name] = None
        if wanted:
            change.done.set()
        else:
            self._leave(name, change)

    def _leave(self, name: str, change: _Change) -> None:
        try:
            self._unsubscribe(name)
        except Exception:
            logger.exception("giving up the subscription of %s failed", name)
        with self._lock:
            self._states.pop(name, None)
        change.done.set()

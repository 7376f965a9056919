"""The topics that this process is subscribed to at its layer's server, kept in step with what it wants.

"A first member came" and "the last one left" happen at any time in any thread; here they become calls of `subscribe`
and `unsubscribe` that alternate for each topic. Knows which subscriptions are not in force yet, or lost for the time
being, and tells those who need one when it is. Knows no server and no members.

Each subscription has a number, by which the backend tells what became of it: what it says of an earlier one is ignored,
so it need not keep step with us. The lock guards the tables, also while `subscribe` and `unsubscribe` run, which do not
wait; none is held while a waiting caller is told (its kind: see ``offload.layers.local.subscriptions``).
"""

from __future__ import annotations

import itertools
import threading
from _thread import RLock
from collections.abc import Callable

from offload.exceptions import LayerUnavailable
from offload.layers.backend import Backend, Topics

Told = Callable[[LayerUnavailable | None], None]
"""Is called once, with None when the subscription is in force. Neither waits nor raises."""


class _Pending:
    """A subscription that is not in force.

    Attributes:
        lost: why it was lost, after it had been in force.
        told: who is told when it is.
    """

    __slots__ = ("lost", "number", "told")

    def __init__(self, number: int) -> None:
        self.number = number
        self.lost = ""
        self.told: list[Told] = []


class Waiter:
    """One thread's wait for a subscription. A bare lock: an event costs several."""

    __slots__ = ("_gate", "error")

    def __init__(self) -> None:
        self.error: LayerUnavailable | None = None
        self._gate = threading.Lock()
        self._gate.acquire()

    def told(self, error: LayerUnavailable | None) -> None:
        self.error = error
        self._gate.release()

    def wait(self, timeout: float) -> bool:
        return self._gate.acquire(timeout=timeout)


class SubscribedTopics:
    """
    Args:
        backend: what subscribes.
        is_wanted: whether a topic still has a use.
        layer: its name, for error messages.
    """

    def __init__(self, backend: Backend, is_wanted: Callable[[str], bool], layer: str) -> None:
        self._backend = backend
        self._is_wanted = is_wanted
        self._layer = layer
        self._lock = RLock()
        self._numbers = itertools.count(1)
        # The number of what is in force: plain, since there may be one topic for each connection.
        self._states: dict[str, int | _Pending] = {}
        self._closed: LayerUnavailable | None = None

    def ensure(self, topic: str) -> None:
        """Return when the subscription is in force; the caller has made the topic wanted before.

        Raises:
            LayerUnavailable: it was not in time, or the backend said why it cannot be.
        """
        if self.is_in_force(topic):
            return
        waiter, timeout = Waiter(), self._backend.timeout
        tell = waiter.told
        self.want(topic, tell)
        try:
            in_time = waiter.wait(timeout)
        except BaseException:
            self._leave(topic, tell)
            raise
        if not in_time:
            if self._leave(topic, tell):
                raise self._give_up(topic, timeout)
            waiter.wait(-1)  # it is being told in this instant
        if waiter.error is not None:
            raise again(waiter.error)

    def want(self, topic: str, told: Told) -> None:
        """As `ensure`, without waiting."""
        error = None
        with self._lock:
            state = self._states.get(topic)
            if isinstance(state, _Pending):
                state.told.append(told)
                return
            if state is None and self._closed is None:
                pending = _Pending(next(self._numbers))
                pending.told.append(told)
                try:
                    self._states[topic] = pending
                    self._backend.subscribe(topic, pending.number)
                except BaseException:
                    # A signal's: nobody would ever hear of it.
                    self._drop(topic)
                    raise
                return
            error = self._closed
        told(error)

    def release(self, topic: str) -> None:
        """Give up a subscription that nothing wants any more. Neither waits nor raises; idempotent. One that is not in
        force yet is looked at again when it is."""
        state = self._states.get(topic)
        if state is None or (isinstance(state, _Pending) and not state.lost):
            return
        with self._lock:
            state = self._states.get(topic)
            if state is None or self._is_wanted(topic) or (isinstance(state, _Pending) and state.told):
                return
            self._drop(topic)

    def is_in_force(self, topic: str) -> bool:
        return isinstance(self._states.get(topic), int)

    def arrives(self, topic: str) -> bool:
        """Also of one that is lost: messages may come before it is known to be back."""
        state = self._states.get(topic)
        return isinstance(state, int) or (state is not None and state.lost != "")

    # What the backend tells

    def subscribed(self, topics: Topics) -> list[str]:
        """These are in force. Returns those that had been lost."""
        told: list[Told] = []
        back: list[str] = []
        unwanted: list[str] = []
        with self._lock:
            for topic, number in topics.items():
                state = self._states.get(topic)
                if isinstance(state, _Pending) and state.number == number:
                    self._states[topic] = number
                    told += state.told
                    if state.lost:
                        back.append(topic)
                    if not self._is_wanted(topic):
                        unwanted.append(topic)
        for tell in told:
            tell(None)
        for topic in unwanted:
            self.release(topic)
        return back

    def lost(self, topics: Topics, reason: str) -> None:
        """These were in force, and are not until they are `subscribed` again."""
        with self._lock:
            for topic, number in topics.items():
                if self._states.get(topic) == number:
                    pending = self._states[topic] = _Pending(number)
                    pending.lost = reason

    def failed(self, topics: Topics, error: LayerUnavailable, *, for_good: bool = False) -> None:
        """These could not be subscribed to: those that never were in force are given up, `for_good` the others too."""
        told: list[Told] = []
        with self._lock:
            for topic, number in topics.items():
                state = self._states.get(topic)
                if isinstance(state, _Pending):
                    if state.number == number and (for_good or not state.lost):
                        told += state.told
                        self._drop(topic)
                elif state == number and for_good:
                    self._drop(topic)
        for tell in told:
            tell(error)

    def close(self, error: LayerUnavailable) -> None:
        """Nothing comes any more: whoever waits gets the error."""
        with self._lock:
            self._closed = error
            told = [tell for state in self._states.values() if isinstance(state, _Pending) for tell in state.told]
            self._states.clear()
        for tell in told:
            tell(error)

    def _leave(self, topic: str, told: Told) -> bool:
        """Wait no more. Returns False for who has been told."""
        with self._lock:
            state = self._states.get(topic)
            if not isinstance(state, _Pending) or told not in state.told:
                return False
            state.told.remove(told)
            return True

    def _give_up(self, topic: str, timeout: float) -> LayerUnavailable:
        """Returns the error for who waited in vain."""
        with self._lock:
            state = self._states.get(topic)
            if isinstance(state, _Pending) and state.lost:
                return LayerUnavailable(f"{state.lost}; the subscription was not back within {timeout:g} s")
            others: list[Told] = []
            if isinstance(state, _Pending):
                # What the server never answered may have got lost: the next who needs it asks anew.
                others = state.told
                self._drop(topic)
        error = LayerUnavailable(
            f"layer {self._layer!r} got no answer within {timeout:g} s; the subscription was given up"
        )
        for tell in others:
            tell(error)
        return error

    def _drop(self, topic: str) -> None:
        self._states.pop(topic, None)
        self._backend.unsubscribe(topic)


def again(error: LayerUnavailable) -> LayerUnavailable:
    """The same error for another thread: one object for all would collect the tracebacks of all."""
    made = error.__class__.__new__(error.__class__, *error.args)
    made.__dict__.update(error.__dict__)
    return made

"""A broker that threads or greenlets share: one condition variable guards it and wakes those who wait for a message.

The condition is made when first needed and not before: a layer may be built before gevent patches ``threading``, and
used afterwards.
"""

from __future__ import annotations

import threading
import time
from _thread import RLock
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic

from offload.exceptions import LayerUnavailable
from offload.layers.local.broker import Broker, Payload


class SharedBroker(Generic[Payload]):
    """Run one thing at a time on a broker, and wait for its messages.

    Attributes:
        waiting: how many callers wait now.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._broker: Broker[Payload] = Broker()
        self._clock = clock
        self._making = RLock()
        self._closed = False
        self.waiting = 0
        self._made: threading.Condition | None = None

    @contextmanager
    def exclusive(self) -> Iterator[tuple[Broker[Payload], float]]:
        """The broker and the time, for this thread alone; nothing inside may wait or call out."""
        with self._condition:
            yield self._broker, self._clock()

    def send(self, channel: str, payload: Payload, expiry: float, capacity: int) -> None:
        """Raises ``ChannelFull``."""
        condition = self._condition
        with condition:
            self._broker.send(channel, payload, self._clock(), expiry=expiry, capacity=capacity)
            # All of them: those who wait may wait for different channels.
            condition.notify_all()

    def group_send(self, group: str, payload: Payload, expiry: float, capacity_of: Callable[[str], int]) -> int:
        """Returns how many full channels were passed over."""
        condition = self._condition
        with condition:
            reached, full = self._broker.group_send(
                group, payload, self._clock(), expiry=expiry, capacity_of=capacity_of
            )
            if reached:
                condition.notify_all()
            return full

    def receive(
        self, channels: Sequence[str], timeout: float | None, has_ended: Callable[[], bool] = lambda: False
    ) -> tuple[str, Payload] | None:
        """The next message, waiting up to `timeout` seconds (None: for ever).

        Raises:
            LayerUnavailable: after `close`, or when this caller's part `has_ended`, and `wake` was called.
        """
        deadline = None if timeout is None else self._clock() + timeout
        condition = self._condition
        with condition:
            while True:
                if self._closed or has_ended():
                    raise LayerUnavailable("the layer was closed meanwhile")
                now = self._clock()
                found = self._broker.receive(channels, now)
                if found is not None or (deadline is not None and now >= deadline):
                    return found
                self.waiting += 1
                try:
                    condition.wait(None if deadline is None else deadline - now)
                finally:
                    self.waiting -= 1

    def has_messages(self, channel: str) -> bool:
        """As of this moment; also of messages that have expired and were not met yet. Does not wait."""
        return self._broker.has_messages(channel)

    def close(self) -> None:
        """End the waits, these and later ones."""
        self._closed = True
        self.wake()

    def wake(self) -> None:
        """Have those who wait look again."""
        condition = self._condition
        with condition:
            condition.notify_all()

    @property
    def _condition(self) -> threading.Condition:
        made = self._made
        if made is None:
            with self._making:
                made = self._made
                if made is None:
                    made = self._made = threading.Condition()
        return made

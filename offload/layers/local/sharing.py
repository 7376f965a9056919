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
    """Run one thing at a time on a broker, and wait for its messages."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._broker: Broker[Payload] = Broker()
        self._clock = clock
        self._making = RLock()
        self._closed = False
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

    def receive(self, channels: Sequence[str], timeout: float | None) -> tuple[str, Payload] | None:
        """The next message, waiting up to `timeout` seconds (None: for ever).

        Raises:
            LayerUnavailable: after `close`.
        """
        deadline = None if timeout is None else self._clock() + timeout
        condition = self._condition
        with condition:
            while True:
                if self._closed:
                    raise LayerUnavailable("the layer was closed meanwhile")
                now = self._clock()
                found = self._broker.receive(channels, now)
                if found is not None or (deadline is not None and now >= deadline):
                    return found
                condition.wait(None if deadline is None else deadline - now)

    def has_messages(self, channel: str) -> bool:
        """As of this moment; also of messages that have expired and were not met yet. Does not wait."""
        return self._broker.has_messages(channel)

    def close(self) -> None:
        """End the waits, these and later ones."""
        condition = self._condition
        with condition:
            self._closed = True
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

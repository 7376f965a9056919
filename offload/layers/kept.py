"""This process's own channels that no receiver is attached to: queues in memory, read by ``receive``.

A name that was given out is remembered for a while, since what is sent to it before somebody listens must not be lost.
Knows no server. The lock is the interpreter's own (see ``offload.layers.subscriptions``).
"""

from __future__ import annotations

import logging
from _thread import RLock
from collections import OrderedDict
from collections.abc import Callable, Sequence

from offload.exceptions import ChannelFull
from offload.interfaces import Content, Delivery
from offload.layers.codec import copy_content
from offload.layers.sharing import SharedBroker
from offload.layers.subscriptions import Subscriptions

logger = logging.getLogger("offload.layer")

_FRESH_NAMES = 1000


class KeptChannels:
    """The queues.

    Args:
        subscriptions: where a queue is attached as its channel's receiver.
        capacity_of: messages that a channel holds.
        expiry: seconds that a message is kept.
    """

    def __init__(self, subscriptions: Subscriptions, capacity_of: Callable[[str], int], expiry: float) -> None:
        self._subscriptions = subscriptions
        self._capacity_of = capacity_of
        self._expiry = expiry
        self._lock = RLock()
        # Contents are kept as they are.
        self._queues: SharedBroker[Content] = SharedBroker()
        self._channels: set[str] = set()
        self._fresh: OrderedDict[str, None] = OrderedDict()  # given out and not attached yet, oldest first

    def remember(self, name: str) -> None:
        """A name was given out. The oldest of very many are forgotten."""
        with self._lock:
            self._fresh[name] = None
            if len(self._fresh) > _FRESH_NAMES:
                self._fresh.popitem(last=False)

    def forget(self, channel: str) -> bool:
        """Returns whether it was kept; then what is in its queue stays until `drop`."""
        with self._lock:
            self._fresh.pop(channel, None)
            kept = channel in self._channels
            self._channels.discard(channel)
        return kept

    def drop(self, channel: str) -> None:
        """Drop what was kept, after the queue has been detached."""
        with self._queues.exclusive() as (broker, _):
            broker.drop(channel)

    def holds(self, channel: str) -> bool:
        return channel in self._channels

    def keep_if_fresh(self, channel: str) -> bool:
        """Returns whether the channel is kept (now)."""
        with self._lock:
            if channel in self._fresh:
                self.keep(channel)
            return channel in self._channels

    def keep(self, channel: str) -> None:
        """Make a queue the channel's receiver."""
        capacity = self._capacity_of(channel)

        def keep(delivery: Delivery) -> None:
            try:
                # The sender may change its dict before this copy is received.
                self._queues.send(channel, copy_content(delivery.content), self._expiry, capacity)
            except ChannelFull:
                logger.warning("lost a message: nobody receives channel %s, which holds %d", channel, capacity)

        with self._lock:
            self._fresh.pop(channel, None)
            self._channels.add(channel)
            self._subscriptions.attach(channel, keep)

    def receive(self, channels: Sequence[str], timeout: float | None) -> tuple[str, Content] | None:
        return self._queues.receive(channels, timeout)

    def counts(self) -> tuple[int, int]:
        """Messages that expired, and that found their queue full."""
        with self._queues.exclusive() as (broker, _):
            return broker.expired, broker.full

    def flush(self) -> None:
        with self._queues.exclusive() as (broker, _):
            broker.flush()

"""This process's own channels that no receiver is attached to: queues in memory, read by ``receive``.

A name that was given out is remembered for a while, since what is sent to it before somebody listens must not be lost.
So is one that was received from, until there are very many: who made it for one answer never says that it is done.
Knows no server. The lock is the interpreter's own (see ``offload.layers.local.subscriptions``).
"""

from __future__ import annotations

import itertools
import logging
from _thread import RLock
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

from offload.exceptions import ChannelFull
from offload.interfaces import Content, Delivery
from offload.layers.local.sharing import SharedBroker
from offload.layers.local.subscriptions import Subscriptions
from offload.layers.words.codec import copy_content

logger = logging.getLogger("offload.layer")

_FRESH_NAMES = 10_000
_IDLE_NAMES = 10_000
_LOOKED_AT = 10  # channels in use that are passed over for each new one


class KeptChannels:
    """The queues.

    Args:
        subscriptions: where a queue is attached as its channel's receiver.
        capacity_of: messages that a channel holds.
        expiry: seconds that a message is kept.
        detach: the layer's; for a channel that is forgotten.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        capacity_of: Callable[[str], int],
        expiry: float,
        detach: Callable[[str], None],
    ) -> None:
        self._subscriptions = subscriptions
        self._capacity_of = capacity_of
        self._expiry = expiry
        self._detach = detach
        self._lock = RLock()
        # Contents are kept as they are.
        self._queues: SharedBroker[Content] = SharedBroker()
        self._channels: OrderedDict[str, None] = OrderedDict()  # the one used the longest ago first
        self._waited_for: Counter[str] = Counter()
        self._put = self._received = 0
        self._fresh: OrderedDict[str, None] = OrderedDict()  # given out and not attached yet, oldest first
        self._forgotten: OrderedDict[str, None] = OrderedDict()  # of those, as many more: their messages are lost
        self._watches: dict[str, list[Callable[[], None]]] = {}

    @property
    def waiting(self) -> int:
        """How many callers of `receive` wait now."""
        return self._queues.waiting

    def remember(self, name: str) -> None:
        """A name was given out. The oldest of very many are forgotten."""
        with self._lock:
            self._fresh[name] = None
            if len(self._fresh) > _FRESH_NAMES:
                self._forgotten[self._fresh.popitem(last=False)[0]] = None
            if len(self._forgotten) > _FRESH_NAMES:
                self._forgotten.popitem(last=False)

    def forget(self, channel: str) -> bool:
        """Returns whether it was kept; then what is in its queue stays until `drop`."""
        with self._lock:
            self._fresh.pop(channel, None)
            self._forgotten.pop(channel, None)
            kept = channel in self._channels
            self._channels.pop(channel, None)
        return kept

    def drop(self, channel: str) -> None:
        """Drop what was kept, after the queue has been detached."""
        with self._queues.exclusive() as (broker, _):
            broker.drop(channel)

    def holds(self, channel: str) -> bool:
        return channel in self._channels

    def loses(self, channel: str) -> bool:
        """Whether this was given out, and forgotten since there were so many: a message for it is lost."""
        if channel not in self._forgotten:
            return False
        logger.warning("lost a message: channel %s was not received from for %d newer ones", channel, _FRESH_NAMES)
        return True

    def watch(self, channels: Sequence[str], wake: Callable[[], None]) -> None:
        """Have it called when a message is put into one of these."""
        with self._lock:
            for channel in channels:
                self._watches.setdefault(channel, []).append(wake)

    def unwatch(self, channels: Sequence[str], wake: Callable[[], None]) -> None:
        with self._lock:
            for channel in channels:
                self._watches[channel].remove(wake)
                if not self._watches[channel]:
                    del self._watches[channel]

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
            self._put += 1
            try:
                # The sender may change its dict before this copy is received.
                self._queues.send(channel, copy_content(delivery.content), self._expiry, capacity)
            except ChannelFull:
                logger.warning("lost a message: nobody receives channel %s, which holds %d", channel, capacity)
            for wake in self._watches.get(channel, ()):
                wake()

        with self._lock:
            self._fresh.pop(channel, None)
            self._channels[channel] = None
            self._subscriptions.attach(channel, keep)
            idle = self._longest_idle() if len(self._channels) > _IDLE_NAMES else None
        if idle is not None:
            self._detach(idle)

    def receive(self, channels: Sequence[str], timeout: float | None) -> tuple[str, Content] | None:
        """As `Layer.receive`.

        Raises:
            LayerUnavailable: this was closed.
        """
        with self._lock:
            for channel in channels:
                if channel in self._channels:
                    self._channels.move_to_end(channel)
            self._waited_for.update(channels)
        try:
            found = self._queues.receive(channels, timeout)
        finally:
            with self._lock:
                self._waited_for.subtract(channels)
                for channel in channels:
                    if not self._waited_for[channel]:
                        del self._waited_for[channel]
        if found is not None:
            self._received += 1
        return found

    def counts(self) -> dict[str, int]:
        """What to add to the layer's counters, which count as received what is put here."""
        with self._queues.exclusive() as (broker, _):
            return {"expired": broker.expired, "lost": broker.full, "received": self._received - self._put}

    def close(self) -> None:
        """Whoever waits, waits no more."""
        self._queues.close()

    def _longest_idle(self) -> str | None:
        """The channel that nobody would miss, as far as one can see."""
        for channel in list(itertools.islice(self._channels, _LOOKED_AT)):
            if not (
                channel in self._waited_for
                or self._queues.has_messages(channel)
                or self._subscriptions.is_in_groups(channel)
            ):
                return channel
            self._channels.move_to_end(channel)
        return None

    def flush(self) -> None:
        with self._queues.exclusive() as (broker, _):
            broker.flush()

"""The local half of every layer: which reply channels of this process are attached, and which want which group.

Knows no server, no encoding and no names' rules. One lock guards the tables. It is held for a few dictionary
operations at a time and never while a receiver, a log or a server is called. It is the interpreter's own reentrant
lock on purpose, also in a process that gevent has patched: nothing under it can switch greenlets, so greenlets of one
thread never contend for it, real threads do for microseconds, and the event loop's own greenlet, which may not wait on
a patched lock, can take it. Looking up a receiver takes no lock.
"""

from __future__ import annotations

import logging
import time
from _thread import RLock
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from offload.interfaces import Content, Deliver, Delivery

logger = logging.getLogger("offload.layer")

SLICE = 500
"""Members that are called in a row."""


MOST_JOINED = 64
"""Deliveries that become one."""


class _Audience(NamedTuple):
    """
    Attributes:
        receivers: of a group's members.
        joins: whether all of them take deliveries with parts.
    """

    receivers: list[Deliver]
    joins: bool


class Subscriptions:
    """Attached channels with their receivers, and their groups.

    Args:
        group_expiry: seconds after which a membership that was not added again ends.
        clock: seconds that only grow.

    Attributes:
        pause: None, or called after each `SLICE` of a larger group's members, so that others run meanwhile.
    """

    def __init__(self, group_expiry: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._group_expiry = group_expiry
        self._clock = clock
        self.pause: Callable[[], None] | None = None
        # What is on its way to a group in slices, and what has to wait for that.
        self._sliced: dict[str, deque[Delivery]] = {}
        self._lock = RLock()
        self._receivers: dict[str, Deliver] = {}
        # Those of them that take no deliveries with parts: few, beside WebSockets.
        self._singly: set[str] = set()
        # Most channels are in one group, or none: a bare name then, instead of a set for each of many connections.
        self._groups_of: dict[str, str | set[str]] = {}
        # Group to member to end of membership. Adding again moves a member to the end, so the oldest come first.
        self._members: dict[str, dict[str, float]] = {}
        # Kept from one message to the next as long as nobody comes or goes.
        self._audiences: dict[str, _Audience] = {}

    def attach(self, channel: str, deliver: Deliver, joins: bool = False) -> None:
        """See `Layer.attach`. Also replaces the receiver of an attached channel."""
        with self._lock:
            self._receivers[channel] = deliver
            (self._singly.discard if joins else self._singly.add)(channel)
            for group in _names(self._groups_of.get(channel)):
                self._audiences.pop(group, None)

    def detach(self, channel: str) -> list[str]:
        """Forget the channel. Returns the groups that lost their last member by it."""
        with self._lock:
            self._receivers.pop(channel, None)
            self._singly.discard(channel)
            groups = _names(self._groups_of.pop(channel, None))
            return [group for group in groups if self._drop_member(group, channel)]

    def renew(self, channel: str) -> None:
        """Begin the time of all of a channel's memberships anew."""
        with self._lock:
            for group in _names(self._groups_of.get(channel)):
                members = self._members[group]
                # At the end, since the first ones are looked at to find what has expired.
                del members[channel]
                members[channel] = self._clock() + self._group_expiry

    def receiver(self, channel: str) -> Deliver | None:
        return self._receivers.get(channel)

    def add(self, group: str, channel: str) -> bool:
        """Make an attached channel a member, or renew its membership.

        Returns:
            False when the channel is not attached (its connection has ended meanwhile): nothing was added then.
        """
        with self._lock:
            if channel not in self._receivers:
                return False
            members = self._members.setdefault(group, {})
            members.pop(channel, None)
            members[channel] = self._clock() + self._group_expiry
            self._audiences.pop(group, None)
            groups = self._groups_of.get(channel)
            if groups is None:
                self._groups_of[channel] = group
            elif isinstance(groups, set):
                groups.add(group)
            elif groups != group:
                self._groups_of[channel] = {groups, group}
            return True

    def discard(self, group: str, channel: str) -> bool:
        """End a membership. Returns True when it was the group's last."""
        with self._lock:
            self._forget_group(channel, group)
            return self._drop_member(group, channel)

    def clear_groups(self) -> list[str]:
        """End every membership. Returns the groups that there were."""
        with self._lock:
            groups = list(self._members)
            self._members.clear()
            self._groups_of.clear()
            self._audiences.clear()
            return groups

    def has_members(self, group: str) -> bool:
        return group in self._members

    def is_member(self, group: str, channel: str) -> bool:
        return channel in self._members.get(group, ())

    def is_in_groups(self, channel: str) -> bool:
        return channel in self._groups_of

    def __len__(self) -> int:
        """How many channels are attached."""
        return len(self._receivers)

    def deliver(self, channel: str, content: Content, more: bool = False) -> bool:
        """Hand a content to one channel's receiver. Returns False when the channel is not attached."""
        receiver = self._receivers.get(channel)
        if receiver is None:
            return False
        _hand_over(receiver, Delivery(content, more), channel)
        return True

    def fan_out(self, group: str, *contents: Content, more: bool = False) -> int:
        """Hand one `Delivery` of each content to every member's receiver; several in one pass, where all take that.

        Members may come and go meanwhile; who leaves before its turn may be called once all the same. All members of a
        large group get what several callers send at once in the same order: a later caller does not wait for that.

        Returns:
            How many receivers were, or will be, called. Memberships that had expired ended first, so after 0 the
            caller sees to it that the group is given up upstream.
        """
        self._expire(group)
        audience = self._audiences.get(group)
        if audience is None:
            audience = self._audience(group)
        deliveries = deque([Delivery(content, True) for content in contents])
        deliveries[-1].more = more
        if self._sliced and group in self._sliced:
            self._sliced[group] += deliveries
        elif self.pause is None or len(audience.receivers) <= SLICE:
            while deliveries:
                self._call(audience.receivers, _next(deliveries, audience.joins))
        else:
            self._call_in_slices(group, deliveries, self.pause)
        return len(audience.receivers)

    def _call(self, audience: list[Deliver], delivery: Delivery) -> None:
        for receiver in audience:
            try:
                receiver(delivery)
            except Exception:
                channel = self._channel_of(receiver)
                logger.exception("receiver of channel %s raised; the other members are not affected", channel)

    def _call_in_slices(self, group: str, waiting: deque[Delivery], pause: Callable[[], None]) -> None:
        self._sliced[group] = waiting
        delivery = waiting[0]
        remaining: list[Deliver] = []
        try:
            while waiting:
                audience = self._audience(group)
                delivery, remaining = _next(waiting, audience.joins), audience.receivers
                while remaining:
                    # What its parts cost each receiver, if they are not taken together, is known after the first.
                    size = SLICE if delivery.prepared else SLICE // max(1, len(delivery.parts))
                    self._call(remaining[:size], delivery)
                    remaining = remaining[size:]
                    if remaining:
                        pause()
        finally:
            del self._sliced[group]
            # A kill or a time limit has struck the caller in the pause: the others get the rest at once.
            self._call(remaining, delivery)
            while waiting:
                audience = self._audience(group)
                self._call(audience.receivers, _next(waiting, audience.joins))

    def _channel_of(self, receiver: Deliver) -> str | None:
        return next((channel for channel, found in self._receivers.copy().items() if found is receiver), None)

    def _audience(self, group: str) -> _Audience:
        with self._lock:
            members = self._members.get(group, {})
            receivers = [self._receivers[channel] for channel in members]
            audience = _Audience(receivers, members.keys().isdisjoint(self._singly))
            if receivers:
                self._audiences[group] = audience
            return audience

    def _expire(self, group: str) -> None:
        now = self._clock()
        with self._lock:
            members = self._members.get(group)
            while members:
                channel, ends = next(iter(members.items()))
                if ends > now:
                    break
                self._forget_group(channel, group)
                self._drop_member(group, channel)

    def _drop_member(self, group: str, channel: str) -> bool:
        members = self._members.get(group)
        if members is None or members.pop(channel, None) is None:
            return False
        self._audiences.pop(group, None)
        if members:
            return False
        del self._members[group]
        return True

    def _forget_group(self, channel: str, group: str) -> None:
        groups = self._groups_of.get(channel)
        if isinstance(groups, set):
            groups.discard(group)
            if not groups:
                del self._groups_of[channel]
        elif groups == group:
            del self._groups_of[channel]


def _next(waiting: deque[Delivery], joins: bool) -> Delivery:
    """The next one of them; where receivers take that, one that stands for several."""
    delivery = waiting.popleft()
    if not (waiting and joins):
        return delivery
    parts = [delivery]
    while waiting and len(parts) < MOST_JOINED:
        parts.append(waiting.popleft())
    return Delivery({}, parts[-1].more, parts)


def _names(groups: str | set[str] | None) -> Iterable[str]:
    if groups is None:
        return ()
    return (groups,) if isinstance(groups, str) else groups


def _hand_over(receiver: Deliver, delivery: Delivery, channel: str) -> None:
    try:
        receiver(delivery)
    except Exception:
        logger.exception("receiver of channel %s raised", channel)

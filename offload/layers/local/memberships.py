"""Channels of this process become members of groups: promised when the group's messages arrive, taken back when not.

Several threads or greenlets may add the same channel to the same group at a time, and each may fail or be killed by
itself. What failed is taken back by the last of them, and only when none of them succeeded and there was no membership
before. The lock's kind: see ``offload.layers.local.subscriptions``.
"""

from __future__ import annotations

from _thread import RLock
from collections.abc import Callable

from offload.exceptions import LayerUnavailable
from offload.layers.local.subscriptions import Subscriptions
from offload.layers.local.topics import SubscribedTopics

GROUP_TOPIC = "group:"


class _Calls:
    """Those under way for one membership.

    Attributes:
        number: how many.
        unproven: whether one of them made the membership, and none has found it in force yet.
    """

    __slots__ = ("number", "unproven")

    def __init__(self) -> None:
        self.number = 0
        self.unproven = False


class Memberships:
    """Adds and discards."""

    def __init__(self, subscriptions: Subscriptions, topics: SubscribedTopics) -> None:
        self._subscriptions = subscriptions
        self._topics = topics
        self._lock = RLock()
        self._under_way: dict[tuple[str, str], _Calls] = {}

    def add(self, group: str, channel: str) -> None:
        """Returns when the membership is in force, or at once when the channel is not attached.

        Raises:
            As `SubscribedTopics.ensure`.
        """
        calls = self._begin(group, channel)
        proven = False
        try:
            if self._subscriptions.add(group, channel):
                self._topics.ensure(GROUP_TOPIC + group)
            proven = True
        finally:
            self._end(group, channel, calls, proven)

    def add_soon(self, group: str, channel: str, told: Callable[[LayerUnavailable | None], bool]) -> None:
        """As `add`, without waiting.

        Args:
            told: is called once, with None when the membership is in force. Neither waits nor raises. Returns whether
                it is to stay.
        """
        calls = self._begin(group, channel)

        def end(error: LayerUnavailable | None) -> None:
            self._end(group, channel, calls, told(error) and error is None)

        if self._subscriptions.add(group, channel):
            self._topics.want(GROUP_TOPIC + group, end)
        else:
            end(None)

    def discard(self, group: str, channel: str) -> None:
        """Neither waits nor raises."""
        if self._subscriptions.discard(group, channel):
            self._topics.release(GROUP_TOPIC + group)

    def _begin(self, group: str, channel: str) -> _Calls:
        with self._lock:
            calls = self._under_way.setdefault((group, channel), _Calls())
            calls.number += 1
            calls.unproven = calls.unproven or not self._subscriptions.is_member(group, channel)
            return calls

    def _end(self, group: str, channel: str, calls: _Calls, proven: bool) -> None:
        with self._lock:
            if proven:
                calls.unproven = False
            calls.number -= 1
            if calls.number:
                return
            self._under_way.pop((group, channel), None)
        if calls.unproven:
            self.discard(group, channel)

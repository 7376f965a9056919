"""Channels of this process become members of groups: promised when the group's messages arrive, taken back when not.

Several threads or greenlets may add the same channel to the same group at a time, and each may fail or be killed by
itself. What failed is taken back by the last of them, and only when none of them succeeded and there was no membership
before. The lock's kind: see ``offload.layers.local.subscriptions``.
"""

from __future__ import annotations

from _thread import RLock

from offload.layers.link.upstream import Upstream
from offload.layers.local.subscriptions import Subscriptions


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


class Joining:
    """Adds and discards."""

    def __init__(self, subscriptions: Subscriptions, upstream: Upstream) -> None:
        self._subscriptions = subscriptions
        self._upstream = upstream
        self._lock = RLock()
        self._under_way: dict[tuple[str, str], _Calls] = {}

    def add(self, group: str, channel: str) -> None:
        """Returns when the membership is in force, or at once when the channel is not attached.

        Raises:
            As `Upstream.ensure`.
        """
        membership = group, channel
        calls: _Calls | None = None
        abandoned = False
        try:
            with self._lock:
                is_new = not self._subscriptions.is_member(group, channel)
                if not self._subscriptions.add(group, channel):
                    return
                calls = self._under_way.setdefault(membership, _Calls())
                calls.number += 1
                calls.unproven = calls.unproven or is_new
            self._upstream.ensure(group)
            calls.unproven = False
        finally:
            if calls is not None:
                with self._lock:
                    calls.number -= 1
                    if not calls.number:
                        del self._under_way[membership]
                        abandoned = calls.unproven
            if abandoned:
                self.discard(group, channel)

    def discard(self, group: str, channel: str) -> None:
        """Neither waits nor raises."""
        if self._subscriptions.discard(group, channel):
            self._upstream.release(group)

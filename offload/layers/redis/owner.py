"""Whom a subscriber of Redis delivers to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Owner(Protocol):
    """What a subscriber calls, from its thread. None of it may wait or raise."""

    def arrived(self, batch: list[tuple[bytes, bytes]]) -> None:
        """Pairs of pub/sub channel and payload, which came together."""

    def lost(self, names: Iterable[str], reason: str) -> None:
        """These are not subscribed to until each is `restored`."""

    def restored(self, name: str) -> None: ...

    def refused(self, name: str) -> None:
        """One that was lost may not be subscribed to any more, and is given up."""

    def returned(self) -> None:
        """A connection that was lost is back, with all that was subscribed to."""

"""Whom a connection to a hub delivers to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol


class Owner(Protocol):
    """What a link calls, from the reader unless it says otherwise. None of it may wait or raise."""

    def hello(self) -> tuple[Any, ...]:
        """Prefix, process token and settings."""

    def pushed(self, frame: list[Any], more: bool) -> None:
        """A message has come; `more` when another follows at once."""

    def called(self, add: bool, group: str, channel: str) -> None:
        """Another process asks for a change of membership. In a thread of its own: it may wait and raise."""

    def lost(self, groups: Iterable[str], reason: str) -> None:
        """The hub may not know of these subscriptions until they are `restored`."""

    def restored(self, groups: Iterable[str]) -> None: ...

    def connected_again(self) -> None: ...

"""Waiting for named channels, at the layer's server, and for own ones, in this process, at the same time.

Whoever waits at the server can be woken there: a message to an own channel puts an empty one into a queue that only
this waiter takes from. No channel has such a name. Nothing is looked at now and then.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from functools import partial

from offload.exceptions import ChannelFull, LayerUnavailable
from offload.interfaces import Content
from offload.layers.backend import Backend
from offload.layers.local.kept import KeptChannels
from offload.layers.local.lanes import Lanes

_LIFETIME = 60.0
_PAUSE = 0.1
_WAKE, _TIDY = True, False


class BothWaits:
    """
    Args:
        process: this process's token.
        backend: where named channels are.
        kept: this process's own channels.
    """

    def __init__(self, process: str, backend: Backend, kept: KeptChannels) -> None:
        self._process = process
        self._backend = backend
        self._kept = kept
        self._numbers = itertools.count(1)
        self._waiting: dict[str, bool] = {}  # whether one was woken, by the name of its queue
        self._lanes: Lanes[bool] = Lanes(self._work, idle=0.0)

    def take(
        self, own: Sequence[str], shared: Sequence[str], timeout: float | None
    ) -> tuple[str, bytes] | tuple[str, Content] | None:
        """A content from an own channel, or a payload from a named one; None when none came in time.

        Raises:
            LayerUnavailable: also when the layer is closed meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        name = f"wake:{self._process}:{next(self._numbers)}"
        self._waiting[name] = False
        self._kept.watch(own, wake := partial(self._wake, name))
        try:
            while True:
                if (kept := self._kept.receive(own, 0)) is not None:
                    return kept
                remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
                found = self._backend.take([*shared, name], remaining)
                if found is None:
                    return self._kept.receive(own, 0)
                if found[0] != name:
                    return found
        finally:
            self._kept.unwatch(own, wake)
            if self._waiting.pop(name):
                self._lanes.put(name, _TIDY)

    def close(self) -> None:
        self._lanes.close()

    def _wake(self, name: str) -> None:
        """Neither waits nor raises."""
        self._waiting[name] = True
        self._lanes.put(name, _WAKE)

    def _work(self, name: str, items: list[bool]) -> None:
        while name in self._waiting:
            try:
                self._backend.push(name, b"", _LIFETIME, 1)
            except ChannelFull:
                pass  # it has not looked yet
            except LayerUnavailable:
                # The server that is away may be back while it still waits.
                threading.Event().wait(_PAUSE)
                continue
            break
        if _TIDY in items:
            try:
                self._backend.take([name], 0)
            except LayerUnavailable:
                pass  # it expires

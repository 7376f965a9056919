"""Disconnect messages that cannot be sent yet: the layer is away, or an earlier message may still be on its way.

They wait in one list, served by one thread (a greenlet, where gevent has patched threads), so that a layer that is away
for a while costs no greenlet for each client that leaves meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from offload.consumers.turns import Turn
from offload.exceptions import ChannelFull, LayerUnavailable, OffloadError
from offload.interfaces import Content

LOOK_SECONDS = 0.2
"""Between two looks at what waits."""
KEEP_SECONDS = 600.0
"""How long a message waits for a layer that is away."""


@dataclass
class _Waiting:
    content: Content
    turn: Turn | None
    only_after: str | None
    until: float


class Postponed:
    """What waits to be sent.

    Args:
        send: sends a message whose connection's last turn, if one is given, is settled.
        is_settled: whether a turn has ended, or never will.
        lost: told of a message that could not be sent, and why.
    """

    def __init__(
        self,
        send: Callable[[Content, Turn | None], None],
        is_settled: Callable[[Turn], bool],
        lost: Callable[[Content, str], None],
    ) -> None:
        self._send = send
        self._is_settled = is_settled
        self._lost = lost
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, content: Content, turn: Turn | None, only_after: str | None = None) -> None:
        """Send a message as soon as it may be.

        Args:
            content: the message.
            turn: its connection's last turn; it goes behind that one.
            only_after: it is sent only if that turn has this outcome.
        """
        with self._lock:
            self._waiting.append(_Waiting(content, turn, only_after, time.monotonic() + KEEP_SECONDS))
            if self._thread is not None:
                return
            thread = self._thread = threading.Thread(target=self._serve, name="offload-postponed", daemon=True)
        thread.start()

    def stop(self) -> None:
        """The process ends: send everything now, in whatever order."""
        while self._waiting:
            item = self._waiting.popleft()
            try:
                self._deliver(item)
            except (ChannelFull, LayerUnavailable) as error:
                self._lost(item.content, str(error))
                if isinstance(error, LayerUnavailable):
                    break
        for item in self._waiting:
            self._lost(item.content, "the process ends while the layer is away")
        self._waiting.clear()

    def _serve(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            self._look()
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return

    def _look(self) -> None:
        for _ in range(len(self._waiting)):
            try:
                item = self._waiting.popleft()
            except IndexError:
                # The process ends, and has sent them.
                return
            if item.turn is not None and not self._is_settled(item.turn):
                self._waiting.append(item)
                continue
            try:
                self._deliver(item)
            except (ChannelFull, LayerUnavailable) as error:
                if time.monotonic() > item.until:
                    self._lost(item.content, str(error))
                else:
                    self._waiting.append(item)
                if isinstance(error, LayerUnavailable):
                    # It would be the same for the others, after as long a wait for each.
                    return
            except OffloadError as error:
                self._lost(item.content, str(error))

    def _deliver(self, item: _Waiting) -> None:
        if item.only_after is None or (item.turn is not None and item.turn.outcome == item.only_after):
            self._send(item.content, item.turn)

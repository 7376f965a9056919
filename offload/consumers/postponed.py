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
"""How long a message waits for a layer that is away, or for a place on its channel."""
FULL_PAUSE_SECONDS = 0.02
"""Between two tries to put a message on a full channel, when the process ends."""


@dataclass
class _Waiting:
    content: Content
    turn: Turn | None
    only_after: str | None
    until: float = 0.0

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Nothing but the layer is to be waited for from now on."""
        self.until = time.monotonic() + KEEP_SECONDS

    @property
    def is_due(self) -> bool:
        return self.only_after is None or (self.turn is not None and self.turn.outcome == self.only_after)


class Postponed:
    """What waits to be sent.

    Args:
        send: sends a message whose connection's last turn, if one is given, is settled.
        is_settled: whether a turn has ended, or never will.
        forget: told of a turn that nothing waits for any more.
        lost: told of a message that could not be sent, and why.
    """

    def __init__(
        self,
        send: Callable[[Content, Turn | None], None],
        is_settled: Callable[[Turn], bool],
        forget: Callable[[Turn], None],
        lost: Callable[[Content, str], None],
    ) -> None:
        self._send = send
        self._is_settled = is_settled
        self._forget = forget
        self._lost = lost
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        # What the thread is sending, which is not in the list meanwhile.
        self._in_hand: _Waiting | None = None
        self._ending = threading.Event()
        self._has_ended = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, content: Content, turn: Turn | None, only_after: str | None = None) -> None:
        """Send a message as soon as it may be.

        Args:
            content: the message.
            turn: its connection's last turn; it goes behind that one.
            only_after: it is sent only if that turn has this outcome.
        """
        item = _Waiting(content, turn, only_after)
        with self._lock:
            if not self._has_ended:
                self._waiting.append(item)
                if self._thread is None and not self._ending.is_set():
                    thread = threading.Thread(target=self._serve, name="offload-postponed", daemon=True)
                    thread.start()
                    self._thread = thread
                return
        self._lose(item, "the process has ended")

    def stop(self, deadline: float) -> None:
        """The process ends: send everything, in whatever order. What cannot be sent until then is lost.

        Args:
            deadline: on the monotonic clock.
        """
        with self._lock:
            self._ending.set()
            thread = self._thread
        if thread is not None:
            # It puts back what it could not send.
            thread.join(max(0.0, deadline - time.monotonic()))
        if thread is not None and thread.is_alive():
            why: str | None = "the process ends before the layer has answered"
        else:
            why = self._send_all(deadline)
        with self._lock:
            self._has_ended = True
            rest = [*self._waiting] if self._in_hand is None else [self._in_hand, *self._waiting]
            self._waiting.clear()
        for item in rest:
            self._lose(item, why or "the process ends")

    def _send_all(self, deadline: float) -> str | None:
        """Returns why the rest cannot be sent, or None when all is done."""
        while self._waiting:
            item = self._waiting.popleft()
            try:
                self._deliver(item)
            except ChannelFull as error:
                self._waiting.appendleft(item)
                if time.monotonic() + FULL_PAUSE_SECONDS > deadline:
                    return str(error)
                time.sleep(FULL_PAUSE_SECONDS)
            except LayerUnavailable as error:
                self._waiting.appendleft(item)
                return str(error)
            except OffloadError as error:
                self._lose(item, str(error))
        return None

    def _serve(self) -> None:
        while not self._ending.wait(LOOK_SECONDS):
            self._look()
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return

    def _look(self) -> None:
        for _ in range(len(self._waiting)):
            if self._ending.is_set():
                return
            item = self._waiting.popleft()
            if item.turn is not None and not self._is_settled(item.turn):
                item.begin()
                self._waiting.append(item)
                continue
            if time.monotonic() > item.until:
                # Before it is tried: each try may take as long as the layer's timeout.
                self._lose(item, f"it could not be sent for {KEEP_SECONDS:g} s")
                continue
            self._in_hand = item
            try:
                self._deliver(item)
            except (ChannelFull, LayerUnavailable):
                # It would be the same for the others, which go to the same channel.
                self._waiting.append(item)
                return
            except OffloadError as error:
                self._lose(item, str(error))
            finally:
                self._in_hand = None

    def _deliver(self, item: _Waiting) -> None:
        if item.is_due:
            self._send(item.content, item.turn)
        if item.turn is not None:
            self._forget(item.turn)

    def _lose(self, item: _Waiting, why: str) -> None:
        if item.turn is not None:
            self._forget(item.turn)
        if item.is_due:
            self._lost(item.content, why)

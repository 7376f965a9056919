"""Disconnect messages that cannot be sent yet, in the process that owns the sockets.

The layer is away, or an earlier message of the connection may still be on its way; or it is unknown whether the message
itself was sent, so that it must not be sent again before that is known. They wait in one list, served by one thread
(a greenlet, where gevent has patched threads), so that an outage costs no greenlet for each client that leaves.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from offload.consumers.dispatch.turns import Turn
from offload.exceptions import ChannelFull, LayerUnreachable, OffloadError
from offload.interfaces import Content

LOOK_SECONDS = 0.2
"""Between two looks at what waits."""
KEEP_SECONDS = 600.0
"""How long a message waits for a layer that is away, or for a place on its channel."""
LAST_PAUSE_SECONDS = 0.02
"""Between two tries to put a message on its channel, when the process ends."""


@dataclass
class _Waiting:
    """One message.

    Attributes:
        after: its connection's last turn; it goes behind that one.
        only_after: the outcome that this one must have, or nothing is sent.
        own: its own turn, while it is unknown whether it was sent.
        until: when it is given up; it begins when only the layer is missing.
    """

    content: Content
    after: Turn | None
    only_after: str | None
    own: Turn | None
    until: float = 0.0

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.until = time.monotonic() + KEEP_SECONDS

    @property
    def is_due(self) -> bool:
        return self.only_after is None or (self.after is not None and self.after.outcome == self.only_after)

    @property
    def is_undecided(self) -> bool:
        """Whether it may become due yet."""
        return self.only_after is not None and self.after is not None and self.after.outcome is None


class Sender(Protocol):
    """Sends disconnect messages, and knows the turns of a process."""

    def send_disconnect(self, content: Content, after: Turn | None) -> Turn | None:
        """Send a message whose connection's last turn, if one is given, is settled.

        Returns:
            None, or the message's own turn where it is unknown whether it was sent.

        Raises:
            ChannelFull, LayerUnreachable, MessageTooLarge: it was not sent.
        """

    def is_settled(self, turn: Turn) -> bool:
        """Whether a turn has ended, or never will."""

    def wait(self, turn: Turn, deadline: float) -> bool:
        """Wait until a turn has ended, or the deadline, or it is in vain. Returns whether it has ended."""

    def forget(self, turn: Turn) -> None:
        """Nothing waits for this turn any more."""

    def lose(self, path: str, why: str, in_doubt: bool) -> None:
        """The message of a connection at this path is given up; `in_doubt` where it may have been sent."""

    def end_refused(self, content: Content, turn: Turn) -> None:
        """A message is not due; its connection's last turn has ended."""


class Postponed:
    """The disconnect messages that wait.

    Args:
        sender: sends them.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        # What the thread is sending, which is not in the list meanwhile.
        self._in_hand: _Waiting | None = None
        self._ending = threading.Event()
        self._has_ended = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, content: Content, after: Turn | None, only_after: str | None = None, own: Turn | None = None) -> None:
        """Send a message as soon as it may be.

        Args:
            content: the message.
            after: its connection's last turn; it goes behind that one.
            only_after: it is sent only if that turn has this outcome.
            own: its own turn, where it may have been sent already: only if nobody runs that one, it is sent again.
        """
        item = _Waiting(content, after, only_after, own)
        with self._lock:
            if not self._has_ended:
                self._waiting.append(item)
                if self._thread is None and not self._ending.is_set():
                    thread = threading.Thread(target=self._serve, name="offload-postponed", daemon=True)
                    thread.start()
                    self._thread = thread
                return
        self._lose(item, "the process has ended")

    def stop(self, deadline: float, patience: float) -> None:
        """The process ends: send everything, in whatever order. What cannot be sent until then is lost.

        Args:
            deadline: on the monotonic clock.
            patience: seconds to wait for a layer that is away, within that.
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
            why = self._send_all(deadline, patience)
        with self._lock:
            self._has_ended = True
            rest = [*self._waiting] if self._in_hand is None else [self._in_hand, *self._waiting]
            self._waiting.clear()
        for item in rest:
            self._lose(item, why or "the process ends before the message ahead of it is known to have ended")

    def _send_all(self, deadline: float, patience: float) -> str | None:
        """Returns why the rest cannot be sent, or None when all is done."""
        in_doubt: list[_Waiting] = []
        with self._lock:
            undecided = [item for item in self._waiting if item.is_undecided]
            self._waiting = deque(item for item in self._waiting if not item.is_undecided)
        return_deadline = min(deadline, time.monotonic() + patience)
        why = self._send_waiting(deadline, return_deadline, in_doubt)
        for item in undecided:
            turn = item.after
            # Not for one of which nothing has been heard for so long.
            if why is None and turn is not None and (turn.heard or turn.sent) + patience > time.monotonic():
                self._sender.wait(turn, deadline)
        self._waiting.extend(item for item in undecided if not item.is_undecided)
        why = why or self._send_waiting(deadline, return_deadline, in_doubt)
        for item in in_doubt:
            assert item.own is not None
            if self._sender.wait(item.own, deadline):
                self._sender.forget(item.own)
            else:
                self._lose(item, "the process ends before anything was heard of it")
        self._waiting.extend(item for item in undecided if item.is_undecided)
        return why

    def _send_waiting(self, deadline: float, return_deadline: float, in_doubt: list[_Waiting]) -> str | None:
        """The same for those that are decided; what may have been sent is added to `in_doubt`."""
        why: str | None = None
        while self._waiting and why is None:
            item = self._waiting.popleft()
            try:
                if item.own is not None or not self._deliver(item):
                    in_doubt.append(item)
            except (ChannelFull, LayerUnreachable) as error:
                self._waiting.appendleft(item)
                until = deadline if isinstance(error, ChannelFull) else return_deadline
                if time.monotonic() + LAST_PAUSE_SECONDS > until:
                    why = str(error)
                else:
                    time.sleep(LAST_PAUSE_SECONDS)
            except OffloadError as error:
                self._lose(item, str(error))
        return why

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
            last = item.after if item.own is None else item.own
            if last is not None and not self._sender.is_settled(last):
                item.begin()
                self._waiting.append(item)
                continue
            if item.own is not None and not self._is_to_be_sent_again(item, item.own):
                continue
            if time.monotonic() > item.until:
                # Before it is tried: each try may take as long as the layer's timeout.
                self._lose(item, f"it could not be sent for {KEEP_SECONDS:g} s")
                continue
            self._in_hand = item
            try:
                if not self._deliver(item):
                    self._waiting.append(item)
                    return
            except (ChannelFull, LayerUnreachable):
                # It would be the same for the others, which go to the same channel.
                self._waiting.append(item)
                return
            except OffloadError as error:
                self._lose(item, str(error))
            finally:
                self._in_hand = None

    def _is_to_be_sent_again(self, item: _Waiting, own: Turn) -> bool:
        """Its own turn is settled: it has run, or its worker is gone, or no worker had it."""
        if own.outcome is None and own.heard is not None:
            self._lose(item, "the worker that ran it is gone")
            return False
        self._sender.forget(own)
        item.own = None
        return own.outcome is None

    def _deliver(self, item: _Waiting) -> bool:
        """Returns False where it is unknown whether it was sent."""
        if item.is_due:
            item.own = self._sender.send_disconnect(item.content, item.after)
        elif item.after is not None:
            self._sender.end_refused(item.content, item.after)
        if item.after is not None:
            self._sender.forget(item.after)
        return item.own is None

    def _lose(self, item: _Waiting, why: str) -> None:
        for turn in (item.after, item.own):
            if turn is not None:
                self._sender.forget(turn)
        if item.is_due or item.is_undecided:
            self._sender.lose(item.content["path"], why, item.own is not None or item.is_undecided)

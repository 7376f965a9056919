"""What other processes ask of this one through the hub: changes of membership, carried out in order.

They wait for answers that the link's reader brings, so they run in a thread of their own, which ends when there is no
more to do. Knows no frames.
"""

from __future__ import annotations

import logging
import threading
from _thread import RLock
from collections import deque
from collections.abc import Callable

from offload.exceptions import LayerUnavailable

logger = logging.getLogger("offload.layer")

Carry = Callable[[bool, str, str], None]


class Calls:
    """Carries out calls.

    Args:
        find_carrier: what carries one out (add, or else discard; the group; the channel), which may wait and raise;
            None when nobody does any more.
        answer: is told a call's number and None, or why it failed.
    """

    def __init__(self, find_carrier: Callable[[], Carry | None], answer: Callable[[int, str | None], None]) -> None:
        self._find_carrier = find_carrier
        self._answer = answer
        self._lock = RLock()
        self._waiting: deque[tuple[int, bool, str, str]] = deque()
        self._running = False

    def take(self, number: int, add: bool, group: str, channel: str) -> None:
        with self._lock:
            self._waiting.append((number, add, group, channel))
            if self._running:
                return
            self._running = True
        try:
            threading.Thread(target=self._run, name="offload-ipc-calls", daemon=True).start()
        except RuntimeError:
            self._running = False
            logger.exception("layer 'ipc': no thread for what other processes ask")

    def clear(self) -> None:
        """Forget what waits."""
        with self._lock:
            self._waiting.clear()

    def _run(self) -> None:
        try:
            self._carry_out_all()
        except BaseException:
            # An interrupt of the whole process, which came here: the next call starts another.
            self._running = False
            raise

    def _carry_out_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running = False
                    return
                number, add, group, channel = self._waiting.popleft()
            carry = self._find_carrier()
            error: str | None = None
            try:
                if carry is not None:
                    carry(add, group, channel)
            except LayerUnavailable as failed:
                error = str(failed)
            except Exception as failed:
                logger.exception("layer 'ipc': a change of membership failed")
                error = f"{type(failed).__name__}: {failed}"
            del carry
            self._answer(number, error)

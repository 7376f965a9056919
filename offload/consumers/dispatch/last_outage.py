"""The last outage of the layer, as far as this process knows: workers that were not heard meanwhile may still live.

Calls that fail show an outage. A process that only waits for messages would not notice one, so it checks the layer once
a second. A layer that takes long to answer counts as away meanwhile.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from offload.exceptions import OffloadError
from offload.interfaces import Layer

ASK_SECONDS = 1.0
"""Between two checks of the layer."""
LONG_SECONDS = 0.5
"""A layer that takes longer to answer counts as away."""


class Outage:
    """The layer's outages.

    Args:
        layer: is checked.
        look: called after each check; returns whether anybody waits for messages through the layer.
    """

    def __init__(self, layer: Layer, look: Callable[[], bool]) -> None:
        self._layer = layer
        self._look = look
        self._is_away = False
        self._ended = -math.inf
        # When the question was put that has no answer yet.
        self._asked: float | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        # Somebody has come since the last look.
        self._is_wanted = False
        self._stopping = threading.Event()

    @property
    def is_likely(self) -> bool:
        """Whether the layer is away now, or has not said yet that it is there."""
        return self._is_away or self._asked is not None

    @property
    def is_watching(self) -> bool:
        """Whether the layer is checked now."""
        return self._thread is not None

    @property
    def until(self) -> float:
        """When the layer was last away, on the monotonic clock; now, while it may be; minus infinity if never."""
        return time.monotonic() if self.is_likely else self._ended

    def found(self) -> None:
        """A call has failed."""
        self._is_away = True
        self.watch()

    def watch(self) -> None:
        """Check the layer from now on, for as long as anybody waits or it is away."""
        with self._lock:
            self._is_wanted = True
            if self._thread is not None or self._stopping.is_set():
                return
            thread = self._thread = threading.Thread(target=self._run, name="offload-outage", daemon=True)
        # Not under the lock: starting waits for the thread.
        thread.start()

    def stop(self) -> None:
        """The process ends."""
        self._stopping.set()

    def _run(self) -> None:
        try:
            while True:
                self._ask()
                self._stopping.wait(ASK_SECONDS)
                is_awaited = self._look()
                with self._lock:
                    if self._stopping.is_set() or not (is_awaited or self._is_wanted or self._is_away):
                        self._thread = None
                        return
                    self._is_wanted = False
        except BaseException:
            # Our bug, or an interrupt of the whole process, which came here: the next who waits starts another.
            self._thread = None
            raise

    def _ask(self) -> None:
        self._asked = asked = time.monotonic()
        try:
            self._layer.check()
        except OffloadError:
            # Logged by those who have something to send.
            self._is_away = True
        else:
            now = time.monotonic()
            if self._is_away or now - asked > LONG_SECONDS:
                self._ended = now
            self._is_away = False
        finally:
            self._asked = None

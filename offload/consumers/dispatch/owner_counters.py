"""What the dispatch through the layer counts in one process that owns sockets, and how an operator hears of it."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, fields

log = logging.getLogger("offload.consumer")

TELL_SECONDS = 60.0
"""What was given up or postponed is summed up once in this time, at most."""

_TOLD = ("too_busy", "silent", "unavailable", "postponed", "lost")


@dataclass
class DispatchCounters:
    """Counts since the process began.

    Attributes:
        turns: messages that were given to the workers, and waited for.
        full: tries that met a full channel.
        unreachable: tries that found the layer away, so that nothing was sent.
        in_doubt: messages at which the layer failed so that nobody knew whether they were sent.
        too_busy: messages given up because their channel stayed full.
        silent: messages given up because no worker gave a sign of life.
        unavailable: messages given up because the layer stayed away.
        dropped: later messages of connections that are closing for one of these reasons.
        postponed: disconnect messages that had to wait for the layer, or for an earlier message.
        lost: disconnect messages that found no way to the workers, or of which no worker has said that it ran.
    """

    turns: int = 0
    full: int = 0
    unreachable: int = 0
    in_doubt: int = 0
    too_busy: int = 0
    silent: int = 0
    unavailable: int = 0
    dropped: int = 0
    postponed: int = 0
    lost: int = 0

    def __post_init__(self) -> None:
        self._told = dict.fromkeys(_TOLD, 0)
        self._timer: threading.Timer | None = None

    def give_up(self, counter: str) -> None:
        """Count a message that was given up. Each has its own line in the log; those of a minute have their sum."""
        setattr(self, counter, getattr(self, counter) + 1)
        self._tell_later()

    def postpone(self, path: str, why: object) -> None:
        """Count a disconnect message that could not be sent at once. The first has its own line in the log; it is often
        so for all clients at the same time, so that the others of that minute have their sum alone.

        Args:
            path: its connection's.
            why: it could not.
        """
        if self.postponed == self._told["postponed"]:
            log.warning("the disconnect message for %s waits, as others may: %s", path, why)
        self.postponed += 1
        self._tell_later()

    def _tell_later(self) -> None:
        if self._timer is None:
            self._timer = timer = threading.Timer(TELL_SECONDS, self._tell)
            timer.daemon = True
            timer.start()

    def stop(self) -> None:
        """The process ends: say what there was."""
        if self._timer is not None:
            self._timer.cancel()
        log.info("messages for workers: %s", ", ".join(f"{name} {count}" for name, count in self._all().items()))

    def _tell(self) -> None:
        self._timer = None
        counts = self._all()
        grown = {name: counts[name] - told for name, told in self._told.items() if counts[name] > told}
        self._told = {name: counts[name] for name in _TOLD}
        log.warning(
            "messages for workers given up, or postponed, within %g s: %s",
            TELL_SECONDS,
            ", ".join(f"{name} {count}" for name, count in grown.items()),
        )

    def _all(self) -> dict[str, int]:
        return {item.name: getattr(self, item.name) for item in fields(self)}

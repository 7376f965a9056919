"""What lines of the log share: clients' addresses and paths as text, summaries of lines that come by the thousand, and
loggers whose handlers may fail.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

LINES = 10
PERIOD_SECONDS = 10.0


def address_text(peer: object) -> str:
    """A client's address for the log: ``192.0.2.7:51234``, ``[2001:db8::7]:51234``, or ``a Unix socket``.

    Args:
        peer: the address as the socket module gives it, or ``(host, port)``.
    """
    if not isinstance(peer, (tuple, list)) or not peer[0]:
        return "a Unix socket"
    host, port = peer[0], peer[1]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    # Python 3.10 takes no argument there.
    _Adapter = logging.LoggerAdapter


class SafeLogger(_Adapter):
    """A logger for whoever has an answer to give: a handler that fails costs its caller nothing, and is told of on
    stderr, as handlers of the standard library are.

    Args:
        name: of the logger.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *arguments: Any, **more: Any) -> None:
        """See `logging.Logger.log`."""
        try:
            super().log(level, msg, *arguments, **more)
        except Exception:  # noqa: BLE001 -- it is told
            traceback.print_exc()


def path_text(path: str) -> str:
    """A request's path for the log, on one line: a client chooses what its percent-encoding decodes to."""
    return path if path.isascii() and path.isprintable() else ascii(path)[1:-1]


class Timer(Protocol):
    """A timer of an event loop."""

    def start(self, callback: Callable[[], None]) -> None:
        """Call back once, when its time is over."""

    def close(self) -> None:
        """Forget it."""


class RepeatedLines:
    """Logs lines that may come by the thousand: the first few of each kind in a period, and the number of the others
    at its end.

    Args:
        log: where to.
        what: they say, in the plural, for the summary: ``WebSockets were refused``.
        make_timer: makes a timer of so many seconds.
        lines: of one kind and period that are logged.
        seconds: that a period has.
    """

    def __init__(
        self,
        log: logging.Logger | SafeLogger,
        what: str,
        make_timer: Callable[[float], Timer],
        lines: int = LINES,
        seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._log = log
        self._what = what
        self._make_timer = make_timer
        self._lines = lines
        self._seconds = seconds
        self._timer: Timer | None = None
        self._level = 0
        self._counts: Counter[str] = Counter()

    def write(self, level: int, kind: str, line: str, *arguments: Any) -> None:
        """Log a line, or count it.

        Args:
            level: of the line.
            kind: what it counts as, one of a few.
            line, arguments: as for a logger.
        """
        self._counts[kind] += 1
        if self._timer is None:
            self._timer = self._make_timer(self._seconds)
            self._timer.start(self._sum_up)
        if self._counts[kind] <= self._lines:
            self._log.log(level, line, *arguments)
        else:
            self._level = max(self._level, level)

    def _sum_up(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        others = +Counter({kind: number - self._lines for kind, number in self._counts.items()})
        level, self._level = self._level, 0
        self._counts.clear()
        if others:
            kinds = ", ".join(f"{kind}: {number}" for kind, number in others.most_common())
            self._log.log(level, "%d more %s within %g s (%s)", others.total(), self._what, self._seconds, kinds)

"""Figures for StatsD, under gunicorn's names, so that dashboards go on.

They are datagrams that nobody waits for. With DataDog's extension each has tags.
"""

from __future__ import annotations

import logging
import re
import socket
from typing import Any

from offload.observe.observer import Answer, Environ, Observer

log = logging.getLogger("offload.server")

DEFAULT_PORT = 8125
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>\d{1,5}))?")


class StatsD:
    """Sends figures.

    Args:
        host: ``HOST:PORT`` or ``unix://PATH``. Where it leads nowhere nothing is sent, and the log tells.
        prefix: of all names.
        tags: of all figures, for DataDog, separated by commas.
    """

    def __init__(self, host: str, prefix: str = "", tags: str = "") -> None:
        prefix = prefix.rstrip(".")
        self._prefix = f"{prefix}." if prefix else ""
        self._tags = f"|#{tags}" if tags else ""
        self._host = host
        self._fails = False
        self._sock: socket.socket | None = None
        try:
            self._sock = _connected(self._host)
        except (OSError, ValueError, UnicodeError) as error:
            log.warning("no figures are sent to StatsD at %s: %s", self._host, error)

    def gauge(self, name: str, value: float) -> None:
        """A value that stays until the next one."""
        self._send(self._line(name, value, "g"))

    def count(self, name: str, number: int = 1) -> None:
        """Something has happened so many times."""
        self._send(self._line(name, number, "c|@1.0"))

    def answered(self, status: str, seconds: float | None) -> None:
        """A request has been answered: its status, if it got as far, and its seconds, if the application had it."""
        lines = [self._line("gunicorn.requests", 1, "c|@1.0")]
        if status:
            lines.append(self._line(f"gunicorn.request.status.{status}", 1, "c|@1.0"))
        if seconds is not None:
            lines.insert(0, self._line("gunicorn.request.duration", round(seconds * 1000, 3), "ms"))
        self._send("\n".join(lines))

    def close(self) -> None:
        """Send nothing more."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _line(self, name: str, value: float, kind: str) -> str:
        return f"{self._prefix}{name}:{value}|{kind}{self._tags}"

    def _send(self, text: str) -> None:
        if self._sock is None:
            return
        try:
            self._sock.send(text.encode("utf-8", "replace"))
        except OSError as error:
            if not self._fails:
                self._fails = True
                log.info("figures for StatsD at %s are lost: %s", self._host, error.strerror)
        else:
            self._fails = False


def _connected(host: str) -> socket.socket:
    family: int
    where: Any
    if host.startswith("unix:"):
        family, where = socket.AF_UNIX, host.removeprefix("unix:").removeprefix("//")
    else:
        match = _ADDRESS.fullmatch(host)
        if match is None:
            raise ValueError("it is not HOST:PORT or unix://PATH")
        port = int(match["port"] or DEFAULT_PORT)
        family, _, _, _, where = socket.getaddrinfo(match["v6"] or match["host"], port, type=socket.SOCK_DGRAM)[0]
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect(where)
    except OSError:
        sock.close()
        raise
    return sock


class StatsDObserver(Observer):
    """Tells StatsD of each answer."""

    __slots__ = ("_statsd",)

    def __init__(self, statsd: StatsD) -> None:
        self._statsd = statsd

    def request(self, environ: Environ, peer: object, answer: Answer, seconds: float) -> None:
        """See `Observer`."""
        self._statsd.answered(answer.status[:3], seconds)

    def refusal(self, environ: Environ | None, peer: object, status: int) -> None:
        """See `Observer`."""
        self._statsd.answered(str(status), None)

    def handshake(self, environ: Environ | None, peer: object, status: int) -> None:
        """See `Observer`."""
        self._statsd.answered(str(status), None)


class StatsDHandler(logging.Handler):
    """Tells StatsD how many warnings, errors and exceptions there are in the log."""

    def __init__(self, statsd: StatsD) -> None:
        super().__init__(logging.WARNING)
        self._statsd = statsd

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        kind = "exception" if record.exc_info else record.levelname.lower()
        self._statsd.count(f"gunicorn.log.{kind}")

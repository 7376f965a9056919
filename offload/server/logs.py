"""Logging of a server, in gunicorn's form; a file can be begun anew when the old one was moved away."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime, timezone

from offload.exceptions import ConfigurationError
from offload.settings import LogOptions

FORMAT = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
DATE_FORMAT = "[%Y-%m-%d %H:%M:%S %z]"


class JsonFormatter(logging.Formatter):
    """An object a line, for collectors of logs.

    Its keys are ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``process``, ``message``, and ``exception`` (a
    traceback) where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        document = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


class _File(logging.FileHandler):
    """The log in a file, which other processes share."""

    # Whether the next line is to begin a new file.
    is_stale = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.is_stale:
            self.reopen()
        super().emit(record)

    def reopen(self) -> None:
        """Begin a new file of that name; where that cannot be, go on with the old one."""
        self.is_stale = False
        try:
            stream = self._open()
        except OSError as error:
            # In this very file, and not once for each of its lines.
            logging.getLogger("offload.server").error(
                "cannot write the log %r: %s; the old one goes on", self.baseFilename, error.strerror
            )
            return
        self.acquire()
        try:
            # Not by setStream, which flushes first: a disk that is full is no reason to keep its file.
            old, self.stream = self.stream, stream
        finally:
            self.release()
        if old is not None:
            # What it could not write is lost, and was told of when it was logged.
            with contextlib.suppress(OSError):
                old.close()


def set_up(options: LogOptions) -> None:
    """Send offload's log to its file, or to stderr for ``-``.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    file = options.file
    handler: logging.Handler
    try:
        handler = logging.StreamHandler(sys.stderr) if file == "-" else _File(file)
    except OSError as error:
        raise ConfigurationError(f"cannot write the log {file!r}: {error.strerror}") from error
    handler.setFormatter(JsonFormatter() if options.format == "json" else logging.Formatter(FORMAT, DATE_FORMAT))
    log = logging.getLogger("offload")
    log.setLevel(options.level.upper())
    log.handlers = [handler]
    log.propagate = False


def enable() -> None:
    """Undo what an application's logging does by default to loggers that it does not name: it disables them."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "offload" and isinstance(logger, logging.Logger):
            logger.disabled = False


def _files() -> Iterator[_File]:
    return (handler for handler in logging.getLogger("offload").handlers if isinstance(handler, _File))


def reopen() -> None:
    """Begin new files of the same names, for when the old ones were moved away. Not for a signal's handler, which may
    interrupt a line."""
    for handler in _files():
        handler.reopen()


def reopen_later() -> None:
    """`reopen` before the next line; for a signal's handler."""
    for handler in _files():
        handler.is_stale = True

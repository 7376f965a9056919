"""Logging of a server, in gunicorn's form; a file can be begun anew when the old one was moved away."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import TextIO

from offload.exceptions import ConfigurationError
from offload.server.log_configuration import (
    ACCESS_LOGGER,
    DATE_FORMAT,
    FORMAT,
    SERVER_LOGGER,
    configure,
    syslog_handler,
)
from offload.settings import LogOptions

log = logging.getLogger("offload.server")


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
    # Whether stdout and stderr are this file, too.
    captures = False

    def capture(self) -> None:
        """Send what is printed, by whatever in this process and its children, into the file."""
        if self.captures and self.stream is not None:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(self.stream.fileno(), stream.fileno())

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
            log.error("cannot write the log %r: %s; the old one goes on", self.baseFilename, error.strerror)
            return
        self.acquire()
        try:
            # Not by setStream, which flushes first: a disk that is full is no reason to keep its file.
            old, self.stream = self.stream, stream
        finally:
            self.release()
        self.capture()
        if old is not None:
            # What it could not write is lost, and was told of when it was logged.
            with contextlib.suppress(OSError):
                old.close()


def set_up(options: LogOptions) -> None:
    """Send offload's log to its file, or to stderr for ``-``; and where syslog or a configuration of logging say.

    Raises:
        ConfigurationError: the file cannot be written, or the configuration cannot be used.
    """
    file = options.file
    handler: logging.Handler
    try:
        handler = logging.StreamHandler(sys.stderr) if file == "-" else _File(file)
    except OSError as error:
        raise ConfigurationError(f"cannot write the log {file!r}: {error.strerror}") from error
    handler.setFormatter(JsonFormatter() if options.format == "json" else logging.Formatter(FORMAT, DATE_FORMAT))
    logger = logging.getLogger(SERVER_LOGGER)
    logger.setLevel(options.level.upper())
    logger.handlers = [handler]
    logger.propagate = False
    logging.getLogger(ACCESS_LOGGER).handlers = []
    if options.syslog:
        logger.addHandler(syslog_handler(options))
    configure(options)
    if options.capture_output and isinstance(handler, _File):
        handler.captures = True
        handler.capture()


def enable() -> None:
    """Undo what an application's logging does by default to loggers that it does not name: it disables them."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "offload" and isinstance(logger, logging.Logger):
            logger.disabled = False


def _files() -> Iterator[_File]:
    return (handler for handler in logging.getLogger(SERVER_LOGGER).handlers if isinstance(handler, _File))


class ErrorStream:
    """``wsgi.errors``: the file of the log, whichever that is by now."""

    def write(self, text: str) -> int:
        """Append a text."""
        for handler in _files():
            stream = handler.stream
            if stream is not None:
                stream.write(text)
                stream.flush()
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Append texts."""
        self.write("".join(texts))

    def flush(self) -> None:
        """Nothing waits."""


def error_stream() -> TextIO | ErrorStream:
    """What becomes ``wsgi.errors``: where the log goes."""
    return ErrorStream() if any(_files()) else sys.stderr


def reopen() -> None:
    """Begin new files of the same names, for when the old ones were moved away. Not for a signal's handler, which may
    interrupt a line."""
    for handler in _files():
        handler.reopen()
    for name in (SERVER_LOGGER, ACCESS_LOGGER):
        for other in logging.getLogger(name).handlers:
            if isinstance(other, logging.FileHandler) and not isinstance(other, _File):
                _begin_anew(other)


def _begin_anew(handler: logging.FileHandler) -> None:
    """Begin a new file for a handler of the operator's configuration."""
    try:
        stream = open(handler.baseFilename, "a", encoding=handler.encoding)  # noqa: SIM115
    except OSError as error:
        log.error("cannot write the log %r: %s; the old one goes on", handler.baseFilename, error.strerror)
        return
    old = handler.setStream(stream)
    if old is not None:
        with contextlib.suppress(OSError):
            old.close()


def reopen_later() -> None:
    """`reopen` before the next line; for a signal's handler."""
    for handler in _files():
        handler.is_stale = True

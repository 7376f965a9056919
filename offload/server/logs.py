"""Logging of a server, in gunicorn's form."""

from __future__ import annotations

import logging
import sys

from offload.exceptions import ConfigurationError

FORMAT = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
DATE_FORMAT = "[%Y-%m-%d %H:%M:%S %z]"


def set_up(level: str, file: str) -> None:
    """Send offload's log to a file, or to stderr for ``-``.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    handler: logging.Handler
    try:
        handler = logging.StreamHandler(sys.stderr) if file == "-" else logging.FileHandler(file)
    except OSError as error:
        raise ConfigurationError(f"cannot write the log {file!r}: {error.strerror}") from error
    handler.setFormatter(logging.Formatter(FORMAT, DATE_FORMAT))
    log = logging.getLogger("offload")
    log.setLevel(level.upper())
    log.handlers = [handler]
    log.propagate = False

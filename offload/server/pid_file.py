"""The file that ``--pid`` names, with the supervisor's process id in it."""

from __future__ import annotations

import logging
import os

from offload.exceptions import ConfigurationError

log = logging.getLogger("offload.server")


class PidFile:
    """Written at the start, and taken away at the end.

    Args:
        path: None for none.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path

    def write(self) -> None:
        """Put this process's id into it.

        Raises:
            ConfigurationError: it cannot be written.
        """
        if self._path is None:
            return
        try:
            with open(self._path, "w", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
        except OSError as error:
            raise ConfigurationError(f"cannot write the pid file {self._path!r}: {error.strerror}") from error

    def remove(self) -> None:
        """Take it away, if it is ours: another server's stays."""
        if self._path is None:
            return
        try:
            with open(self._path, encoding="ascii") as file:
                if file.read().strip() != str(os.getpid()):
                    return
            os.unlink(self._path)
        except (OSError, ValueError) as error:
            log.debug("the pid file %r was left alone: %s", self._path, error)

"""The file that ``--pid`` names, with the supervisor's process id in it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from typing import IO

from offload.exceptions import ConfigurationError

log = logging.getLogger("offload.server")


class PidFile:
    """Written at the start, locked while the server runs, and taken away at the end.

    Args:
        path: None for none.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def write(self) -> None:
        """Put this process's id into it.

        Raises:
            ConfigurationError: it cannot be written, or is that of a server that runs.
        """
        if self._path is None:
            return
        try:
            file = self._locked(self._path)
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        except OSError as error:
            raise ConfigurationError(f"cannot write the pid file {self._path!r}: {error.strerror}") from error
        self._file = file

    def _locked(self, path: str) -> IO[str]:
        while True:
            file = open(path, "a+", encoding="ascii", errors="replace")  # noqa: SIM115
            try:
                # Not by asking whether such a process runs: after a crash that may be any.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                pid = file.read().strip()
                file.close()
                raise ConfigurationError(
                    f"the pid file {path!r} is that of process {pid}, which runs; end it, or name another file"
                ) from None
            except OSError as error:
                # Some file systems have no locks.
                log.debug("the pid file %r is not locked: %s", path, error)
            # The server that had it may have taken it away since it was opened.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                    return file
            file.close()

    def leave(self) -> None:
        """In a forked child, which may outlive the supervisor: the lock is the supervisor's alone."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Take it away, if it is ours: another server's stays."""
        if self._path is None or self._file is None:
            return
        try:
            with open(self._path, encoding="ascii") as file:
                if file.read().strip() == str(os.getpid()):
                    os.unlink(self._path)
        except (OSError, ValueError) as error:
            log.debug("the pid file %r was left alone: %s", self._path, error)
        # Only now may another server have it.
        self._file.close()

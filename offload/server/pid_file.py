"""The file that ``--pid`` names, with the supervisor's process id in it.

What is no file (``/dev/null``, a pipe) gets the number as well, and nothing else: it is nobody's own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
from typing import IO

from offload.exceptions import ConfigurationError

log = logging.getLogger("offload.server")

_MOST_CHARACTERS = 64
"""More than a process id has; of a file that is none, no more is read."""


class PidFile:
    """Written at the start, locked while the server runs, and taken away at the end.

    Args:
        path: None for none.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        # The file that was written, whatever its name leads to by now.
        self._place = ""
        self._file: IO[str] | None = None

    def write(self) -> None:
        """Put this process's id into it.

        Raises:
            ConfigurationError: it cannot be written, or is that of a server that runs.
        """
        if self._path is None:
            return
        number = f"{os.getpid()}\n"
        try:
            if not _may_be_ours(self._path):
                # Without waiting for somebody to read it.
                with open(self._path, "w", opener=lambda path, how: os.open(path, how | os.O_NONBLOCK)) as device:
                    device.write(number)
                return
            file = self._put(self._path, number)
        except OSError as error:
            raise ConfigurationError(f"cannot write the pid file {self._path!r}: {error.strerror}") from error
        self._file, self._place = file, os.path.realpath(self._path)

    def renew(self) -> None:
        """Have it where its name leads now, which may be another directory than before; one that is gone comes back."""
        if self._path is None or self._file is None:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno())):
                return
        file, place = self._file, self._place
        try:
            self.write()
        except ConfigurationError as error:
            log.error("%s; the old one stays", error)
            return
        if place == self._place:
            file.close()
        else:
            self._take_away(file, place)

    def _put(self, path: str, number: str) -> IO[str]:
        """Have a file with this text at the path, locked, in one step: nobody reads half of it."""
        new = f"{path}.{os.getpid()}"
        file = open(new, "w", encoding="ascii")  # noqa: SIM115
        try:
            _lock(file, path)
            file.write(number)
            file.flush()
            while not _is_placed(new, path):
                pass
        except BaseException:
            file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            raise
        return file

    def leave(self) -> None:
        """In a forked child, which may outlive the supervisor: the lock is the supervisor's alone."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Take it away, if it is ours: another server's stays."""
        if self._file is not None:
            self._take_away(self._file, self._place)

    @staticmethod
    def _take_away(file: IO[str], place: str) -> None:
        try:
            with open(place, encoding="ascii") as found:
                if found.read().strip() == str(os.getpid()):
                    os.unlink(place)
        except (OSError, ValueError) as error:
            log.debug("the pid file %r was left alone: %s", place, error)
        # Only now may another server have it.
        file.close()


def _may_be_ours(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True


def _is_placed(new: str, path: str) -> bool:
    """Put the new file where none is, or in place of one that no server has any more; False to try again."""
    try:
        os.link(new, path)
    except FileExistsError:
        pass
    else:
        os.unlink(new)
        return True
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ConfigurationError(f"the pid file {path!r} is a symbolic link; name the file itself") from None
        raise
    with open(descriptor, encoding="ascii", errors="replace") as old:
        _lock(old, path)
        text = old.read(_MOST_CHARACTERS)
        if text.strip() and not text.strip().isdigit():
            raise ConfigurationError(f"the pid file {path!r} holds something else than a process id; name another")
        # The server that had it may have taken it away since it was opened.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                os.rename(new, path)
                return True
    return False


def _lock(file: IO[str], path: str) -> None:
    """
    Raises:
        ConfigurationError: another server has locked it.
    """
    try:
        # Not by asking whether such a process runs: after a crash that may be any.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = file.read(_MOST_CHARACTERS).strip()
        raise ConfigurationError(
            f"the pid file {path!r} is that of process {pid}, which runs; end it, or name another file"
        ) from None
    except OSError as error:
        # Some file systems have no locks.
        log.debug("the pid file %r is not locked: %s", path, error)

"""Where the hub's socket is, and who may be behind it.

The default depends on the project's directory and the user, and on nothing else: not on a login session's runtime
directory, so that a service and a cron script of the same user find each other. ``OFFLOAD_RUNTIME_DIR`` in the
environment names another directory for the sockets; both sides need the same.

The directory is private to the user, and so is the socket: who can connect can read every message. Both ends ask the
kernel for the other's user besides, because a directory may have been made by somebody else first.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import struct

from offload.exceptions import ConfigurationError

RUNTIME_DIR_VARIABLE = "OFFLOAD_RUNTIME_DIR"
MOVED_VARIABLE = "_OFFLOAD_MOVED"
"""Set by a server for its processes, and what these start, when a symbolic link to its directory was switched while it
ran: a JSON object with the directory at its start for each of now."""
MAX_PATH_BYTES = 107  # of sockaddr_un's 108, less the final zero

_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group


def default_path(directory: str | None = None) -> str:
    """The hub's socket for a project.

    Args:
        directory: the project's directory; by default the current one. Symbolic links to it lead to the same socket;
            one that is switched while a server runs does not part the server's processes.

    Raises:
        ConfigurationError: the path would be too long for a socket.
    """
    real = as_at_the_start(os.path.realpath(directory if directory is not None else os.getcwd()))
    import hashlib  # with OpenSSL, which most supervisors have no other use for

    name = hashlib.sha256(os.fsencode(real)).hexdigest()[:20]
    runtime = os.environ.get(RUNTIME_DIR_VARIABLE) or f"/tmp/offload-{os.geteuid()}"
    return check_length(os.path.join(absolute(runtime), f"{name}.sock"))


def absolute(path: str) -> str:
    """The path itself, or where a relative one led when the server started."""
    return os.path.normpath(path) if os.path.isabs(path) else as_at_the_start(os.path.abspath(path))


def as_at_the_start(real: str) -> str:
    """What a path without symbolic links was when the server started whose process this is; most often the same."""
    moved: dict[str, str] = json.loads(os.environ.get(MOVED_VARIABLE) or "{}")
    for now in sorted(moved, key=len, reverse=True):
        if f"{real}/".startswith(f"{now}/"):
            return moved[now] + real[len(now) :]
    return real


def check_length(path: str) -> str:
    """The path itself, when a socket can have it."""
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        raise ConfigurationError(
            f"socket path {path!r} has {size} bytes; the system allows {MAX_PATH_BYTES}:"
            f" name a shorter one, or set {RUNTIME_DIR_VARIABLE} to a shorter directory"
        )
    return path


def make_directory(path: str) -> None:
    """Make the socket's directory unless it is there, with mode 0700, and check it."""
    directory = os.path.dirname(path)
    with contextlib.suppress(FileExistsError):
        try:
            os.makedirs(directory, mode=0o700)
        except FileExistsError:
            raise
        except OSError as error:
            raise ConfigurationError(
                f"directory {directory!r} of the hub's socket cannot be made: {_reason(error)};"
                f" name another one, or set {RUNTIME_DIR_VARIABLE}"
            ) from None
    check_directory(path)


def check_directory(path: str, *, foreign: bool = False) -> None:
    """Refuse a directory in which somebody else could put or find a socket.

    Args:
        path: the socket's path.
        foreign: the directory may be another user's; only for root, and where a person named the path.

    Raises:
        FileNotFoundError: there is no such directory (yet).
        ConfigurationError: says what is wrong with it, and the remedy.
    """
    directory = os.path.dirname(path)
    found = os.lstat(directory)
    remedy = f"give the socket a directory of its own, or set {RUNTIME_DIR_VARIABLE}"
    if stat.S_ISLNK(found.st_mode):
        raise ConfigurationError(f"directory {directory!r} of the hub's socket is a symbolic link; {remedy}")
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"directory {directory!r} of the hub's socket is no directory; {remedy}")
    if found.st_uid != os.geteuid() and not foreign:
        raise ConfigurationError(
            f"directory {directory!r} of the hub's socket belongs to user {found.st_uid}, not to {os.geteuid()};"
            f" {remedy}"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise ConfigurationError(
            f"directory {directory!r} of the hub's socket has mode {mode:04o}, which lets others in;"
            f" {remedy}; its mode must be 0700"
        )


def check_socket(path: str) -> None:
    """Refuse what is no socket.

    Raises:
        FileNotFoundError: nothing is there (yet).
        ConfigurationError: something else is.
    """
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        raise ConfigurationError(f"the hub's socket {path!r} is a symbolic link; remove it, or name another path")
    if not stat.S_ISSOCK(mode):
        raise ConfigurationError(f"the hub's socket {path!r} is no socket; remove it, or name another path")


def peer(connected: socket.socket) -> tuple[int, int | None]:
    """The process and the user at the other end, as the kernel knows them; 0 and None where it does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return 0, None
    pid, user, _ = _CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return int(pid), int(user)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()

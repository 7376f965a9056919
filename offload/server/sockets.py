"""Listening sockets: from an address of ``--bind`` to a bound socket. Made by the supervisor, inherited by all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
from collections.abc import MutableMapping

from offload.exceptions import ConfigurationError
from offload.settings import ListenOptions

_TCP = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]]*))(?::(?P<port>\d{1,5}))?")


DEFAULT_PORT = 8000
_FIRST_PASSED = 3
_LARGEST_DESCRIPTOR = 2**31 - 1
KERNEL_UNSENT_BYTES = 262144
"""What the kernel takes for a client beyond what is on its way to it. Left alone it takes megabytes for each that reads
slowly: a thousand of them would have all the memory that the system gives to TCP, and everybody else would wait."""


class Place:
    """The file of a Unix socket that we bound.

    Args:
        path: where it is.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._inode = os.lstat(path).st_ino

    def give_to(self, user: int | None, group: int | None) -> None:
        """Have the server processes' user own it, where that is another."""
        if (user, group) != (None, None):
            os.chown(self._path, -1 if user is None else user, -1 if group is None else group)

    def unlink(self) -> None:
        """Take it away, since it would refuse everybody; unless another server has put its own there."""
        try:
            if os.lstat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        except FileNotFoundError:
            pass


def passed(environ: MutableMapping[str, str]) -> tuple[str, ...]:
    """Addresses of the sockets that systemd has passed (LISTEN_FDS), as ``fd://N``; its variables are taken out."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return ()
    return tuple(f"fd://{number}" for number in range(_FIRST_PASSED, _FIRST_PASSED + int(count)))


def listen(address: str, options: ListenOptions, umask: int = 0) -> tuple[socket.socket, Place | None]:
    """Bind and listen.

    Args:
        address: ``HOST:PORT``, ``HOST``, ``[V6]:PORT``, ``:PORT``, ``unix:PATH`` or ``fd://N``.
        options: how many connections may wait, and whether others may listen there, too.
        umask: bits that a Unix socket does not get in its mode.

    Returns:
        The socket, and the file that it made, if any.

    Raises:
        ConfigurationError: the address is malformed, taken, or not this machine's.
    """
    try:
        sock = _bound(address, options.reuse_port, umask)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            _tune(sock)
        sock.listen(options.backlog)
        place = Place(sock.getsockname()) if address.startswith("unix:") else None
    except OSError as error:
        raise ConfigurationError(f"cannot listen at {address}: {_explained(error)}") from error
    sock.setblocking(False)
    return sock, place


def check(address: str, options: ListenOptions) -> None:
    """Find out whether `listen` could take an address, but for another server that has it. Leaves nothing behind.

    Raises:
        ConfigurationError: as `listen`. The socket of ``fd://N`` need not be there yet.
    """
    try:
        if address.startswith("unix:"):
            _check_place(_unix_path(address))
        elif address.startswith("fd://"):
            _descriptor(address)
        else:
            _bound(address, options.reuse_port, 0).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigurationError(f"cannot listen at {address}: {_explained(error)}") from error


def _check_place(path: str) -> None:
    # The socket of a server that runs is not to be touched.
    directory = os.path.dirname(path) or "."
    if not os.access(directory, os.W_OK | os.X_OK):
        os.stat(directory)
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ConfigurationError(f"cannot listen at unix:{path}: a file that is no socket is there")


def _descriptor(address: str) -> int:
    number = address.removeprefix("fd://")
    if not (number.isascii() and number.isdigit()):
        raise ConfigurationError(f"the address {address!r} is not fd://N with a number")
    if len(number) > 10 or int(number) > _LARGEST_DESCRIPTOR:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return int(number)


def _bound(address: str, reuse_port: bool, umask: int) -> socket.socket:
    if address.startswith("unix:"):
        return _unix(_unix_path(address), umask)
    if address.startswith("fd://"):
        return socket.socket(fileno=_descriptor(address))
    match = _TCP.fullmatch(address)
    port = int(match["port"] or DEFAULT_PORT) if match is not None else 0
    # A bare word is more likely a slip than a host; gunicorn's users write addresses without a port.
    if match is None or (match["port"] is None and "." not in address and match["v6"] is None):
        raise ConfigurationError(f"the address {address!r} is not HOST:PORT, unix:PATH or fd://N")
    if port > 65535:
        raise ConfigurationError(f"the port of the address {address!r} must be from 0 to 65535")
    host = match["v6"] or match["host"] or "0.0.0.0"
    try:
        family, kind, proto, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigurationError(f"cannot listen at {address}: the host {host!r} is not known") from error
    sock = socket.socket(family, kind, proto)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


def _tune(sock: socket.socket) -> None:
    """What accepted sockets inherit."""
    # Small answers must not wait for the client's delayed acknowledgement.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # A kernel that does not know it takes more memory, and serves all the same.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_UNSENT_BYTES)


def _unix_path(address: str) -> str:
    path = address.removeprefix("unix:")
    if not path:
        raise ConfigurationError("the address 'unix:' has no path; write unix:/run/offload.sock")
    return path


def _unix(path: str, umask: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            _remove_stale(path)
    except FileNotFoundError:
        pass
    # Whoever may enter its directory may connect, as with gunicorn: the proxy is another user.
    mask = os.umask(umask)
    try:
        sock.bind(path)
    finally:
        os.umask(mask)
    return sock


def _remove_stale(path: str) -> None:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A server that is stuck has a backlog that is full, and would have us wait; that it is there is all we ask.
    probe.setblocking(False)
    try:
        probe.connect(path)
    except BlockingIOError:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
    except ConnectionRefusedError:
        # Its server ended without taking it away.
        os.unlink(path)
    else:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    finally:
        probe.close()


def _explained(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use; end the program that has it, or choose another with --bind"
    if error.errno == errno.EACCES:
        return "permission denied; ports under 1024 and others' directories need more rights"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return error.strerror or str(error)


def name_of(sock: socket.socket, scheme: str = "http") -> str:
    """Where a socket listens, as a person would type it into a browser, or a path."""
    where = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{where}"
    host = f"[{where[0]}]" if sock.family == socket.AF_INET6 else where[0]
    return f"{scheme}://{host}:{where[1]}"

"""What a process has of the system: user and groups, title, standard streams, limit of files, tie to its parent."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pwd
import resource
import signal
import sys

from offload.exceptions import ConfigurationError
from offload.settings import ProcessOptions, Settings

log = logging.getLogger("offload.server")

_OTHER_FILES = 64
"""Descriptors that a process needs besides those of its connections: libraries, logs, links to the layer."""
_MOST_FILES = 1 << 20
"""Taken where the system has no limit; a table that is larger costs memory, and programs that close all of it time."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def become(options: ProcessOptions) -> None:
    """Take on --user, --group and --initgroups.

    Raises:
        ConfigurationError: the system does not let this user become another.
    """
    user, group = options.user, options.group
    try:
        if group is not None and group != os.getegid():
            os.setgid(group)
        if user is not None and user != os.geteuid():
            if options.initgroups:
                os.initgroups(pwd.getpwuid(user).pw_name, os.getegid())
            elif os.geteuid() == 0:
                os.setgroups([os.getegid()])
            os.setuid(user)
    except PermissionError as error:
        raise ConfigurationError(
            f"user {os.geteuid()} may not become user {user}, group {group}: start the server as root, "
            "or leave --user and --group out"
        ) from error


def give_title(what: str, settings: Settings) -> None:
    """Have `ps` and `top` show what this process is; without effect where setproctitle is not installed."""
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(f"offload: {what} [{settings.process.name or settings.app}]")


def ensure_streams() -> None:
    """Have all three: a socket that got the number of one that is closed would be written into by anybody."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115


def flush_streams() -> None:
    """Send out what is printed, before a fork doubles it or the end drops it."""
    for stream in (sys.stdout, sys.stderr):
        # Nobody reads it, or the application has closed it: then it is lost, and no log is left to tell of it.
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def raise_limit(connections: int, is_asked_for: bool) -> None:
    """Raise the soft limit of open files to the hard one, for this process and its children; say where that is too low.

    Args:
        connections: those that one process promises to hold.
        is_asked_for: whether somebody has set that number, and is to be warned.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError) as error:
            log.warning("the limit of open files stays at %d: %s", soft, error)
    if soft != resource.RLIM_INFINITY and soft < connections + _OTHER_FILES:
        log.log(
            logging.WARNING if is_asked_for else logging.DEBUG,
            "a process may open %d files, so it holds fewer connections than --worker-connections %d; raise the hard "
            "limit (ulimit -Hn, LimitNOFILE= of systemd), or lower the option",
            soft, connections,
        )  # fmt: skip


def end_with_parent(parent: int) -> None:
    """End by SIGTERM when the parent dies; at once when it is dead already.

    For a child that cannot listen to its supervisor: an import may take minutes, and must not outlive it. Linux sends
    the signal; elsewhere a process whose supervisor was killed finds out when its boot is done.

    Args:
        parent: its process id, as it was before the fork.
    """
    _signal_on_its_death(signal.SIGTERM)
    if os.getppid() != parent:
        # It died before the line above, and no signal will come.
        os.kill(os.getpid(), signal.SIGTERM)


def outlive_parent() -> None:
    """From now on the control pair tells of the parent's end, so that what runs can be finished."""
    _signal_on_its_death(0)


def _signal_on_its_death(number: int) -> None:
    if sys.platform == "linux":
        # Without effect where it is forbidden: then the control pair alone tells, later.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0)


def adopt_orphans() -> None:
    """Be the parent of what descendants leave behind, as process 1 is otherwise.

    Raises:
        ConfigurationError: the system does not know that.
    """
    if sys.platform != "linux" or ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0) != 0:
        raise ConfigurationError("--preload needs Linux, where a process may adopt others' children; leave it out")

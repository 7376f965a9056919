"""``--reload``: a process that watches the project's files, and has the supervisor reload when one changes.

It sends the supervisor SIGHUP, as an operator would: new code that fails leaves the old processes serving, and the
next change is the next try.
"""

from __future__ import annotations

import glob
import importlib.util
import logging
import os
import signal
import sysconfig
from collections.abc import Callable, Iterable, Sequence

from offload.exceptions import ConfigurationError
from offload.server import exit_handlers, system

log = logging.getLogger("offload.server")

QUIET_MILLISECONDS = 50
"""How long nothing may change before what has changed is told of: an editor, or git, writes many files."""
LONGEST_MILLISECONDS = 400


def start(directories: Iterable[str], extra_files: Sequence[str], leave: Callable[[], None]) -> None:
    """Fork the process.

    Args:
        directories: where the project's code is; directories of installed packages among them are left out.
        extra_files: further files, or patterns of such.
        leave: called in it first, to let go of what is the supervisor's. It ends with the supervisor.

    Raises:
        ConfigurationError: the watchfiles package is missing, or an extra file.
    """
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigurationError("--reload needs the watchfiles package; run: pip install 'django-offload[reload]'")
    extras = []
    for pattern in extra_files:
        found = glob.glob(pattern, recursive=True)
        if not found:
            raise ConfigurationError(f"--reload-extra-file is {pattern!r}, and there is no such file")
        extras += [os.path.abspath(name) for name in found]
    installed = tuple(os.path.realpath(sysconfig.get_path(path)) for path in ("stdlib", "purelib", "platlib"))
    watched = [name for name in directories if os.path.isdir(name) and not os.path.realpath(name).startswith(installed)]
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            leave()
            exit_handlers.forget()
            system.end_with_parent(supervisor)
            _watch(watched, extras, supervisor)
            status = 0
        except BaseException as error:
            log.critical("changes of code are not watched any more: %r", error, exc_info=error)
        finally:
            os._exit(status)
    log.info("watching %s for changes (--reload), process %d", ", ".join([*watched, *extras]), pid)


def _watch(directories: Sequence[str], extras: Sequence[str], supervisor: int) -> None:
    from watchfiles import Change, PythonFilter, watch

    python = PythonFilter()

    def matters(change: Change, path: str) -> bool:
        return path in extras or python(change, path)

    for changes in watch(
        *directories,
        *extras,
        watch_filter=matters,
        debounce=LONGEST_MILLISECONDS,
        step=QUIET_MILLISECONDS,
        raise_interrupt=False,
    ):
        names = sorted({os.path.relpath(path) for _, path in changes})
        others = f" and {len(names) - 3} others" if len(names) > 3 else ""
        log.info("changed: %s%s", ", ".join(names[:3]), others)
        os.kill(supervisor, signal.SIGHUP)

"""The hooks of a configuration file, and the objects that they get: `server`, `worker` and `cfg`, as gunicorn's.

Hooks written for gunicorn read attributes of these; they are views, and changing one changes nothing but itself.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from offload.settings import OPTIONS, Settings

_BY_GUNICORN = {option.gunicorn: name for name, option in OPTIONS.items() if option.gunicorn is not None}


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    # Python 3.10 knows no parameters of that class.
    _Adapter = logging.LoggerAdapter


class HookLog(_Adapter):
    """The log of the server; `error_log` and `access_log` are loggers, as gunicorn's."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("offload.server"), {})
        self.error_log = self.logger
        self.access_log = logging.getLogger("offload.access")


class Config:
    """The settings, by their names and by gunicorn's."""

    worker_class_str = "gevent"
    threads = 1
    daemon = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            value = self._settings.value_of(_BY_GUNICORN.get(name, name))
        except KeyError:
            raise AttributeError(f"offload has no setting {name!r}") from None
        return list(value) if isinstance(value, tuple) else value

    @property
    def env(self) -> Mapping[str, str]:
        """What --env says."""
        return self._settings.process.variables

    @property
    def address(self) -> list[str]:
        """Where the server listens."""
        return list(self._settings.listen.bind)

    @property
    def is_ssl(self) -> bool:
        """Whether the server speaks TLS."""
        return self._settings.tls.wanted

    @property
    def settings(self) -> dict[str, Any]:
        """All of them by name."""
        return {name: self._settings.value_of(name) for name in OPTIONS}


@dataclass
class Worker:
    """A server process, or a worker, as hooks see it.

    Attributes:
        age: the how manieth process of the server it is.
        pid: its process id; None before the fork.
        ppid: the supervisor's.
        nr: requests and messages that it has served.
        wsgi: the application, once it is imported.
    """

    age: int
    cfg: Config
    log: HookLog
    ppid: int
    pid: int | None = None
    nr: int = 0
    alive: bool = True
    aborted: bool = False
    booted: bool = False
    wsgi: Any = None
    started: float = field(default_factory=time.time)

    @property
    def timeout(self) -> float:
        """--timeout, in seconds; 0 for none."""
        return self.cfg.timeout or 0.0

    def __str__(self) -> str:
        return f"<Worker {self.pid}>"


@dataclass
class Server:
    """The supervisor, as hooks see it.

    Attributes:
        num_workers: how many processes there are to be.
        WORKERS: those that there are, by process id.
        LISTENERS: the listening sockets.
        worker_age: how many there have been.
    """

    cfg: Config
    log: HookLog
    pid: int
    num_workers: int = 0
    WORKERS: dict[int, Worker] = field(default_factory=dict)
    LISTENERS: list[Any] = field(default_factory=list)
    worker_age: int = 0

    @property
    def address(self) -> list[str]:
        """Where it listens."""
        return self.cfg.address

    @property
    def proc_name(self) -> str:
        """--name, or the application."""
        return self.cfg.name or self.cfg._settings.app


class Hooks:
    """Calls the hooks of the settings, where there are any.

    Args:
        settings: the server's.
    """

    def __init__(self, settings: Settings) -> None:
        self.server = Server(Config(settings), HookLog(), os.getpid())
        self._hooks = settings.hooks
        self._was_interrupted = False

    def renew(self, settings: Settings) -> None:
        """Settings have been read anew."""
        self.server.cfg = Config(settings)
        self._hooks = settings.hooks

    def worker(self) -> Worker:
        """Of a process that is about to be forked."""
        server = self.server
        server.worker_age += 1
        return Worker(server.worker_age, server.cfg, server.log, server.pid)

    def of_signals(self, worker: Worker) -> None:
        """In a process: do at signals what gunicorn's processes do, and call the hooks of these."""
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, lambda number, _: self._interrupt(worker, number))
            # What waits in C goes on: what runs is finished.
            signal.siginterrupt(number, False)
        if self["worker_abort"] is not None:
            signal.signal(signal.SIGABRT, lambda *_: self._abort(worker))

    def _interrupt(self, worker: Worker, number: int) -> None:
        # A terminal sends it to all processes, and then the supervisor may.
        if not self._was_interrupted:
            self._was_interrupted = True
            self.call("worker_int", worker)
        if number == signal.SIGQUIT and self["worker_int"] is not None:
            # The supervisor's word for at once; it kills where there is no hook to call before.
            os._exit(0)
        os.kill(os.getpid(), signal.SIGTERM)

    def _abort(self, worker: Worker) -> None:
        worker.aborted = True
        self.call("worker_abort", worker)
        os._exit(1)

    def __getitem__(self, name: str) -> Callable[..., Any] | None:
        hook: Callable[..., Any] | None = getattr(self._hooks, name)
        return hook

    def call(self, name: str, *arguments: Any) -> None:
        """Call one; what it raises is logged: the supervisor has others' requests to see to."""
        hook = self[name]
        if hook is not None:
            try:
                hook(*arguments)
            except Exception:
                self.server.log.exception("the hook %s failed", name)

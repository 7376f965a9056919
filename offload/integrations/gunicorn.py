"""A worker class for gunicorn: HTTP, consumers and groups where gunicorn has to stay.

    gunicorn -k offload.integrations.gunicorn.Worker project.wsgi

gunicorn binds, forks, watches and reloads; each of its workers is a server process of offload's. The worker does what
offload's supervisor would do for that process: it answers its notes, and sees that the machine has a hub. gunicorn's
settings count as in `offload`; those of offload alone are variables, such as ``OFFLOAD_LAYER``.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from gunicorn.workers import base

from offload.hub.place import lock
from offload.server.control import Control, pair
from offload.server.given import Given
from offload.server.hooks import Hooks
from offload.server.load import SharedLoad
from offload.server.patch import patch
from offload.settings import OPTIONS, Settings
from offload.settings.reading import Reader

log = logging.getLogger("offload.server")

_GROUPS = ("http", "websocket", "proxy", "tls", "layer", "metrics")
_NAMES = (
    "workers", "worker_connections", "graceful_timeout", "max_requests", "max_requests_jitter", "access_logfile",
    "access_logformat", "pre_request", "post_request",
)  # fmt: skip
"""What a process does with its clients; all else is gunicorn's to do."""
_HUB = "import logging, socket, sys; from offload.hub.server import serve_alone; \
logging.basicConfig(level=logging.INFO, format='[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s'); \
sys.exit(serve_alone(sys.argv[1], socket.socket(fileno=int(sys.argv[2]))))"


class Worker(base.Worker):
    """One of gunicorn's workers, which serves with offload."""

    _arbiters_end: ClassVar[socket.socket | None] = None
    """Its end is the arbiter's: the hub, which has the other one, ends with it."""
    _hubs_end: ClassVar[socket.socket]

    def __init__(self, *arguments: Any, **more: Any) -> None:
        # In the arbiter.
        super().__init__(*arguments, **more)
        if Worker._arbiters_end is None:
            Worker._arbiters_end, Worker._hubs_end = socket.socketpair()
        self._hub_path: str | None = None

    def init_process(self) -> None:
        """Patch the standard library before the application is imported."""
        assert Worker._arbiters_end is not None
        Worker._arbiters_end.close()
        patch()
        super().init_process()

    def load_wsgi(self) -> None:
        """Nothing: the server process imports the application, with its routing and its layers."""

    def run(self) -> None:
        """Serve until the arbiter says otherwise."""
        # Not above: gevent is not to be imported in the arbiter.
        import gevent

        from offload.server.boot import run
        from offload.server.process import ServerProcess
        from offload.server.request_hooks import hooked

        _log_where_gunicorn_does(self.log.error_log)
        application: Any = self.app
        settings = settings_of(self.cfg, application.app_uri)
        mine, theirs = pair()
        hooks = Hooks(settings)
        worker = hooks.worker()
        worker.pid = os.getpid()
        load = SharedLoad(1)
        # gunicorn's own wrappers of sockets.
        listening: list[Any] = self.sockets
        process = ServerProcess(
            settings, [each.sock for each in listening], theirs, load.slot(load.take()),
            partial(hooked, hooks=hooks, worker=worker),
        )  # fmt: skip
        gevent.spawn(self._listen, mine)
        gevent.spawn(self._beat, mine)
        # Ways to end that gunicorn has, beside those of a server process.
        gevent.signal_handler(signal.SIGINT, mine.tell, retire=True)
        status = run(process, Given(settings, process.listening, theirs, process.load, hooks, worker))
        self._answer(mine)
        sys.exit(status)

    def _listen(self, control: Control) -> None:
        from gevent.socket import wait_read

        while control.sock.fileno() >= 0:
            wait_read(control.sock.fileno())
            self._answer(control)

    def _answer(self, control: Control) -> None:
        notes, _ = control.hear()
        for note in notes:
            if "hub" in note:
                self._hub_path = note["hub"]
                self._see_to_hub()
            if "blocked" in note:
                log.warning("a task has held the loop for %.1f s:\n%s", note["blocked"], note["stack"].rstrip())
            if "outlived" in note:
                log.info("giving way to another worker: %s", note["outlived"])
                control.tell(retire=True)
            if "failed" in note:
                log.error("%s%s", note.get("traceback", ""), note["failed"])

    def _beat(self, control: Control) -> None:
        import gevent

        while True:
            self.notify()
            self._see_to_hub()
            if os.getppid() != self.ppid:
                log.warning("the arbiter is gone; stopping")
                control.tell(retire=True)
                return
            gevent.sleep(1.0)

    def _see_to_hub(self) -> None:
        """Start a hub where none holds the lock; of two that start at once, one stands by."""
        if self._hub_path is None:
            return
        os.makedirs(os.path.dirname(self._hub_path), 0o700, exist_ok=True)
        held = lock(self._hub_path)
        if held is not None:
            os.close(held)
            life = Worker._hubs_end.fileno()
            subprocess.Popen(
                [sys.executable, "-c", _HUB, self._hub_path, str(life)], pass_fds=[life], start_new_session=True
            )


class _File:
    """gunicorn's settings, as a configuration file of offload's."""

    name = "gunicorn's settings"

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def read(self) -> Mapping[str, Any]:
        """What was set, of what a server process does with its clients."""
        taken = {
            option.gunicorn or name for name, option in OPTIONS.items() if name in _NAMES or option.group in _GROUPS
        }
        return {
            name: setting.value
            for name, setting in self._cfg.settings.items()
            if name in taken and setting.value != setting.default
        }


def settings_of(cfg: Any, app: str) -> Settings:
    """offload's settings of gunicorn's configuration and the variables of offload's.

    Raises:
        ConfigurationError: in one sentence, what is wrong.
    """
    environ = {name: value for name, value in os.environ.items() if name.startswith("OFFLOAD_")}
    return Reader([app], environ, file=_File(cfg)).read().settings


def _log_where_gunicorn_does(target: logging.Logger) -> None:
    logger = logging.getLogger("offload")
    logger.handlers[:] = target.handlers
    logger.setLevel(target.level)
    logger.propagate = False

"""``manage.py runserver``: the server of production, with Django's addresses, static files and reloads.

Django's autoreload restarts this command, which starts the server as a process of its own: gevent has to be there
before the first line of the project.
"""

from __future__ import annotations

import atexit
import errno
import os
import signal
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles.management.commands.runserver import Command as StaticFilesCommand
from django.core.management.commands.runserver import Command as RunserverCommand
from django.db import connections
from django.utils import autoreload

from django_offload import conf
from django_offload.development import PIPE
from django_offload.management.processes import environment

_Base: Any = StaticFilesCommand if apps.is_installed("django.contrib.staticfiles") else RunserverCommand

_ERRORS = {
    errno.EACCES: "You don't have permission to access that port.",
    errno.EADDRINUSE: "That port is already in use.",
    errno.EADDRNOTAVAIL: "That IP address can't be assigned to.",
}
_STOP_SECONDS = 2
"""For requests and consumers that run when the code changes."""


class Command(_Base):  # type: ignore[misc]
    """See the module."""

    help = "Starts the project in offload for development: pages, WebSockets and named channels."

    def run(self, **options: Any) -> None:
        """Serve, with or without Django's autoreload."""
        autoreload.autoreload_started.connect(_watch_apps, dispatch_uid="django_offload")
        super().run(**options)

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Check the project, and serve until the server ends."""
        # What Django found while it loaded the apps, kept until somebody watches files.
        autoreload.raise_last_exception()
        if not options["skip_checks"]:
            self.stdout.write("Performing system checks...\n\n")
            self.check(display_num_errors=True)
        self.check_migrations()
        connections.close_all()
        try:
            listening = self._listen()
        except OSError as error:
            self.stderr.write(f"Error: {_ERRORS.get(error.errno or 0, error)}")
            # As Django's: the thread that watches files would go on.
            os._exit(1)
        self._announce(listening.getsockname()[1])
        status = _serve(listening, self._application(options))
        if not options["use_reloader"]:
            sys.exit(status if status > 0 else 0)

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if self.use_ipv6 else socket.AF_INET
        return socket.create_server((self.addr, int(self.port)), family=family)

    def _application(self, options: dict[str, Any]) -> str:
        static = options.get("use_static_handler", False) and (settings.DEBUG or options["insecure_serving"])
        return f"django_offload.development:{'with_static_files' if static else 'application'}"

    def _announce(self, port: int) -> None:
        host = "0.0.0.0" if self.addr == "0" else self.addr
        where = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        self.stdout.write(
            f"{datetime.now():%B %d, %Y - %X}\n"
            f"Django version {self.get_version()}, using settings {settings.SETTINGS_MODULE!r}\n"
            f"Starting offload for development at {where}\n"
            "Quit the server with CONTROL-C.\n"
        )
        self.stdout.flush()


def _serve(listening: socket.socket, application: str) -> int:
    """Run the server until it ends; its exit status."""
    theirs, ours = os.pipe()
    descriptor = listening.fileno()
    for inherited in (descriptor, theirs):
        os.set_inheritable(inherited, True)
    command = [
        sys.executable, "-m", "offload", application, "--bind", f"fd://{descriptor}",
        # A file of options beside manage.py is for production.
        "--config", os.devnull, "--log-level", "warning", "--workers-inside", "1",
        "--graceful-timeout", str(_STOP_SECONDS), "--drain-timeout", "0",
        "--access-logfile", "-", "--access-logformat", '%(t)s "%(r)s" %(s)s %(b)s',
    ]  # fmt: skip
    server = subprocess.Popen(
        command, env={**environment(), PIPE: str(theirs)}, pass_fds=(descriptor, theirs), stdin=subprocess.DEVNULL
    )
    os.close(theirs)
    listening.close()

    def stop() -> None:
        # Before this process ends: the next one wants the port.
        server.send_signal(signal.SIGTERM)
        server.wait()

    atexit.register(stop)
    try:
        return server.wait()
    except KeyboardInterrupt:
        # It has had the signal, too.
        return server.wait()
    finally:
        atexit.unregister(stop)
        os.close(ours)


def _watch_apps(sender: Any, **kwargs: Any) -> None:
    """Watch the project's own code, since this process does not import all that the server does."""
    places = {Path(config.path) for config in apps.get_app_configs()} | {conf.project_directory() / _project_package()}
    for place in places:
        if "site-packages" not in place.parts and "dist-packages" not in place.parts and place.is_dir():
            sender.watch_dir(place, "**/*.py")


def _project_package() -> str:
    return str(settings.SETTINGS_MODULE).partition(".")[0]

"""The project's servers and workers as commands of ``manage.py``: what ``python -m offload`` is told, and where."""

from __future__ import annotations

import abc
import os
import sys
from collections.abc import Sequence

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from django_offload import conf


def application() -> str:
    """The project's WSGI application as ``MODULE:CALLABLE``.

    Raises:
        CommandError: the settings name none.
    """
    path = settings.WSGI_APPLICATION
    if not path:
        raise CommandError('the settings name no WSGI application; write WSGI_APPLICATION = "project.wsgi.application"')
    module, _, name = str(path).rpartition(".")
    return f"{module}:{name}"


def environment() -> dict[str, str]:
    """The environment of another process of this project, which finds its modules wherever it is started."""
    places = [str(conf.project_directory()), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}


class ProcessCommand(BaseCommand):
    """A command whose arguments are those of an ``offload`` command, which takes this process's place."""

    # What it starts says itself what is wrong.
    requires_system_checks = []

    @abc.abstractmethod
    def command(self, arguments: Sequence[str]) -> list[str]:
        """What follows ``offload`` on its command line, for these arguments of ``manage.py``."""

    def run_from_argv(self, argv: list[str]) -> None:
        """Become the server; Django's options have been seen to."""
        arguments = self.command(_without_djangos(argv[2:]))
        try:
            arguments.append(application())
        except CommandError as error:
            self.stderr.write(f"CommandError: {error}")
            sys.exit(1)
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", "offload", *arguments], environment())

    def handle(self, *args: object, **options: object) -> None:
        """Not from within another program, whose place it would take."""
        raise CommandError("this command takes the place of its process; run it from a shell")


def _without_djangos(arguments: Sequence[str]) -> list[str]:
    # ``--settings`` and ``--pythonpath`` are in the environment and on the path by now.
    rest: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--settings":
            skip = True
        elif not argument.startswith("--settings="):
            rest.append(argument)
    return rest

"""What ``manage.py runserver`` serves: the project's WSGI application, and in front of it static files.

The names are made when they are asked for: the server asks for one. It ends with the command that started it, however
that ended: the command holds the other end of a pipe.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from typing import Any

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.exceptions import SuspiciousOperation
from django.core.handlers.exception import response_for_exception
from django.core.servers.basehttp import get_internal_wsgi_application
from django.http import Http404, HttpRequest, HttpResponseBase

PIPE = "DJANGO_OFFLOAD_RUNSERVER"
"""The environment variable with the number of the pipe's descriptor."""


class _StaticFiles(StaticFilesHandler):
    """Static files, as Django serves them; what lies outside of their directories is not there."""

    def get_response(self, request: HttpRequest) -> HttpResponseBase:
        try:
            response: HttpResponseBase = self.serve(request)
        except (Http404, SuspiciousOperation) as error:
            missing = error if isinstance(error, Http404) else Http404(f"{request.path} is outside of the directories")
            response = response_for_exception(request, missing)
        return response


def __getattr__(name: str) -> Any:
    if name not in ("application", "with_static_files"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    application = get_internal_wsgi_application()
    return application if name == "application" else _StaticFiles(application)


def _end_with(descriptor: int) -> None:
    select.select([descriptor], [], [])
    os.kill(os.getppid(), signal.SIGTERM)


if PIPE in os.environ:
    threading.Thread(target=_end_with, args=(int(os.environ[PIPE]),), daemon=True).start()

"""Memory of four processes of a large Django project, with and without ``--preload``, beside gunicorn's.

    python -m benchmarks.preload

It makes a project of 40 applications with 10 models each, their admin, Django's own applications, and what is installed
of `PACKAGES`. Each server answers 200 requests first. The figure is the proportional set size (PSS) of all processes of
the server, in MiB: memory that several processes share counts once.
"""

import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness.processes import Server, free_port, proportional_bytes

APPS, MODELS, PROCESSES, REQUESTS = 40, 10, 4, 200
PACKAGES = ("rest_framework", "celery", "sentry_sdk", "cryptography", "opentelemetry.sdk.trace", "email.mime.image")
SERVERS = {
    "gunicorn": ("gunicorn",),
    "gunicorn --preload": ("gunicorn", "--preload"),
    "gunicorn -k gevent": ("gunicorn", "-k", "gevent"),
    "gunicorn -k gevent --preload": ("gunicorn", "-k", "gevent", "--preload"),
    "offload": ("offload", "--layer", "memory://"),
    "offload --preload": ("offload", "--layer", "memory://", "--preload"),
}
SETTINGS = """
DEBUG, SECRET_KEY, ALLOWED_HOSTS, ROOT_URLCONF, USE_TZ = False, "x", ["*"], "urls", True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
STATIC_URL, DEFAULT_AUTO_FIELD = "/static/", "django.db.models.BigAutoField"
INSTALLED_APPS = [f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages",
    "staticfiles", "sitemaps", "humanize", "syndication")] + [f"app{number}" for number in range(APPS)]
MIDDLEWARE = [f"django.{name}Middleware" for name in ("middleware.security.Security",
    "contrib.sessions.middleware.Session", "middleware.common.Common", "middleware.csrf.CsrfView",
    "contrib.auth.middleware.Authentication", "contrib.messages.middleware.Message")]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {
    "context_processors": [f"django.{name}" for name in ("template.context_processors.request",
    "contrib.auth.context_processors.auth", "contrib.messages.context_processors.messages")]}}]
"""
URLS = """
from django.contrib import admin
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("admin/", admin.site.urls), path("", lambda request: HttpResponse("up"))]
"""


def make(project):
    """Write the project's files."""
    (project / "settings.py").write_text(f"APPS = {APPS}\n{SETTINGS}")
    (project / "urls.py").write_text(URLS)
    imports = "".join(
        f"try:\n    import {name}\nexcept ImportError as error:\n    print('not measured:', error)\n"
        for name in PACKAGES
    )
    # As projects do whose first request is to be quick.
    (project / "wsgi.py").write_text(
        f"import os\nos.environ['DJANGO_SETTINGS_MODULE'] = 'settings'\n{imports}"
        "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\nimport urls\n"
    )
    for number in range(APPS):
        app = project / f"app{number}"
        app.mkdir()
        (app / "__init__.py").touch()
        fields = "\n".join(f"    field{field} = models.CharField(max_length=100, blank=True)" for field in range(8))
        (app / "models.py").write_text(
            "from django.db import models\n"
            + "".join(f"class Model{m}(models.Model):\n{fields}\n" for m in range(MODELS))
        )
        (app / "admin.py").write_text(
            "from django.contrib import admin\nfrom . import models\n"
            + "".join(f"admin.site.register(models.Model{m})\n" for m in range(MODELS))
        )


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=120) as answer:
        answer.read()


def measure(command, project):
    """MiB of all processes of a server, after its requests."""
    port = free_port()
    command = [sys.executable, "-m", *command, "wsgi", "-w", str(PROCESSES), "-b", f"127.0.0.1:{port}", "-t", "600"]
    with Server(command, port, None, {"PYTHONPATH": str(project)}) as server:
        deadline = time.monotonic() + 120
        while len(server.pids()) <= PROCESSES:
            assert time.monotonic() < deadline, f"the server does not start: {server.last_words()}"
            time.sleep(0.1)
        get(port, "/")
        time.sleep(5)
        with ThreadPoolExecutor(PROCESSES) as clients:
            list(clients.map(get, [port] * REQUESTS, ["/", "/admin/login/"] * (REQUESTS // 2)))
        return sum(map(proportional_bytes, server.pids())) / 2**20


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        make(Path(place))
        for name, command in SERVERS.items():
            print(f"{name:32} {measure(command, Path(place)):7.0f} MiB", flush=True)

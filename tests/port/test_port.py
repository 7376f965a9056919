"""`python -m django_offload.port`: what it changes, what it lists, and that the ported project runs."""

from __future__ import annotations

import importlib
import os
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.sync.client import connect

from django_offload.port.names import BACKENDS, IMPORTS
from tests.port import talk
from tests.serving import DEADLINE, ROOT, Server, serving


def port(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "django_offload.port", *arguments],
        cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip


def changed(tmp_path: Path, source: str) -> tuple[str, list[str]]:
    """What the tool makes of a file, and what it lists; with the file called old.py."""
    path = tmp_path / "old.py"
    path.write_text(source)
    result = port(str(path), "--write")
    assert result.returncode == 0, result.stderr
    _, _, notes = result.stdout.partition("Left to you:\n")
    return path.read_text(), [line.removeprefix(str(path)) for line in notes.splitlines()]


IMPORTS_BEFORE = """\
# The chat
from channels import Group, Channel as Ch, channel_layers  # all
from channels.generic.websockets import (
    WebsocketConsumer,
    JsonWebsocketConsumer,
)
from channels.auth import channel_session_user_from_http
from channels.tests import HttpClient
from channels.routing import Route, include


def later():
    from channels.exceptions import DenyConnection, Strange
    return Strange
"""

IMPORTS_AFTER = """\
# The chat
from offload import Group, Channel as Ch, channel_layers  # all
from offload.consumers import WebsocketConsumer, JsonWebsocketConsumer
from django_offload.decorators import channel_session_user_from_http
from django_offload.testing import WSClient as HttpClient
from offload import route as Route, include


def later():
    from offload.exceptions import DenyConnection
    from channels.exceptions import Strange
    return Strange
"""


def test_imports_become_ours(tmp_path: Path) -> None:
    after, notes = changed(tmp_path, IMPORTS_BEFORE)
    assert after == IMPORTS_AFTER
    assert notes == [":13: channels.exceptions.Strange is nothing that offload has"]


SETTINGS_BEFORE = """\
INSTALLED_APPS = (
    'django.contrib.auth',
    'channels',
    'channels.delay',
)
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "asgi_redis.RedisChannelLayer",
        "CONFIG": {"hosts": [("localhost", 6379), (HOST, 1)], "symmetric_encryption_keys": [KEY], "odd": 1},
        "ROUTING": "project.routing.channel_routing",
    },
    "other": {"BACKEND": "asgi_rabbitmq.RabbitmqChannelLayer"},
}
CHANNEL_SESSION_ENGINE = "django.contrib.sessions.backends.cache"
SITE = {"BACKEND": "channels"}
"""

SETTINGS_AFTER = """\
INSTALLED_APPS = (
    'django.contrib.auth',
    'django_offload',
)
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "offload.layers.redis.RedisLayer",
        "CONFIG": {"hosts": ["redis://localhost:6379", (HOST, 1)], "encryption_keys": [KEY], "odd": 1},
        "ROUTING": "project.routing.channel_routing",
    },
    "other": {"BACKEND": "asgi_rabbitmq.RabbitmqChannelLayer"},
}
CHANNEL_SESSION_ENGINE = "django.contrib.sessions.backends.cache"
SITE = {"BACKEND": "channels"}
"""


def test_settings_become_ours(tmp_path: Path) -> None:
    after, notes = changed(tmp_path, SETTINGS_BEFORE)
    assert after == SETTINGS_AFTER
    assert notes == [
        ":9: CONFIG 'odd': no layer of offload has it; delete it, or see the page on layers",
        ":12: BACKEND asgi_rabbitmq.RabbitmqChannelLayer: use one of offload.layers.ipc.IPCLayer, "
        "offload.layers.memory.MemoryLayer, offload.layers.redis.RedisLayer",
        ":14: CHANNEL_SESSION_ENGINE: channel sessions live in the layer; delete it",
    ]


def test_what_it_cannot_change_is_listed(tmp_path: Path) -> None:
    imports = "import channels.log\nfrom channels import *\nfrom channels.generic import websockets\n"
    source = f"{imports}layer.receive_many([])\n"
    after, notes = changed(tmp_path, source)
    assert after == source
    assert notes == [
        ":1: import channels.log: write from ... import ..., so that each name can be found",
        ":2: from channels import *: name what is used",
        ":3: channels.generic.websockets is a module; import its names",
        ":4: .receive_many: a layer has receive(channels, timeout); channel_layers[alias] has receive_many, too",
    ]


def test_directory_is_read_without_what_is_not_the_projects(tmp_path: Path) -> None:
    for name in ("a.py", "venv/lib/b.py", ".tox/c.py", "node_modules/d.py", "app/e.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("from channels import Group\n")
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "old.py").write_text("print 'two'\n")
    (tmp_path / "Procfile").write_text("web: daphne project.asgi:channel_layer -p $PORT\nworker: manage.py runworker\n")
    (tmp_path / "requirements.txt").write_text("channels==1.1.8\nasgi_redis\n")
    result = port(str(tmp_path))
    assert re.findall(r"^--- a/(.*)$", result.stdout, re.MULTILINE) == ["a.py", "app/e.py"]
    assert "+from offload import Group\n" in result.stdout
    assert result.stdout.partition("Left to you:\n")[2].replace(f"{tmp_path}/", "").splitlines() == [
        "Procfile:1: daphne: run offload project.wsgi",
        "old.py: not read, since it is no Python 3: Syntax Error @ 1:1.",
        "requirements.txt:1: channels: install django-offload",
        "requirements.txt:2: asgi_redis: install django-offload[redis]",
    ]
    # It was not told to write.
    assert (tmp_path / "a.py").read_text() == "from channels import Group\n"


def test_path_that_is_not_there_is_refused() -> None:
    result = port("/nowhere")
    assert result.returncode == 2
    assert result.stderr.endswith("error: there is no '/nowhere'\n")


def test_missing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "libcst.py").write_text("raise ModuleNotFoundError(\"No module named 'libcst'\", name='libcst')\n")
    result = port(str(tmp_path), PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert result.returncode == 2
    assert "needs the libcst package; run: pip install 'django-offload[port]'" in result.stderr


PLACES = sorted({place for names in IMPORTS.values() for place in names.values()})
PAGE = (ROOT / "docs" / "howto" / "from-channels-1.md").read_text()


@pytest.mark.parametrize(("module", "name"), PLACES)
def test_name_that_stands_for_an_old_one_exists(module: str, name: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"import django; from django.conf import settings; "
         f"settings.configure(INSTALLED_APPS=['django.contrib.contenttypes', 'django.contrib.auth']); django.setup(); "
         f"from {module} import {name}"],
        cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("backend", sorted(set(BACKENDS.values())))
def test_backend_that_stands_for_an_old_one_exists(backend: str) -> None:
    module, _, name = backend.rpartition(".")
    assert hasattr(importlib.import_module(module), name)


def test_page_tells_of_every_name() -> None:
    names = {name for module, names in IMPORTS.items() if module.startswith("channels") for name in names}
    old = {"Route", "RouteClass", "Include"}
    assert sorted(name for name in names - old if f"`{name}" not in PAGE) == []


def test_talks_project_runs_with_its_imports_changed(tmp_path: Path) -> None:
    talk.write(tmp_path)
    assert port(str(tmp_path), "--write").returncode == 0
    environ = {"OFFLOAD_RUNTIME_DIR": str(tmp_path / "run"), "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    prepared = run_manage(tmp_path, {**os.environ, **environ}, "migrate", "--verbosity=0")
    assert prepared.returncode == 0, prepared.stderr
    cookie = run_manage(tmp_path, {**os.environ, **environ}, "shell", "-c", LOGIN).stdout.strip().splitlines()[-1]
    with serving("site1.wsgi", workers=2, cwd=tmp_path, env=environ) as server:
        url = server.url("/", "ws")
        with connect(url) as somebody, connect(url, additional_headers={"Cookie": f"sessionid={cookie}"}) as ada:
            reply_channel = told(server, r"connected: ada (\S+)\n")
            ada.send("hello")
            assert somebody.recv(DEADLINE) == ada.recv(DEADLINE) == "[ada] hello"
            told(server, "said by: ada")
            sent = run_manage(tmp_path, server.environ, "say", reply_channel, "from the shell")
            assert sent.returncode == 0, sent.stderr
            assert ada.recv(DEADLINE) == "from the shell"
            ada.close()
            assert somebody.recv(DEADLINE) == "ada has left"


LOGIN = """
from types import SimpleNamespace
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.contrib.sessions.backends.file import SessionStore
session = SessionStore()
session.create()
user = User.objects.create_user("ada")
login(SimpleNamespace(session=session, META={}), user, "django.contrib.auth.backends.ModelBackend")
session.save()
print(session.session_key)
"""


def run_manage(directory: Path, environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=directory, env=environ, capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip


def told(server: Server, pattern: str) -> str:
    """The last group of what the consumers print, as soon as it matches."""
    assert server.process.stdout is not None
    printed = ""
    while (found := re.search(pattern, printed)) is None:
        ready, _, _ = select.select([server.process.stdout], [], [], DEADLINE)
        assert ready, printed
        printed += os.read(server.process.stdout.fileno(), 65536).decode()
    return found[found.re.groups]

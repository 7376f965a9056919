"""``--dispatch layer`` with Django: the server knows no Django, and the worker's decorators find session and user."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.dispatch.site import text
from tests.serving import DEADLINE, ROOT, Server
from tests.websocket.sockets import open_socket

SETTINGS = """
from pathlib import Path

SECRET_KEY = "for tests only"
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
ROOT_URLCONF = "project.urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django_offload"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent.parent / "db"}}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "offload.layers.ipc.IPCLayer",
        "CONFIG": {"path": str(Path(__file__).parent.parent / "run" / "hub.sock")},
        "ROUTING": "project.routing.channel_routing",
    },
}
"""

ROUTING = """
from offload import route

channel_routing = [
    route("websocket.connect", "project.consumers.enter", path="^/members$"),
    route("websocket.receive", "project.consumers.tell", path="^/members$"),
    route("websocket.connect", "project.consumers.show", path="^/session$"),
    route("websocket.connect", "project.consumers.known_hosts", path="^/hosts$"),
]
"""

CONSUMERS = """
from django.contrib.auth.models import User

from django_offload.decorators import allowed_hosts_only, channel_session_user, http_session_user, login_required

@login_required
def enter(message):
    message.reply_channel.send({"text": f"hello, {message.user.username}"})

@channel_session_user
def tell(message):
    message.reply_channel.send({"text": f"{message.user.username} says {message['text']}"})

@http_session_user
def show(message):
    theme = None if message.http_session is None else message.http_session["theme"]
    message.reply_channel.send({"text": f"{message.user.username or 'nobody'} likes {theme}"})

@allowed_hosts_only
def known_hosts(message):
    pass
"""

PREPARE = """
import django
django.setup()
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
call_command("migrate", verbosity=0)
user = User.objects.create_user("ada")
session = SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session["theme"] = "dark"
session.create()
print(session.session_key)
"""


def test_workers_find_the_session_and_the_user_by_the_cookie(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "run").mkdir(mode=0o700)
    for name, content in (("__init__", ""), ("settings", SETTINGS), ("routing", ROUTING), ("consumers", CONSUMERS)):
        (project / f"{name}.py").write_text(content)
    (project / "urls.py").write_text("urlpatterns = []\n")
    (project / "wsgi.py").write_text(
        "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    worker_env = {**env, "DJANGO_SETTINGS_MODULE": "project.settings"}
    key = subprocess.run(
        [sys.executable, "-c", PREPARE],
        cwd=tmp_path, env={**os.environ, **worker_env}, check=True, capture_output=True, text=True, timeout=DEADLINE,
    ).stdout.strip()  # fmt: skip
    layer = f"ipc://{tmp_path}/run/hub.sock"
    with contextlib.ExitStack() as stack:
        server = Server("project.routing", "--dispatch", "layer", "--layer", layer, cwd=tmp_path, env=env)
        stack.callback(server.stop)
        worker = Server("worker", "project.wsgi", cwd=tmp_path, env=worker_env)
        stack.callback(worker.stop)
        cookie = {"additional_headers": {"Cookie": f"sessionid={key}"}}
        member = stack.enter_context(open_socket(server, "/members", **cookie))
        assert text(member) == "hello, ada"
        member.send("hi")
        assert text(member) == "ada says hi"
        assert text(stack.enter_context(open_socket(server, "/session", **cookie))) == "ada likes dark"
        assert text(stack.enter_context(open_socket(server, "/session"))) == "nobody likes None"
        for path in ("/members", "/hosts"):
            with pytest.raises(InvalidStatus) as refusal:
                stack.enter_context(open_socket(server, path))
            assert refusal.value.response.status_code == 403
        # What the consumers import, the worker has, and the server process has not.
        assert "_sqlite3" in loaded(worker.pids[0])
        assert "_sqlite3" not in loaded(server.pids[0])


def loaded(pid: int) -> str:
    """The libraries of a process."""
    return Path(f"/proc/{pid}/maps").read_text()

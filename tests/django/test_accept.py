"""``OFFLOAD_ACCEPT = "explicit"``: a connect consumer has to say that it accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.serving import ROOT, Server, serving
from tests.websocket.sockets import open_socket

FILES = {
    "settings": """
SECRET_KEY = "for tests only"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "project.urls"
INSTALLED_APPS = ["django_offload"]
CHANNEL_LAYERS = {"default": {"URL": "memory://"}}
OFFLOAD_ACCEPT = "explicit"
""",
    "urls": "urlpatterns = []\n",
    "wsgi": "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
    "routing": """
from offload import route

def silent(message):
    pass

def accepting(message):
    message.reply_channel.send({"accept": True})

channel_routing = [
    route("websocket.connect", silent, path="^/silent$"),
    route("websocket.connect", accepting, path="^/accepting$"),
]
""",
    "__init__": "",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    for name, text in FILES.items():
        (tmp_path / "project" / f"{name}.py").write_text(text)
    return tmp_path


def serve(project: Path, *options: str):  # type: ignore[no-untyped-def]
    env = {"PYTHONPATH": f"{project}:{ROOT}", "DJANGO_SETTINGS_MODULE": "project.settings"}
    return serving("project.wsgi", *options, cwd=project, env=env)


def status(server: Server, path: str) -> int:
    try:
        with open_socket(server, path):
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


def test_setting_of_the_project_asks_for_acceptance(project: Path) -> None:
    with serve(project) as server:
        assert (status(server, "/silent"), status(server, "/accepting")) == (403, 101)


def test_command_line_goes_before_the_setting(project: Path) -> None:
    with serve(project, "--accept", "implicit") as server:
        assert (status(server, "/silent"), status(server, "/accepting")) == (101, 101)

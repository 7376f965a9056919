"""A project's tests under Django's test runner and under pytest, with a live server for a browser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import ROOT

SETTINGS = """
from pathlib import Path

SECRET_KEY = "for tests only"
USE_TZ = True
ROOT_URLCONF = "project.urls"
STATIC_URL = "static/"
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django.contrib.staticfiles",
    "django_offload", "project",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent.parent / "db"}}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "offload.layers.redis.RedisLayer",
        "CONFIG": {"hosts": ["redis://127.0.0.1:1"], "capacity": 7},
        "ROUTING": "project.routing.channel_routing",
    },
    "kept": {
        "BACKEND": "offload.layers.ipc.IPCLayer",
        "CONFIG": {"path": "/nowhere/a"},
        "TEST_CONFIG": {"path": "/nowhere/b"},
    },
    "elsewhere": {"URL": "redis://127.0.0.1:1", "TEST_CONFIG": {"URL": "memory://?capacity=5"}},
}
"""

ROUTING = """
from django.contrib.auth.models import User
from django_offload.decorators import channel_session_user_from_http
from offload import Group, route

@channel_session_user_from_http
def enter(message):
    Group("all").add(message.reply_channel)
    message.reply_channel.send({"text": f"hello, {message.user.username or 'stranger'}"})

def count(message):
    message.reply_channel.send({"text": f"{User.objects.count()} users"})

channel_routing = [
    route("websocket.connect", enter, path="^/ws$"),
    route("websocket.receive", count, path="^/ws$"),
]
"""

URLS = """
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.urls import path

PAGE = '''<!doctype html><link rel="icon" href="data:,"><script src="/static/project/page.js"></script><ul></ul>'''

def page(request):
    if "name" in request.GET:
        login(request, User.objects.get(username=request.GET["name"]))
    return HttpResponse(PAGE)

urlpatterns = [path("", page)]
"""

SCRIPT = """
addEventListener("load", () => {
  const line = (text) => Object.assign(document.createElement("li"), {innerText: text})
  const say = (text) => document.querySelector("ul").append(line(text))
  window.socket = new WebSocket(`ws://${location.host}/ws`)
  socket.onmessage = (event) => say(event.data)
})
"""

TESTS = """
import os
from pathlib import Path
import tempfile

from django.contrib.auth.models import User
from django.test import TestCase
from offload import Channel, Group
from offload.consumers.configuration import layer_for
from offload.layers.ipc import IPCLayer
from offload.layers.memory import MemoryLayer

from django_offload.testing import ChannelLiveServerTestCase, ChannelTestCase, WebSocketClient

class Layers(TestCase):
    def test_they_are_in_memory(self):
        Group("all").send({"text": "to nobody"})
        self.assertIsInstance(layer_for(), MemoryLayer)
        self.assertEqual(layer_for().capacity, 7)

    def test_test_config_says_otherwise(self):
        self.assertIsInstance(layer_for("kept"), IPCLayer)
        self.assertEqual(layer_for("kept").path, "/nowhere/b")
        self.assertEqual(layer_for("elsewhere").capacity, 5)

class Greetings(ChannelTestCase):
    def test_a_user_is_greeted(self):
        client = WebSocketClient(http=self.client)
        client.force_login(User.objects.create_user("ada"))
        self.assertTrue(client.connect("/ws"))
        self.assertEqual(client.receive(), "hello, ada")
        client.send("how many?")
        self.assertEqual(client.receive(), "1 users")

class Pages(ChannelLiveServerTestCase):
    def test_a_browser_talks_to_consumers(self):
        from selenium.webdriver.support.ui import WebDriverWait
        from tests.browser import chromium

        User.objects.create_user("grace")
        with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as browser:
            def said():
                return browser.execute_script("return [...document.querySelectorAll('li')].map(li => li.innerText)")
            def wait_for(*lines):
                WebDriverWait(browser, 20, 0.02).until(lambda _: said() == list(lines), f"{lines}")
            browser.get(f"{self.live_server_url}/?name=grace")
            wait_for("hello, grace")
            browser.execute_script("socket.send('how many?')")
            wait_for("hello, grace", "1 users")
            Group("all").send({"text": "from the test"})
            wait_for("hello, grace", "1 users", "from the test")

    def test_addresses(self):
        from websockets.sync.client import connect
        with connect(self.live_server_ws_url("/ws")) as client:
            self.assertEqual(client.recv(20), "hello, stranger")
"""

PYTEST = """
import pytest
from django.contrib.auth.models import User
from offload import Group
from offload.consumers.configuration import layer_for
from offload.layers.memory import MemoryLayer
from websockets.sync.client import connect

def test_layers_are_in_memory():
    assert isinstance(layer_for(), MemoryLayer)

@pytest.mark.django_db
def test_a_user_is_greeted(websocket_client):
    websocket_client.force_login(User.objects.create_user("ada"))
    assert websocket_client.connect("/ws")
    assert websocket_client.receive() == "hello, ada"
    Group("all").send({"text": "news"})
    assert websocket_client.receive() == "news"

def test_groups_are_each_tests_own(websocket_client, db):
    Group("all").send({"text": "news"})
    assert websocket_client.receive() is None

def test_a_live_server(channel_live_server):
    with connect(f"{channel_live_server.ws_url}/ws") as client:
        assert client.recv(20) == "hello, stranger"
        User.objects.create_user("ada")
        client.send("how many?")
        assert client.recv(20) == "1 users"
        Group("all").send({"text": "news"})
        assert client.recv(20) == "news"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    static = tmp_path / "project" / "static" / "project"
    static.mkdir(parents=True)
    (static / "page.js").write_text(SCRIPT)
    for name, content in {"__init__": "", "settings": SETTINGS, "routing": ROUTING, "urls": URLS}.items():
        (tmp_path / "project" / f"{name}.py").write_text(content)
    return tmp_path


def run(project: Path, *arguments: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": f"{project}:{ROOT}", "DJANGO_SETTINGS_MODULE": "project.settings", **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@pytest.mark.parametrize("database", ["in memory", "in a file"])
def test_djangos_test_runner(database: str, project: Path) -> None:
    (project / "project" / "tests.py").write_text(TESTS)
    if database == "in a file":
        with (project / "project" / "settings.py").open("a") as settings:
            settings.write('DATABASES["default"]["TEST"] = {"NAME": Path(__file__).parent.parent / "test-db"}\n')
    assert "Ran 5 tests" in run(project, "-m", "django", "test")


def test_pytest(project: Path) -> None:
    (project / "test_site.py").write_text(PYTEST)
    assert "4 passed" in run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_outside_of_tests_layers_are_the_configured_ones(project: Path) -> None:
    code = (
        "import django; django.setup(); from offload.consumers.configuration import layer_for; print(layer_for().name)"
    )
    assert run(project, "-c", code) == "redis\n"

"""The Python of each page runs: as it stands, or in a test of the page's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import DEADLINE, ROOT

TESTED = {
    "README.md": "tests/test_docs.py",
    "docs/tutorial/django.md": "tests/docs/test_django_tutorial.py",
    "docs/tutorial/first-chat.md": "tests/test_docs.py",
    "docs/tutorial/flask.md": "tests/docs/test_flask_tutorial.py",
    "docs/howto/send-from-anywhere.md": "tests/anywhere/test_anywhere_celery.py",
}
"""Pages whose code needs more than an interpreter, and the tests that run it."""

BEFORE = {
    "docs/howto/development.md": "from pathlib import Path; BASE_DIR = Path()",
    "docs/howto/write-a-layer.md": "from offload.layers.front import LayerBase",
}
"""What the reader of a page has."""

AFTER = {
    "docs/howto/databases.md": """
from offload import Channel
from offload.consumers.configuration import layer_for
Group("news").add("listener")
save(None)
assert layer_for().receive(["listener"], 0) == ("listener", {"text": "saved"})
""",
    "docs/howto/django.md": """
from django.contrib.auth.models import User as Account
from django.test import override_settings
from django_offload.testing import WebSocketClient, apply_routes
from offload import Group, route

middleware = [
    "django.contrib.sessions.middleware.SessionMiddleware", "django.contrib.auth.middleware.AuthenticationMiddleware",
]
with override_settings(MIDDLEWARE=middleware), apply_routes([route("websocket.connect", connect)]):
    account, client = Account.objects.create_user("ada"), WebSocketClient()
    client.force_login(account)
    assert client.connect("/")
    Group(f"user-{account.pk}").send({"text": "hello"})
    assert (client.receive(), client.http.session["visits"]) == ("hello", 1)
""",
    "docs/howto/logging.md": """
import logging.config
from offload.server import logs
from offload.settings import LogOptions
logs.set_up(LogOptions(level="warning"))
logging.config.dictConfig(LOGGING)
for name, level in (("websocket", "DEBUG"), ("http", "ERROR"), ("layer", "WARNING")):
    logger = logging.getLogger(f"offload.{name}")
    assert logging.getLevelName(logger.getEffectiveLevel()) == level
    assert logger.hasHandlers()
""",
}
"""What the code of a page does, once it has run."""

PROGRAM = """
import django
django.setup()
from django.core.management import call_command
from django.test.utils import setup_test_environment
setup_test_environment()
call_command("migrate", verbosity=0)
"""


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


PAGES = {
    str(page.relative_to(ROOT)): page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if blocks(page)
}


@pytest.mark.parametrize("name", sorted(PAGES.keys() - TESTED.keys()))
def test_the_python_of_a_page_runs(name: str, tmp_path: Path) -> None:
    parts = [PROGRAM, BEFORE.get(name, ""), *blocks(PAGES[name]), AFTER.get(name, "")]
    (tmp_path / "page.py").write_text("\n".join(parts))
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=3 * DEADLINE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests/django", "DJANGO_SETTINGS_MODULE": "testsite.settings"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_pages_with_tests_of_their_own_are_named_there() -> None:
    for name, test in TESTED.items():
        assert name in PAGES
        assert Path(name).name in (ROOT / test).read_text(), test


SETTINGS = """
SECRET_KEY = "for tests only"
USE_TZ = True
ROOT_URLCONF = "project.urls"
STATIC_URL = "static/"
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django.contrib.staticfiles",
    "django_offload",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
"""

ROUTING = """
from django_offload.decorators import channel_session_user, channel_session_user_from_http
from offload import Group, route

@channel_session_user_from_http
def greet(message):
    message.reply_channel.send({"text": f"hello, {message.user.username}"})

@channel_session_user_from_http
def join(message):
    Group("lobby").add(message.reply_channel)

@channel_session_user
def say(message):
    Group("lobby").send({"text": f"{message.user.username}: {message['text']}"})

def listen(message):
    Group("news").add(message.reply_channel)

channel_routing = [
    route("websocket.connect", listen, path="^/news/$"),
    route("websocket.connect", ENTER, path="^/chat/lobby/$"),
    route("websocket.receive", say, path="^/chat/lobby/$"),
]
"""

URLS = """
from django.http import HttpResponse
from django.urls import path

PAGE = '''<link rel="icon" href="data:,"><p></p><script>
const socket = new WebSocket(`ws://${location.host}/news/`)
socket.onopen = () => document.title = "open"
socket.onmessage = (event) => document.querySelector("p").innerText = event.data
</script>'''

urlpatterns = [path("news/", lambda request: HttpResponse(PAGE))]
"""

BROWSER = """
import contextlib, pathlib, tempfile
from selenium.webdriver.support.ui import WebDriverWait
from tests.browser import chromium

class Patient:
    # The page may be loaded before its socket is open.
    def __init__(self, browser):
        self._browser = browser

    def get(self, url):
        self._browser.get(url)
        WebDriverWait(self._browser, 20, 0.02).until(lambda browser: browser.title == "open")

class ShownTests(PageTests):
    def test_news_are_shown(self):
        with tempfile.TemporaryDirectory() as profile, chromium(pathlib.Path(profile)) as browser:
            self.browser = Patient(browser)
            super().test_news_are_shown()
            shown = "return document.querySelector('p').innerText"
            WebDriverWait(browser, 20, 0.02).until(lambda _: browser.execute_script(shown) == "hello")

del PageTests
"""


def test_the_tests_of_the_page_on_testing_pass(tmp_path: Path) -> None:
    case, browser, fixture = blocks(ROOT / "docs" / "howto" / "testing.md")
    project = tmp_path / "project"
    project.mkdir()
    for name, content in {"__init__": "", "settings": SETTINGS, "urls": URLS}.items():
        (project / f"{name}.py").write_text(content)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "DJANGO_SETTINGS_MODULE": "project.settings"}

    def run(entering: str, *command: str) -> str:
        (project / "routing.py").write_text(ROUTING.replace("ENTER", entering))
        done = subprocess.run(
            [sys.executable, "-B", "-m", *command], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    (project / "tests.py").write_text(case + browser + BROWSER)
    assert "Ran 2 tests" in run("join", "django", "test")
    (tmp_path / "test_chat.py").write_text(fixture)
    assert "1 passed" in run("greet", "pytest", "-q", "-p", "no:cacheprovider", "test_chat.py")

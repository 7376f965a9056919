"""``manage.py runserver``, ``offload`` and ``runworker`` on a project as ``startproject`` makes it."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.redis_server import until
from tests.serving import DEADLINE, ROOT

ROUTING = """
from offload import route

def echo(message):
    message.reply_channel.send({"text": message["text"]})

def fail(message):
    raise ValueError("as wanted")

def work(message):
    print("worked on", message["id"], flush=True)

channel_routing = [
    route("websocket.connect", lambda message: None, path="^/(?:echo|fail)$"),
    route("websocket.receive", echo, path="^/echo$"),
    route("websocket.receive", fail, path="^/fail$"),
    route("jobs", work),
]
"""

URLS = """
from django.http import HttpResponse
from django.urls import path

urlpatterns = [path("", lambda request: HttpResponse("hello")), path("fail", lambda request: 1 / 0)]
"""


class Project:
    """A project, and its commands."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("OFFLOAD_", "DJANGO_"))},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "OFFLOAD_RUNTIME_DIR": str(directory / "run"),
        }
        subprocess.run([sys.executable, "-m", "django", "startproject", "site1", "."], cwd=directory, check=True)
        settings = directory / "site1" / "settings.py"
        with settings.open("a") as file:
            file.write('INSTALLED_APPS += ["django_offload", "site1"]\n')
        (directory / "site1" / "routing.py").write_text(ROUTING)
        (directory / "site1" / "urls.py").write_text(URLS)
        (directory / "site1" / "static").mkdir()
        (directory / "site1" / "static" / "page.css").write_text("body {}")

    def run(self, *arguments: str) -> Command:
        return Command([sys.executable, "manage.py", *arguments], self)

    def say(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.directory, env=self.env, capture_output=True, text=True, timeout=60,
        )  # fmt: skip


class Command:
    """A command that goes on, and what it says."""

    def __init__(self, command: list[str], project: Project) -> None:
        self.process = subprocess.Popen(
            command, cwd=project.directory, env=project.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.said = ""
        self._ended = False
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._heard:
                self.said += line
                self._heard.notify_all()
        with self._heard:
            self._ended = True
            self._heard.notify_all()

    def wait_for(self, pattern: str, times: int = 1, timeout: float = 2 * DEADLINE) -> re.Match[str]:
        deadline = time.monotonic() + timeout
        with self._heard:
            while len(found := list(re.finditer(pattern, self.said))) < times:
                assert not self._ended, f"it ended without {pattern!r}, and said:\n{self.said}"
                assert self._heard.wait(deadline - time.monotonic()), f"no {pattern!r} in:\n{self.said}"
        return found[times - 1]

    def wait_for_change(self, pattern: str, times: int, files: dict[Path, str]) -> None:
        """Change files until it is noticed: Django's reloader looks for the first time some time after its start."""
        deadline = time.monotonic() + 2 * DEADLINE
        while True:
            for path, text in files.items():
                path.write_text(text)
            try:
                self.wait_for(pattern, times, 3.0)
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def port(self, times: int = 1) -> int:
        return int(self.wait_for(r"at http://[^\s/]+:(\d+)", times)[1])

    def page(self) -> str:
        """The first page, as the latest server has it; empty while none answers."""
        port = int(re.findall(r"at http://[^\s/]+:(\d+)", self.said)[-1])
        try:
            return get(port, "/")[1]
        except OSError:
            return ""

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(DEADLINE)
        with contextlib.suppress(ProcessLookupError):
            # What the reloader has started would keep the pipe.
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(DEADLINE)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@contextlib.contextmanager
def running(project: Project, *arguments: str) -> Iterator[Command]:
    command = project.run(*arguments)
    try:
        yield command
    finally:
        command.stop()


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()


def is_refused(port: int) -> bool:
    try:
        get(port, "/")
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


def test_runserver_serves_pages_files_sockets_and_channels(project: Project) -> None:
    with running(project, "runserver", "0", "--noreload") as server:
        port = server.port()
        assert get(port, "/") == (200, "hello")
        assert get(port, "/static/page.css") == (200, "body {}")
        for path in ("/static/none.css", "/static/../site1/settings.py", "/static/%2e%2e/%2e%2e/x", "/none"):
            status, body = get(port, path)
            assert status == 404
            assert "DEBUG = True" in body
        status, body = get(port, "/fail")
        assert status == 500
        assert "ZeroDivisionError" in body
        assert "Traceback" in body
        with connect(f"ws://127.0.0.1:{port}/echo") as client:
            client.send("hello")
            assert client.recv(DEADLINE) == "hello"
        with connect(f"ws://127.0.0.1:{port}/fail") as client:
            client.send("hello")
            server.wait_for(r"receive consumer site1\.routing\.fail failed for /fail\n(?s:.)*ValueError: as wanted")
        assert project.say("send", "jobs", '{"id": 5}').returncode == 0
        server.wait_for("worked on 5")
        server.wait_for(r'\[\d\d/\w\w\w/\d{4}:[\d:]{8} [+-]\d{4}\] "GET / HTTP/1\.1" 200 5\n')


def test_runserver_reloads_and_survives_a_syntax_error(project: Project) -> None:
    urls = project.directory / "site1" / "urls.py"
    late = project.directory / "site1" / "late.py"
    late.write_text('TEXT = "early"')
    lazy = URLS.replace('lambda request: HttpResponse("hello")', "page").replace("urlpatterns", f"{PAGE}\nurlpatterns")
    urls.write_text(lazy)
    with running(project, "runserver", "0") as server:
        assert get(server.port(), "/") == (200, "early")
        # A file that only the server has imported.
        server.wait_for_change("Starting offload", 2, {late: 'TEXT = "late" + "r"'})
        until(lambda: server.page() == "later", "the page to change")
        server.wait_for_change("SyntaxError", 1, {urls: "urlpatterns = ["})
        server.wait_for_change("Starting offload", 3, {urls: URLS.replace("hello", "mended")})
        until(lambda: server.page() == "mended", "the page to change")


PAGE = """
def page(request):
    from site1.late import TEXT
    return HttpResponse(TEXT)
"""


def test_runserver_ends_however_its_command_ends(project: Project) -> None:
    command = project.run("runserver", "0", "--noreload")
    try:
        port = command.port()
        assert get(port, "/")[0] == 200
    finally:
        command.process.kill()
        command.stop()
    until(lambda: is_refused(port), "the server to end", DEADLINE)


@pytest.mark.parametrize(
    ("address", "shown", "host"),
    [("0:0", r"http://0\.0\.0\.0:\d+/", "127.0.0.1"), ("localhost:0", r"http://localhost:\d+/", "localhost")],
)
def test_runserver_takes_djangos_addresses(address: str, shown: str, host: str, project: Project) -> None:
    with running(project, "runserver", address, "--noreload", "--nostatic") as server:
        server.wait_for(f"at {shown}")
        assert get(server.port(), "/", host) == (200, "hello")
        assert get(server.port(), "/static/page.css", host)[0] == 404


def test_runserver_serves_files_insecurely_where_it_is_told(project: Project) -> None:
    with (project.directory / "site1" / "settings.py").open("a") as settings:
        settings.write('DEBUG = False\nALLOWED_HOSTS = ["127.0.0.1"]\n')
    with running(project, "runserver", "0", "--noreload", "--insecure") as server:
        assert get(server.port(), "/static/page.css") == (200, "body {}")
        assert get(server.port(), "/static/../site1/settings.py")[0] == 404


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], 'CommandError: "nonsense" is not a valid port number or address:port pair.\n'),
        (["203.0.113.1:8000"], "Error: That IP address can't be assigned to.\n"),
    ],
)
def test_runserver_tells_of_wrong_addresses(arguments: list[str], message: str, project: Project) -> None:
    done = project.say("runserver", "--noreload", *arguments)
    assert done.returncode == 1
    assert done.stderr.endswith(message)


def test_runserver_tells_of_a_port_in_use(project: Project) -> None:
    with running(project, "runserver", "0", "--noreload") as server:
        done = project.say("runserver", "--noreload", str(server.port()))
    assert done.returncode == 1
    assert done.stderr.endswith("Error: That port is already in use.\n")


def test_offload_and_runworker_are_the_commands_of_offload(project: Project) -> None:
    (project.directory / "elsewhere").mkdir()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(project, "offload", "--bind", "127.0.0.1:0", "--workers", "2"))
        assert get(server.port(), "/") == (200, "hello")
        server.wait_for(r"messages on jobs are consumed by: offload worker site1\.wsgi:application; or here")
        worker = stack.enter_context(running(project, "runworker", "--threads", "2", "--layer=default"))
        worker.wait_for("serving jobs, websocket.connect")
        assert project.say("send", "jobs", '{"id": 6}').returncode == 0
        worker.wait_for("worked on 6")


def test_what_is_wrong_with_the_options_is_one_line(project: Project) -> None:
    for command in ("offload", "runworker"):
        done = project.say(command, "--wrokers", "2")
        assert (done.returncode, done.stderr) == (
            2,
            "offload: error: unknown option '--wrokers'; did you mean --workers?\n",
        )


def test_a_project_without_a_wsgi_application_is_told(project: Project) -> None:
    with (project.directory / "site1" / "settings.py").open("a") as settings:
        settings.write("WSGI_APPLICATION = None\n")
    done = project.say("offload")
    assert (done.returncode, done.stderr) == (
        1,
        'CommandError: the settings name no WSGI application; write WSGI_APPLICATION = "project.wsgi.application"\n',
    )

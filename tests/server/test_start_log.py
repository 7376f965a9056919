"""What the log tells at the start and at a reload: as text for people, as objects for collectors."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from offload import __version__, route
from offload.consumers import configuration
from offload.consumers.routing import Router
from offload.server.boot import about
from offload.settings import Settings
from tests.serving import ROOT, Server

SHOP = """
from offload import route

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2"), ("Connection", "close")])
    return [b"up"]

def connect(message): ...
def thumbnail(message): ...

channel_routing = [route("websocket.connect", connect, path="^/$"), route("thumbnails.generate", thumbnail)]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def start(project: Path, *arguments: str, workers: int = 1, **variables: str) -> Server:
    env = {"PYTHONPATH": f"{project}:{ROOT}", **variables}
    return Server("shop", *arguments, workers=workers, cwd=project, env=env)


def without_times_and_numbers(server: Server) -> list[str]:
    supervisor = str(server.process.pid)
    lines = server.log.replace(supervisor, "SUPERVISOR").replace(str(server.port), "PORT").splitlines()
    lines = [re.sub(r"^\[.{25}\] \[SUPERVISOR\] ", "", line) for line in lines]
    return [re.sub(r"process \d+ is", "process N is", line) for line in lines]


def test_start_is_told_for_people(project: Path) -> None:
    (project / "gunicorn.conf.py").write_text("workers = 2\nworker_class = 'gthread'\nthreads = 4\ncolour = 'red'\n")
    server = start(project, "--timeout", "60", "--layer", "memory://", workers=2, OFFLOAD_POOL_SIZE="50")
    try:
        # Other processes tell their own, and the limit of open files is the machine's.
        others = ("[2", "[INFO] a process may open ")
        own = [line for line in without_times_and_numbers(server) if not line.startswith(others)]
        assert own == [
            "[INFO] settings: command line (--bind, --workers, --timeout, --layer); environment (OFFLOAD_POOL_SIZE)",
            "[INFO] --timeout: a process that is busy with long requests is left alone, as under -k gevent; "
            "see --request-timeout",
            "[WARNING] worker_class = 'gthread' in gunicorn.conf.py has no effect: "
            "requests run in greenlets, as under gunicorn's gevent workers",
            "[WARNING] threads = 4 in gunicorn.conf.py has no effect: "
            "requests run in greenlets, up to --pool-size of them in each process",
            "[WARNING] gunicorn.conf.py: not settings, and ignored: colour",
            f"[INFO] offload {__version__} runs shop at http://127.0.0.1:PORT, supervisor SUPERVISOR, "
            "2 server processes",
            "[INFO] layer memory://",
            "[INFO] consumers of thumbnails.generate, websocket.connect",
            "[INFO] messages on thumbnails.generate are consumed by: offload worker shop; "
            "or here, with --workers-inside 1",
            "[INFO] server process N is ready",
            "[INFO] server process N is ready",
        ]
    finally:
        assert server.stop() == 0


def test_log_may_be_objects(project: Path) -> None:
    server = start(project, "--log-format", "json", "--layer", "memory://")
    try:
        first, *_ = [json.loads(line) for line in server.log.splitlines()]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.pop("time"))
        assert first == {
            "level": "info",
            "logger": "offload.server",
            "process": server.process.pid,
            "message": "settings: command line (--bind, --layer, --log-format)",
        }
    finally:
        assert server.stop() == 0


def test_password_of_a_layer_is_not_told() -> None:
    configuration.configure("redis://user:secret@10.0.0.1/0")
    configuration.configure("memory://", alias="images")
    try:
        settings = Settings(app="shop")
        layer, consumers, _ = about(Router([route("thumbnails.generate", lambda message: None)]), settings)
        assert layer == "layer default at redis://10.0.0.1:6379/0, images at memory://"
        assert consumers == "consumers of thumbnails.generate"
        assert about(Router([]), settings) == []
    finally:
        configuration.reset()


def test_reload_reads_the_configuration_anew(project: Path) -> None:
    config = project / "gunicorn.conf.py"
    config.write_text("raw_env = ['COLOUR=red']\nlimit_request_line = 100\n")
    server = start(project, "--layer", "memory://")
    try:
        long = b"GET /" + b"a" * 200 + b" HTTP/1.0\r\n\r\n"
        assert server.ask(long).startswith(b"HTTP/1.1 414 ")
        config.write_text("limit_request_line = 1000\nthreads = 9\nbacklog = 5\n")
        server.signal(signal.SIGHUP)
        server.wait_for("was replaced and ended with status 0")
        assert server.ask(long).startswith(b"HTTP/1.1 200 ")
        assert "[WARNING] threads = 9 in gunicorn.conf.py has no effect: " in server.log
        assert "[WARNING] backlog in gunicorn.conf.py is changed by a restart, not by a reload" in server.log
        config.write_text("limit_request_line = 'many'\n")
        server.signal(signal.SIGHUP)
        server.wait_for(
            r"\[ERROR\] not reloaded, the old server processes go on: "
            "limit_request_line in gunicorn.conf.py is 'many', which is not a whole number\n"
        )
        assert server.ask(long).startswith(b"HTTP/1.1 200 ")
    finally:
        assert server.stop() == 0


def test_variables_of_env_are_there_at_the_import_and_change_at_a_reload(project: Path) -> None:
    (project / "shop.py").write_text(
        "import os\nCOLOUR = os.environ['COLOUR'].encode()\ndef application(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Length', str(len(COLOUR)))])\n    return [COLOUR]\n"
    )
    config = project / "gunicorn.conf.py"
    config.write_text("raw_env = ['COLOUR=red']\n")
    server = start(project, "--layer", "memory://")
    try:
        assert server.ask(b"GET / HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nred")
        config.write_text("raw_env = ['COLOUR=green']\n")
        server.signal(signal.SIGHUP)
        server.wait_for("was replaced and ended with status 0")
        assert server.ask(b"GET / HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\ngreen")
    finally:
        assert server.stop() == 0


def test_settings_of_a_reload_that_fails_are_given_up(project: Path) -> None:
    config = project / "gunicorn.conf.py"
    config.write_text("limit_request_line = 100\n")
    server = start(project, "--layer", "memory://")
    try:
        config.write_text("limit_request_line = 1000\nwsgi_app = 'other'\ncertfile = 'missing.pem'\n")
        server.signal(signal.SIGHUP)
        server.wait_for("not reloaded, the old server processes go on: ")
        # Started again, it has the settings of those that run.
        os.kill(server.pids[0], signal.SIGKILL)
        server.wait_for("server process .* is ready", times=2)
        assert server.ask(b"GET /" + b"a" * 200 + b" HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 414 ")
    finally:
        assert server.stop() == 0

"""Logging as gunicorn's operators configure it: dicts, files, syslog, and what the application prints."""

from __future__ import annotations

import json
import logging
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload.exceptions import ConfigurationError
from offload.server import logs
from offload.settings import LogOptions
from tests.redis_server import until
from tests.serving import DEADLINE, ROOT, Server

APP = """
import os, sys

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2"), ("Connection", "close")])
    print("printed", flush=True)
    os.write(2, b"written\\n")
    environ["wsgi.errors"].write("to wsgi.errors\\n")
    environ["wsgi.errors"].flush()
    return [b"up"]
"""
DICT = {
    "version": 1,
    "formatters": {"json": {"format": '{"logger": "%(name)s", "text": "%(message)s"}'}},
    "handlers": {
        "errors": {"class": "logging.FileHandler", "filename": "errors.log", "formatter": "json"},
        "access": {"class": "logging.FileHandler", "filename": "access.log", "formatter": "json"},
    },
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["errors"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["access"], "propagate": False},
    },
}
FILE = """
[loggers]
keys=root, gunicorn.error, gunicorn.access
[handlers]
keys=errors, access
[formatters]
keys=json
[logger_root]
level=INFO
handlers=errors
[logger_gunicorn.error]
level=INFO
handlers=errors
propagate=0
qualname=gunicorn.error
[logger_gunicorn.access]
level=INFO
handlers=access
propagate=0
qualname=gunicorn.access
[handler_errors]
class=FileHandler
formatter=json
args=('errors.log',)
[handler_access]
class=FileHandler
formatter=json
args=('access.log',)
[formatter_json]
format={"logger": "%(name)s", "text": "%(message)s"}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(project: Path, *arguments: str) -> Server:
    env = {"PYTHONPATH": f"{project}:{ROOT}"}
    return Server("shop", "--layer", "memory://", *arguments, cwd=project, env=env)


def ask(server: Server) -> None:
    assert server.ask(b"GET /shelf HTTP/1.0\r\n\r\n").endswith(b"up")


@pytest.mark.parametrize("kind", ["dict", "json", "file"])
def test_configuration_of_gunicorns_loggers_holds_for_ours(project: Path, kind: str) -> None:
    (project / "gunicorn.conf.py").write_text(f"logconfig_dict = {DICT}\n" if kind == "dict" else "")
    (project / "log.json").write_text(json.dumps(DICT))
    (project / "log.ini").write_text(FILE)
    options = {"dict": (), "json": ("--log-config-json", "log.json"), "file": ("--log-config", "log.ini")}[kind]
    # Said of the log in a file, so that nobody waits for lines on stderr.
    server = start(project, "--access-logformat", "%(m)s %(U)s", "--error-logfile", "unused.log", *options)
    try:
        ask(server)
        for number, name in enumerate(("errors.log", "access.log")):
            (project / name).rename(project / f"{name}.1")
            if number:
                server.signal(signal.SIGUSR1)
        _wait_for(project / "errors.log", "reopening the logs: SIGUSR1")
        _wait_for(project / "access.log", "")
        ask(server)
    finally:
        assert server.stop() == 0
    for name in ("access.log.1", "access.log"):
        lines = [json.loads(line) for line in (project / name).read_text().splitlines()]
        assert lines == [{"logger": "offload.access", "text": "GET /shelf"}]
    text = (project / "errors.log.1").read_text()
    assert '{"logger": "offload.server", "text": "server process ' in text
    assert server.log.replace("written\n", "").replace("to wsgi.errors\n", "") == ""


def _wait_for(path: Path, text: str) -> None:
    until(lambda: path.exists() and text in path.read_text(), f"{text!r} in {path.name}")


def test_dict_may_refer_to_gunicorns_handlers(project: Path) -> None:
    (project / "gunicorn.conf.py").write_text(
        "logconfig_dict = {'loggers': {'gunicorn.error': {'level': 'WARNING', 'handlers': ['error_console']}},"
        " 'root': {'handlers': []}}\nthreads = 9\n"
    )
    server = start(project, "--error-logfile", "unused.log")
    try:
        ask(server)
    finally:
        assert server.stop() == 0
    lines = [line for line in server.log.splitlines() if line.startswith("[2")]
    assert [line[29:].partition("] ")[2][:40] for line in lines] == ["[WARNING] threads = 9 in gunicorn.conf.p"]


def test_syslog_gets_the_log(project: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(project / "syslog"))
        syslog.settimeout(DEADLINE)
        server = start(
            project, "--log-syslog", "--log-syslog-to", f"unix://{project}/syslog#dgram", "--log-syslog-prefix", "shop",
            "--log-syslog-facility", "daemon",
        )  # fmt: skip
        try:
            # The facility daemon (3), and the severity info (6).
            assert syslog.recv(1000).startswith(f"<30>shop: [{server.process.pid}] settings: ".encode())
        finally:
            assert server.stop() == 0


@pytest.fixture
def loggers() -> Iterator[None]:
    """The loggers that a set-up changes are afterwards as they were."""
    names = ("offload", "offload.access", "gunicorn.error", "gunicorn.access")
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in map(logging.getLogger, names)]
    yield
    for logger, *state in before:
        logger.handlers, logger.level, logger.propagate = state


@pytest.mark.usefixtures("loggers")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LogOptions(syslog=True, syslog_to="localhost:514"), "--log-syslog-to is 'localhost:514', which is not udp://"),
        (
            LogOptions(syslog=True, syslog_facility="shop"),
            "--log-syslog-facility is 'shop', which is no facility; choose one of auth, authpriv, ",
        ),
        (
            LogOptions(config_dict={"handlers": {"x": {"class": "no.such"}}}),
            "the configuration of logging 'logconfig_dict' cannot be used: Unable to configure handler 'x': ",
        ),
        (LogOptions(config="none.ini"), "the configuration of logging 'none.ini' cannot be used: "),
        (LogOptions(config_json="none.json"), "the configuration of logging 'none.json' cannot be used: "),
    ],
)
def test_what_cannot_be_logged_to_is_told(options: LogOptions, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        logs.set_up(options)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("captures", [False, True])
def test_what_the_application_says_goes_to_the_log(project: Path, captures: bool) -> None:
    server = start(project, "--error-logfile", "server.log", *(["--capture-output"] if captures else []))
    log = project / "server.log"
    try:
        ask(server)
        log.rename(project / "server.log.1")
        server.signal(signal.SIGUSR1)
        _wait_for(log, "reopening the logs: SIGUSR1")
        # Each process begins its own file anew.
        while "to wsgi.errors" not in log.read_text():
            ask(server)
    finally:
        assert server.stop() == 0
    for path in (project / "server.log.1", log):
        text = path.read_text()
        assert "to wsgi.errors\n" in text
        assert ("printed\n" in text) is captures
        assert ("written\n" in text) is captures
    assert (server.log == "") is captures

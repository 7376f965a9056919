"""Figures for StatsD, as gunicorn's dashboards know them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from offload.observe.statsd import StatsD
from tests.serving import DEADLINE, ROOT, Server

APP = """
def application(environ, start_response):
    if environ["PATH_INFO"] == "/fails":
        raise ZeroDivisionError
    start_response("201 Created", [("Content-Length", "2"), ("Connection", "close")])
    return [b"up"]
"""


def start(project: Path, *arguments: str) -> Server:
    (project / "shop.py").write_text(APP)
    env = {"PYTHONPATH": f"{project}:{ROOT}"}
    return Server("shop", "--layer", "memory://", *arguments, cwd=project, env=env)


def test_answers_and_lines_of_the_log_are_counted(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as statsd:
        statsd.bind(str(tmp_path / "statsd"))
        statsd.settimeout(DEADLINE)
        options = ("--statsd-prefix", "shop.", "--dogstatsd-tags", "a:b")
        server = start(tmp_path, "--statsd-host", f"unix://{tmp_path}/statsd", *options, "--threads", "4")
        try:
            # The supervisor's warning on --threads comes first.
            assert statsd.recv(1000) == b"shop.gunicorn.log.warning:1|c|@1.0|#a:b"
            assert statsd.recv(1000) == b"shop.gunicorn.workers:1|g|#a:b"
            server.ask(b"GET / HTTP/1.0\r\n\r\n")
            duration, *counts = statsd.recv(1000).decode().split("\n")
            assert duration.startswith("shop.gunicorn.request.duration:")
            assert duration.endswith("|ms|#a:b")
            assert counts == [
                "shop.gunicorn.requests:1|c|@1.0|#a:b",
                "shop.gunicorn.request.status.201:1|c|@1.0|#a:b",
            ]
            server.ask(b"GET /fails HTTP/1.0\r\n\r\n")
            assert statsd.recv(1000) == b"shop.gunicorn.log.exception:1|c|@1.0|#a:b"
            assert b"shop.gunicorn.request.status.500:1|c|@1.0|#a:b" in statsd.recv(1000)
        finally:
            assert server.stop() == 0


@pytest.mark.parametrize("host", ["nobody.invalid:8125", "unix:///none/statsd", "a:b:c"])
def test_address_that_leads_nowhere_is_told_and_harms_nobody(host: str, caplog: pytest.LogCaptureFixture) -> None:
    statsd = StatsD(host)
    assert f"no figures are sent to StatsD at {host}: " in caplog.text
    statsd.count("gunicorn.requests")


def test_figures_over_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(DEADLINE)
        statsd = StatsD(f"127.0.0.1:{receiver.getsockname()[1]}")
        statsd.gauge("gunicorn.workers", 3)
        assert receiver.recv(100) == b"gunicorn.workers:3|g"
        statsd.close()
        statsd.gauge("gunicorn.workers", 4)

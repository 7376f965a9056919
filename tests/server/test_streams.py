"""Servers that are started without standard streams, as some service managers and scripts start them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import DEADLINE, ROOT

APP = """
def application(environ, start_response):
    print("to whom it may concern")
    environ["wsgi.errors"].write("nobody\\n")
    start_response("200 OK", [("Content-Length", "2")])
    return [b"up"]
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&- --error-logfile error.log"])
def test_server_starts_and_serves_without_standard_streams(tmp_path: Path, closed: str) -> None:
    (tmp_path / "shop.py").write_text(APP)
    place = str(tmp_path / "shop.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices, socket.socket(socket.AF_UNIX) as client:
        notices.bind("")
        notices.settimeout(DEADLINE)
        process = subprocess.Popen(
            ["sh", "-c", f"exec {sys.executable} -m offload shop --layer memory:// -b unix:{place} {closed}"],
            cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONPATH": f"{tmp_path}:{ROOT}",
                "NOTIFY_SOCKET": f"@{notices.getsockname()[1:].decode()}",
            },
        )  # fmt: skip
        try:
            assert notices.recv(1000).startswith(b"READY=1"), process.wait(DEADLINE)
            client.settimeout(DEADLINE)
            client.connect(place)
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert b"".join(iter(lambda: client.recv(1000), b"")).endswith(b"up")
            # Nothing of the server's own has the numbers that others write to.
            for number in range(3):
                assert os.readlink(f"/proc/{process.pid}/fd/{number}") == "/dev/null"
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE) == 0

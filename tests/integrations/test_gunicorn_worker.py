"""offload's worker class under a real gunicorn, the oldest that it supports and the newest."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.redis_server import free_port, until
from tests.serving import DEADLINE, ROOT

SITE = "tests.integrations.site_app"
WORKER = "offload.integrations.gunicorn.Worker"


class Gunicorn:
    """A running gunicorn, and its log."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port
        self.log = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log += line

    def get(self, path: str = "/") -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=DEADLINE) as answer:
            return bytes(answer.read())

    def url(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def wait_for(self, pattern: str, times: int = 1) -> list[str]:
        until(lambda: len(re.findall(pattern, self.log)) >= times, f"{times} of {pattern!r} in {self.log}", DEADLINE)
        return re.findall(pattern, self.log)

    def end(self) -> int:
        status = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@contextlib.contextmanager
def gunicorn(tmp_path: Path, *arguments: str, python: str = sys.executable, **env: str) -> Iterator[Gunicorn]:
    port = free_port()
    process = subprocess.Popen(
        [
            python, "-m", "gunicorn", SITE, "-k", WORKER, "-b", f"127.0.0.1:{port}", "--graceful-timeout", "5",
            *arguments,
        ],
        cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "OFFLOAD_RUNTIME_DIR": str(tmp_path / "run"), "PYTHONUNBUFFERED": "1", **env},
    )  # fmt: skip
    server = Gunicorn(process, port)
    try:
        server.wait_for(r"Booting worker|Shutting down")
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        server.end()


def ready(server: Gunicorn) -> None:
    def answers() -> bool:
        try:
            return bool(server.get())
        except OSError:
            return False

    until(answers, "an answer", DEADLINE)


@pytest.fixture(scope="module", params=["22.0.0", "newest"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with this gunicorn."""
    if request.param == "newest":
        return sys.executable
    directory = tmp_path_factory.mktemp("gunicorn")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(directory)]
    subprocess.run([*pip, f"gunicorn=={request.param}"], check=True, capture_output=True)
    python = directory / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{directory}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return str(python)


def test_http_consumers_and_groups_span_its_workers(tmp_path: Path, python: str) -> None:
    with gunicorn(tmp_path, "-w", "3", python=python) as server:
        server.wait_for("imported with cooperative sleep", 3)
        ready(server)
        with contextlib.ExitStack() as stack:
            members = [stack.enter_context(connect(server.url("/room/"))) for _ in range(9)]
            members[0].send("hello")
            for member in members:
                assert member.recv(DEADLINE) == "hello"
            server.get("/say?from-a-view")
            for member in members:
                assert member.recv(DEADLINE) == "from-a-view"


def test_a_stop_closes_websockets_with_1001_and_takes_the_hub_along(tmp_path: Path) -> None:
    with gunicorn(tmp_path) as server:
        ready(server)
        with connect(server.url("/room/")) as member:
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                member.recv(DEADLINE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        assert server.end() == 0
        until(lambda: not list((tmp_path / "run").glob("*.sock")), "the hub's end", DEADLINE)


def test_a_killed_hub_is_replaced(tmp_path: Path) -> None:
    with gunicorn(tmp_path) as server:
        ready(server)
        hubs = server.wait_for(r"\[(\d+)\] \[INFO\] hub: serving")
        with connect(server.url("/room/")) as member:
            os.kill(int(hubs[0]), signal.SIGKILL)
            server.wait_for(r"hub: serving", 2)
            server.wait_for("has its hub at .* again")
            member.send("still here")
            assert member.recv(DEADLINE) == "still here"


def test_a_worker_that_is_killed_or_has_served_enough_is_replaced(tmp_path: Path) -> None:
    with gunicorn(tmp_path, "--max-requests", "5") as server:
        ready(server)
        first = server.get()
        until(lambda: server.get() != first, "another worker", DEADLINE)
        server.wait_for("giving way to another worker")
        os.kill(int(server.get()), signal.SIGKILL)
        server.wait_for("Booting worker", 3)
        ready(server)


def test_an_application_that_does_not_import_ends_the_start_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "broken", "-k", WORKER, "-b", f"127.0.0.1:{free_port()}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE,
        env={**os.environ, "OFFLOAD_RUNTIME_DIR": str(tmp_path / "run")},
    )  # fmt: skip
    assert done.returncode == 3
    assert "No module named 'nothing_of_that_name'" in done.stderr

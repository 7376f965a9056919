"""``--reload``: changed code is served as soon as it is written, and the mending of code that fails is waited for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from offload.exceptions import ConfigurationError
from offload.server import code_watcher
from tests.redis_server import until
from tests.server.children import is_running, wait_gone
from tests.serving import DEADLINE, ROOT, Server, read_all
from tests.stalls import Stalls

APP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "1"), ("Connection", "close")])
    return [b"%d"]
"""


def start(project: Path, *arguments: str) -> Server:
    env = {"PYTHONPATH": f"{project}:{ROOT}"}
    return Server("shop", "--layer", "memory://", "--reload", *arguments, cwd=project, env=env)


def answer(server: Server) -> bytes:
    return server.ask(b"GET / HTTP/1.0\r\n\r\n")[-1:]


def replace(path: Path, text: str) -> None:
    """As editors write: the old file is there until the new one is whole."""
    (path.parent / "new").write_text(text)
    (path.parent / "new").rename(path)


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=" ".join)
def test_changed_code_is_served(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "shop.py").write_text(APP % 1)
    server = start(tmp_path, *arguments)
    try:
        server.wait_for(r"\[INFO\] watching .* for changes \(--reload\), process (\d+)\n")
        assert answer(server) == b"1"
        replace(tmp_path / "shop.py", APP % 2)
        server.wait_for(r"\[INFO\] changed: shop\.py\n")
        until(lambda: answer(server) == b"2", "the new code")
        # What is no code changes nothing.
        (tmp_path / "notes.txt").write_text("x")
        replace(tmp_path / "shop.py", "def application(environ, start_response):\n")
        server.wait_for(r"\[ERROR\] not reloaded, the old server processes go on: .*SyntaxError|IndentationError")
        assert answer(server) == b"2"
        replace(tmp_path / "shop.py", APP % 3)
        until(lambda: answer(server) == b"3", "the mended code")
        assert "notes.txt" not in server.log
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=" ".join)
def test_code_that_fails_at_the_start_is_waited_for(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "shop.py").write_text("import not_there\n")
    command = [
        sys.executable, "-m", "offload", "shop", "--layer", "memory://", "--reload", "-b", "unix:shop.sock", *arguments,
    ]  # fmt: skip
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=log)
    try:
        until(lambda: "; waiting for a change\n" in (tmp_path / "log").read_text(), "the failure")
        assert "ModuleNotFoundError: No module named 'not_there'" in (tmp_path / "log").read_text()
        replace(tmp_path / "shop.py", APP % 1)
        until(lambda: " is ready\n" in (tmp_path / "log").read_text(), "the mended code")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "shop.sock"))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert read_all(client).endswith(b"\r\n\r\n1")
    finally:
        process.terminate()
        assert process.wait(DEADLINE) == 0


def test_extra_files_are_watched_and_the_watcher_ends_with_its_supervisor(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP % 1)
    (tmp_path / "templates").mkdir()
    page = tmp_path / "templates" / "page.html"
    page.write_text("<p>")
    server = start(tmp_path, "--reload-extra-file", "templates/*.html")
    try:
        watcher = int(server.wait_for(r"for changes \(--reload\), process (\d+)\n")[1])
        assert is_running(watcher)
        page.write_text("<p></p>")
        server.wait_for(r"\[INFO\] changed: templates/page\.html\n")
        server.wait_for("was replaced and ended with status 0")
        server.process.kill()
        wait_gone(watcher)
    finally:
        server.stop()


def test_extra_file_that_is_missing_is_refused() -> None:
    with pytest.raises(ConfigurationError) as refused:
        code_watcher.start([], ["none/*.html"], lambda: None)
    assert str(refused.value) == "--reload-extra-file is 'none/*.html', and there is no such file"


def test_saved_code_is_served_within_about_a_second(tmp_path: Path, saw: Callable[[str], None]) -> None:
    (tmp_path / "shop.py").write_text(APP % 1)
    server = start(tmp_path)
    seconds = []
    try:
        server.wait_for("for changes")
        with Stalls() as stalls:
            for number in (2, 3, 4):
                began = time.monotonic()
                replace(tmp_path / "shop.py", APP % number)
                until(lambda wanted=b"%d" % number: answer(server) == wanted, "the new code")
                seconds.append(time.monotonic() - began)
                server.wait_for("was replaced and ended with status 0", times=number - 1)
        figures = ", ".join(f"{each:.2f} s" for each in seconds)
        saw(figures)
        # Under a second where the machine has nothing else to do.
        assert min(seconds) < 3.0 + stalls.seconds, figures
    finally:
        assert server.stop() == 0

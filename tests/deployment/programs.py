"""Real proxies and servers in front of offload or beside it, each ended by its own process id."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.serving import DEADLINE, ROOT

CONF = ROOT / "conf"


def program(name: str, package: str) -> str:
    """Where a program is; without it the test is skipped, or fails under ``CI=true``."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        remedy = f"{name} is missing: install it (on Debian: apt-get install {package})"
        if os.environ.get("CI") == "true":
            pytest.fail(remedy)
        pytest.skip(remedy)
    return found


def shipped(name: str, changes: Mapping[str, str]) -> str:
    """A file of ``conf/`` with the places of this test in it; each text to change must be there."""
    text = (CONF / name).read_text()
    for old, new in changes.items():
        assert old in text, f"conf/{name} has no {old!r}"
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def running(command: list[str], answers: Callable[[], object], **more: object) -> Iterator[subprocess.Popen[bytes]]:
    """A program for the length of a ``with`` block, from when `answers` no longer raises OSError."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **more)  # type: ignore[call-overload]
    try:
        until(answers, process)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(condition: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until a condition neither raises OSError nor is False."""
    deadline = time.monotonic() + DEADLINE
    pause = threading.Event()
    while True:
        error: object = None
        try:
            if condition() is not False:
                return
        except OSError as caught:
            error = caught
        assert process is None or process.poll() is None, f"ended with {process and process.returncode}"
        assert time.monotonic() < deadline, f"waited {DEADLINE} s in vain; the last error: {error}"
        pause.wait(0.02)


def fetch(url: str, data: bytes | None = None) -> tuple[bytes, Mapping[str, str]]:
    """The body and the header fields of an answer."""
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=DEADLINE) as answer:
        return answer.read(), answer.headers


class Nginx:
    """An nginx with one site of ours; ``nginx -t`` has approved of it.

    Args:
        site: the file for ``conf.d``.
        directory: for its files.
    """

    def __init__(self, site: str, directory: Path) -> None:
        self._program = program("nginx", "nginx")
        self._site = directory / "site.conf"
        self._main = directory / "nginx.conf"
        self._pid = directory / "nginx.pid"
        paths = "".join(
            f"    {name}_temp_path {directory}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # The processes of root's nginx would be somebody's who may not enter root's directories.
        user = "user root;\n" if os.geteuid() == 0 else ""
        self._main.write_text(
            f"{user}daemon off;\nworker_processes 1;\npid {self._pid};\nerror_log stderr;\nevents {{ }}\n"
            f"http {{\n    access_log off;\n{paths}    include {self._site};\n}}\n"
        )
        self.change(site)

    def change(self, site: str) -> None:
        """Write another site, which is in force after `reload`."""
        self._site.write_text(site)
        tested = subprocess.run([*self._command, "-t"], capture_output=True, text=True)
        assert tested.returncode == 0, tested.stderr
        # Its own warning, that only root may change users, is no fault of the site.
        warnings = [line for line in tested.stderr.splitlines() if "[warn]" in line and "user" not in line]
        assert not warnings, tested.stderr

    @property
    def _command(self) -> list[str]:
        return [self._program, "-e", "stderr", "-c", str(self._main), "-p", str(self._main.parent)]

    def running(self, port: int) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """It serves as soon as its port takes connections."""
        return running(self._command, lambda: socket.create_connection(("127.0.0.1", port)).close())

    def reload(self) -> None:
        """Ask for the new site; older connections stay with the processes that have them."""
        os.kill(int(self._pid.read_text()), signal.SIGHUP)


@contextlib.contextmanager
def gunicorn(application: str, path: Path, cwd: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A gunicorn at a Unix socket."""
    command = [sys.executable, "-m", "gunicorn", application, "--bind", f"unix:{path}", "--no-control-socket"]
    known = subprocess.run([*command[:3], "--help"], capture_output=True, text=True, check=True).stdout
    if not re.search(r"--no-control-socket", known):
        command.remove("--no-control-socket")
    with running(command, path.stat, cwd=cwd, env={**os.environ, **env}) as process:
        yield process

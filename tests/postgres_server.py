"""A real PostgreSQL for tests: new and empty, on a free port of the loopback, killed and gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.redis_server import PATIENCE, free_port, stand_still, until

INSTALLED = Path("/usr/lib/postgresql")
"""Debian keeps its programs here, one directory for each version, and off the PATH."""
REMEDY = "needs PostgreSQL; run: apt-get install postgresql"
USER = "postgres"


def require_postgres() -> Path:
    """Where its programs are. Without them the test is skipped, or fails where CI=true promises that they are there."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    versions = sorted(INSTALLED.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if versions:
        return versions[-1].parent
    if os.environ.get("CI") == "true":
        pytest.fail(REMEDY)
    pytest.skip(REMEDY)


class PostgresServer:
    """A server that can be killed, started again on the same port, and frozen.

    Args:
        directory: of its own; what is above must let other users pass, as root's PostgreSQL runs as another user.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._programs = require_postgres()
        self._user = USER if os.geteuid() == 0 else None
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(directory, account.pw_uid, account.pw_gid)
        self._run("initdb", "-D", "data", "-U", USER, "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "",
            "fsync": "off", "max_connections": "300",
        }  # fmt: skip
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [f"{self._programs}/postgres", "-D", "data", *(f"--{name}={value}" for name, value in options.items())],
                cwd=self.directory, user=self._user, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until(self._is_ready, "PostgreSQL to start", 3 * PATIENCE)

    def kill(self) -> None:
        """As a crash does: the server process, and those of its connections."""
        if self.process is not None:
            self.freeze()
            # The next server does not start beside one of them.
            stand_still(*self._children(), by=signal.SIGKILL)
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def freeze(self) -> None:
        """The server first, so that it starts no process for a connection after the others were counted."""
        assert self.process is not None
        stand_still(self.process.pid)
        stand_still(*self._children())

    def thaw(self) -> None:
        """The server last: it forgets those of its processes that have ended."""
        assert self.process is not None
        for pid in (*self._children(), self.process.pid):
            os.kill(pid, signal.SIGCONT)

    def _children(self) -> list[int]:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def _is_ready(self) -> bool:
        asked = [f"{self._programs}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [f"{self._programs}/{program}", *arguments],
            cwd=self.directory, user=self._user, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

"""A PostgreSQL of our own: new and empty, on a Unix socket in a directory of its own, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from benchmarks.harness.model import BenchmarkError
from benchmarks.harness.processes import START_TIMEOUT, last_line, start_child, stop_child

INSTALLED = Path("/usr/lib/postgresql")
"""Debian keeps its programs here, one directory for each version, and off the PATH."""
OWNER = "postgres"
"""Who it runs as when the harness is root, as whom it refuses to run; and its superuser."""
CONNECTIONS = 300


class Postgres:
    """The server, for the length of a ``with`` block; anybody on this machine may connect as OWNER."""

    def __init__(self, cpu: int | None) -> None:
        self.cpu = cpu
        self.user = OWNER if os.geteuid() == 0 else None
        self.programs = _programs()

    def __enter__(self) -> Postgres:
        self.directory = tempfile.mkdtemp(prefix="bench-pg-")
        try:
            if self.user is not None:
                account = _account(self.user)
                os.chown(self.directory, account.pw_uid, account.pw_gid)
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if (child := getattr(self, "child", None)) is not None:
            stop_child(child)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self) -> None:
        data = f"{self.directory}/data"
        made = subprocess.run(
            [f"{self.programs}/initdb", "-D", data, "-U", OWNER, "-A", "trust", "--no-sync", "--locale=C"],
            cwd=self.directory, user=self.user, capture_output=True, text=True,
        )  # fmt: skip
        if made.returncode:
            raise BenchmarkError(f"PostgreSQL cannot be set up: {last_line(made.stdout + made.stderr)}")
        command = [f"{self.programs}/postgres", "-D", data, "-k", self.directory, "-c", "listen_addresses="]
        with open(f"{self.directory}/log", "wb") as log:
            self.child = start_child(
                [*command, "-c", f"max_connections={CONNECTIONS}", "-c", "fsync=off"],
                self.cpu, stdout=log, stderr=subprocess.STDOUT, cwd=Path(self.directory), user=self.user,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT
        while not self._is_ready():
            if self.child.poll() is not None or time.monotonic() > deadline:
                words = Path(self.directory, "log").read_text(errors="replace")
                raise BenchmarkError(f"PostgreSQL does not start: {last_line(words)}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        asked = [f"{self.programs}/pg_isready", "-q", "-h", self.directory]
        return subprocess.run(asked, cwd=self.directory, capture_output=True).returncode == 0


def _programs() -> Path:
    """Where they are."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(INSTALLED.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not versions:
        raise BenchmarkError("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    return versions[-1].parent


def _account(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError as error:
        raise BenchmarkError(f"PostgreSQL does not run as root, and there is no user {name!r}") from error

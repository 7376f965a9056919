"""Servers and Redis as child processes: on loopback, on a free port, gone when the harness is gone."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from benchmarks.harness import ROOT
from benchmarks.harness.model import BenchmarkError

START_TIMEOUT = 30.0
STOP_TIMEOUT = 5.0
PR_SET_PDEATHSIG = 1
ESTABLISHED, CLOSE_WAIT = "01", "08"
# What would change a server behind our back.
FOREIGN_VARIABLES = (
    "OFFLOAD_",
    "GUNICORN_",
    "GRANIAN_",
    "UVICORN_",
    "NODE_OPTIONS",
    # With it our own sources would be compiled at each start, and packages that pip installed would not.
    "PYTHONDONTWRITEBYTECODE",
    "PORT",
    "WEB_CONCURRENCY",
    "FORWARDED_",
)
LIBC = ctypes.CDLL(None)


def last_line(text: str) -> str:
    """The last line that says something, fit for a table: without the paths and registries of this machine."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "log of this run" not in line]
    if not lines:
        return ""
    cleaned = re.sub(r"(?:https?|file)://(?!127\.0\.0\.1)\S+", "(URL)", lines[-1].replace(f"{ROOT}/", ""))
    return re.sub(r"(?<![\w/:)])/(?:[\w.+-]+/)+", "", cleaned)[-300:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_child(
    command: Sequence[str],
    cpu: int | None,
    *,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.PIPE,
    cwd: Path = ROOT,
    user: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` in a process group of its own, pinned to `cpu`; the kernel ends it if the harness dies.

    `user` is whom it runs as, None for whoever runs the harness.
    """
    parent = os.getpid()

    def in_child() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)  # the harness died before the line above
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})

    inherited = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN_VARIABLES)}
    try:
        return subprocess.Popen(
            command,
            cwd=cwd,
            user=user,
            env={**inherited, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=in_child,
            start_new_session=True,
        )
    except OSError as error:
        raise BenchmarkError(f"{Path(command[0]).name} cannot be started: {error.strerror}") from error


def stop_child(child: subprocess.Popen[bytes]) -> None:
    """End a child politely, then the rest of its process group by force."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


class Server:
    """A server process that accepts connections on 127.0.0.1 for as long as the `with` block runs.

    Attributes:
        began: when it was started, by `time.monotonic`.
    """

    def __init__(
        self, command: Sequence[str], port: int, cpu: int | None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.command = command
        self.port = port
        self.cpu = cpu
        self.environment = environment

    def __enter__(self) -> Server:
        self.log = tempfile.TemporaryFile()
        self.began = time.monotonic()
        try:
            self.child = start_child(
                self.command, self.cpu, environment=self.environment, stdout=self.log, stderr=subprocess.STDOUT
            )
        except BaseException:
            self.log.close()
            raise
        try:
            self._wait_until_it_accepts()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stop_child(self.child)
        self.log.close()

    def _wait_until_it_accepts(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise BenchmarkError(
                    f"the server ended at start with status {self.child.returncode}: {self.last_words()}"
                )
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.005)
                continue
            return
        raise BenchmarkError(f"the server did not accept connections in {START_TIMEOUT:g} s: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of the server's log."""
        self.log.seek(0)
        return last_line(self.log.read().decode(errors="replace")) or "it logged nothing"

    def pids(self) -> list[int]:
        """The process and all its descendants."""
        children: dict[int, list[int]] = {}
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
            fields = _stat(pid)
            if fields:
                children.setdefault(int(fields[1]), []).append(pid)
        found = [self.child.pid]
        for pid in found:
            found.extend(children.get(pid, []))
        return found

    def cpu_seconds(self) -> float:
        """User and system time of all its processes up to now."""
        stats = [fields for pid in self.pids() if (fields := _stat(pid))]
        return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def resident_bytes(pid: int) -> int:
    """RSS as smaps_rollup counts it: page by page, where statm may lag behind."""
    return _smaps_bytes(pid, "Rss")


def proportional_bytes(pid: int) -> int:
    """Its part of what it has in memory: what several processes share is divided among them."""
    return _smaps_bytes(pid, "Pss")


def _smaps_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError(f"no {name} in smaps_rollup of process {pid}")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def open_connections(port: int) -> int:
    """Connections that servers on this port of 127.0.0.1 have not closed yet."""
    ends = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(end[1] == f"0100007F:{port:04X}" and end[3] in (ESTABLISHED, CLOSE_WAIT) for end in ends)


def redis_server(cpu: int | None) -> Server:
    """A Redis of our own, without persistence."""
    program = shutil.which("redis-server")
    if not program:
        raise BenchmarkError("redis-server is not installed")
    port = free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    return Server([*command, "--daemonize", "no", "--dir", tempfile.gettempdir(), "--loglevel", "warning"], port, cpu)

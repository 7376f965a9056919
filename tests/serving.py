"""A real offload server for tests: started as a user would, on a free port, and ended by its own process id."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 20.0
"""Seconds that a test waits for anything before it fails."""
_READY = r"(?:server process|worker) (\d+) is ready"


class Server:
    """A running ``offload`` command.

    Args:
        arguments: what follows ``offload`` on the command line; without ``--bind`` it listens on a free port.
        workers: how many server processes to wait for.
        cwd, env: where and with what it runs.
        namespace: a network namespace to run in, as ``ip netns`` names it; see ``tests.namespaces``.
        wrapper: a command that becomes the one that follows it.
    """

    def __init__(
        self,
        *arguments: str,
        workers: int = 1,
        cwd: Path | str = ROOT,
        env: dict[str, str] | None = None,
        namespace: str | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="offload-test-")
        self.environ = {
            # What is set for the tests, or for another server, is not meant for this one.
            **{name: value for name, value in os.environ.items() if not name.startswith("OFFLOAD_")},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            # Hubs of tests must not meet those of the person who runs them.
            "OFFLOAD_RUNTIME_DIR": os.path.join(self._directory.name, "run"),
            **(env or {}),
        }
        # Told by the server itself when it is ready, whatever it writes into its log.
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if namespace is None:
            self._notices.bind("")
            self.environ["NOTIFY_SOCKET"] = f"@{self._notices.getsockname()[1:].decode()}"
        else:
            # Abstract names are each namespace's own.
            self.environ["NOTIFY_SOCKET"] = os.path.join(self._directory.name, "notify")
            self._notices.bind(self.environ["NOTIFY_SOCKET"])
        command = [*wrapper, sys.executable, "-m", "offload", *arguments]
        if namespace is not None:
            command = ["ip", "netns", "exec", namespace, *command]
        if not {"-b", "--bind", "worker"} & set(arguments):
            command += ["--bind", "127.0.0.1:0"]
        if workers != 1:
            command += ["--workers", str(workers)]
        self._lines: list[str] = []
        self._heard = threading.Condition()
        self.process = subprocess.Popen(
            command, cwd=cwd, env=self.environ, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            status = self._wait_until_ready()
            if not self._is_quiet(arguments):
                # What it logged until then is there to be looked at.
                self.wait_for(_READY, times=workers)
        except BaseException:
            self.stop()
            raise
        if "worker" in arguments:
            return
        match = re.search(r" at (?:https?://([^:]+|\[[^\]]+\]):(\d+)|unix:(\S+?))[, ]", status)
        assert match is not None, status
        self.host, self.port = match[1], int(match[2] or 0)

    def _wait_until_ready(self) -> str:
        """What the server says of itself as soon as all its processes are ready."""
        end = os.pidfd_open(self.process.pid)
        try:
            ready, _, _ = select.select([self._notices, end], [], [], DEADLINE)
        finally:
            os.close(end)
        # One that cannot start tells that it stops, and ends.
        notice = self._notices.recv(65536).decode() if self._notices in ready else ""
        if not notice.startswith("READY=1\n"):
            if ready:
                self._reader.join(DEADLINE)
            raise AssertionError(f"the server is not ready; its log:\n{self.log}")
        return notice

    def _is_quiet(self, arguments: tuple[str, ...]) -> bool:
        if "--error-logfile" in arguments:
            return True
        level = self.environ.get("OFFLOAD_LOG_LEVEL", "info")
        if "--log-level" in arguments:
            level = arguments[arguments.index("--log-level") + 1]
        return level.lower() in ("warning", "error", "critical")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._heard:
                self._lines.append(line)
                self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()

    @property
    def log(self) -> str:
        """What the server has written to stderr."""
        return "".join(self._lines)

    @property
    def pids(self) -> list[int]:
        """Server processes that are ready, or were, in their order; a quiet log names none."""
        return [int(pid) for pid in re.findall(_READY, self.log)]

    def wait_for(self, pattern: str, times: int = 1, timeout: float = DEADLINE) -> re.Match[str]:
        """The `times`-th match of a pattern in the log, as soon as it is there."""
        deadline = time.monotonic() + timeout
        with self._heard:
            while True:
                found = list(re.finditer(pattern, self.log))
                if len(found) >= times:
                    return found[times - 1]
                left = deadline - time.monotonic()
                ended = not self._reader.is_alive() and self.process.poll() is not None
                if left <= 0 or ended:
                    raise AssertionError(f"no {pattern!r} in the log of the server:\n{self.log}")
                self._heard.wait(min(left, 0.2))

    def connect(self, timeout: float = DEADLINE) -> socket.socket:
        """A plain TCP connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def url(self, path: str = "/", scheme: str = "http") -> str:
        """The address of a path."""
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def ask(self, request: bytes) -> bytes:
        """Send bytes on a connection of their own; what comes back until its end."""
        with self.connect() as sock:
            sock.sendall(request)
            return read_all(sock)

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    def wait(self, timeout: float = DEADLINE) -> int:
        """Wait for the end; the exit status."""
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return status

    def stop(self) -> int:
        """End it with SIGTERM, or by force when that does not help."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        status = self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self._notices.close()
        self._directory.cleanup()
        return status


def read_all(sock: socket.socket) -> bytes:
    """Everything until the peer's end."""
    pieces = []
    while True:
        try:
            piece = sock.recv(65536)
        except ConnectionResetError:
            break
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces)


def reset(sock: socket.socket) -> None:
    """Leave at once: what has come is not read, and what comes is refused."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def serving(*arguments: str, workers: int = 1, **more: object) -> Iterator[Server]:
    """A server for the length of a ``with`` block."""
    server = Server(*arguments, workers=workers, **more)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.stop()

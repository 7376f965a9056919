"""A real Celery worker for tests: started as a user would, and ended by its own process id."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.serving import DEADLINE

CONCURRENCY = 2


class CeleryWorker:
    """``celery ARGUMENTS`` with two processes, for the length of a ``with`` block.

    Args:
        arguments: such as ``-A project worker``.
        cwd, env: where and with what it runs.
    """

    def __init__(self, *arguments: str, cwd: Path, env: dict[str, str]) -> None:
        options = ["--loglevel", "INFO", "--concurrency", str(CONCURRENCY), "--without-mingle", "--without-gossip"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "celery", *arguments, *options],
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._heard = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> CeleryWorker:
        try:
            self.wait_for(r"celery@\S+ ready")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        status = self._end()
        assert kind is not None or status == 0, self.log

    def _end(self) -> int:
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(DEADLINE)
        finally:
            self._reader.join(DEADLINE)
            self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._heard:
                self._lines.append(line)
                self._heard.notify_all()

    @property
    def log(self) -> str:
        """What the worker has written."""
        return "".join(self._lines)

    def wait_for(self, pattern: str, timeout: float = DEADLINE) -> re.Match[str]:
        """The first match of a pattern in the log, as soon as it is there."""
        deadline = time.monotonic() + timeout
        with self._heard:
            while (found := re.search(pattern, self.log)) is None:
                left = deadline - time.monotonic()
                if left <= 0 or (not self._reader.is_alive() and self.process.poll() is not None):
                    raise AssertionError(f"no {pattern!r} in the log of Celery:\n{self.log}")
                self._heard.wait(min(left, 0.2))
        return found

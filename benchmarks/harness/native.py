"""The C programs: compile them, run the load client, read its lines."""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.harness import BUILD, SUITE
from benchmarks.harness.model import BenchmarkError
from benchmarks.harness.processes import start_child, stop_child

SOURCES = SUITE / "native"
PROGRAMS = {
    "client": (
        "client.c",
        "net.c",
        "websocket.c",
        "stats.c",
        "mode_echo.c",
        "mode_fanout.c",
        "mode_http.c",
        "mode_idle.c",
        "mode_pairs.c",
        "mode_storm.c",
    ),
    "limit": ("limit.c",),
}


def build() -> None:
    """Compile what is older than its sources."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise BenchmarkError("the load client needs a C compiler (cc); install gcc or clang")
    BUILD.mkdir(exist_ok=True)
    newest = max(path.stat().st_mtime for path in SOURCES.iterdir())
    for program, names in PROGRAMS.items():
        output = BUILD / program
        if output.exists() and output.stat().st_mtime > newest:
            continue
        sources = [str(SOURCES / name) for name in names]
        done = subprocess.run([compiler, "-O2", "-Wall", "-o", str(output), *sources], capture_output=True, text=True)
        if done.returncode:
            raise BenchmarkError(f"{program} does not compile:\n{done.stderr}")


class Client:
    """A load client under way. Its answers are JSON, one a line."""

    def __init__(self, arguments: Sequence[str], cpu: int | None) -> None:
        self.arguments = arguments
        self.cpu = cpu
        self.early = b""
        """What came with the line that was asked for."""

    def __enter__(self) -> Client:
        command = [str(Path(BUILD / "client")), *self.arguments]
        self.child = start_child(command, self.cpu, stdin=subprocess.PIPE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stop_child(self.child)
        for stream in (self.child.stdin, self.child.stdout, self.child.stderr):
            if stream:
                stream.close()

    def command(self, line: str) -> None:
        assert self.child.stdin
        self.child.stdin.write(f"{line}\n".encode())
        self.child.stdin.flush()

    def answer(self, timeout: float) -> dict[str, Any]:
        """The next line, as a dict."""
        assert self.child.stdout
        assert self.child.stderr
        deadline = time.monotonic() + timeout
        line, self.early = self.early, b""
        while b"\n" not in line:
            ready, _, _ = select.select([self.child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise BenchmarkError(f"the client said nothing for {timeout:g} s")
            piece = self.child.stdout.read1(65536)  # type: ignore[attr-defined]
            if not piece:
                words = self.child.stderr.read().decode(errors="replace").strip().splitlines()
                raise BenchmarkError(words[-1] if words else f"the client ended with status {self.child.wait()}")
            line += piece
        first, _, self.early = line.partition(b"\n")
        return dict(json.loads(first))


def run_timed(
    arguments: Sequence[str], cpu: int | None, warm: float, seconds: float, server_cpu: Callable[[], float]
) -> dict[str, Any]:
    """Run a timed mode. Its result gets `server_cpu`: CPUs that the server kept busy in the measured window."""
    with Client([*arguments, "--warm", str(warm), "--seconds", str(seconds)], cpu) as client:
        client.answer(warm + 120)
        before, began = server_cpu(), time.monotonic()
        client.answer(seconds + 60)
        busy = (server_cpu() - before) / (time.monotonic() - began)
        return {**client.answer(60), "server_cpu": round(busy, 3)}

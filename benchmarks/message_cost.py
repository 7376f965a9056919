"""The cost of one message in a server process, by module: microseconds of CPU, and calls of Python functions.

    .venv-bench/bin/python -m benchmarks.message_cost request          (or echo, delivery, django)
    .venv-bench/bin/python -m benchmarks.message_cost request --functions

The server runs in this process, on the first CPU, and the load client of the suite on the second one. Two runs: in the
first a timer of CPU time samples which module is at work, with what it has called in C and in the kernel; in the second
every call of a Python function is counted, which the first must not suffer from.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import greenlet
from gevent.socket import wait_read

from benchmarks.harness import BUILD, native
from benchmarks.harness.machine import choose_pinning
from offload.server import control
from offload.server.load import SharedLoad
from offload.server.process import ServerProcess
from offload.settings.option import SERVE
from offload.settings.reading import Reader

_GET = ["http", "--path", "/", "--connections", "64", "--body", "Hello, world!"]
WORKS = {
    "request": ("benchmarks.apps.hello", [*_GET, "--new-paths"]),
    "django": ("benchmarks.apps.django_site.wsgi", _GET),
    "echo": ("benchmarks.apps.echo", ["echo", "--path", "/echo", "--connections", "100", "--size", "64"]),
    "delivery": ("benchmarks.apps.room", ["fanout", "--path", "/room", "--connections", "500", "--size", "64"]),
}
SAMPLE_SECONDS = 0.001
LOOP = "(the loop, greenlets)"


class Profile(Counter[str]):
    """Counts something by module.

    Args:
        functions: by function, instead.
    """

    def __init__(self, functions: bool) -> None:
        super().__init__()
        self._functions = functions

    def count(self, frame: FrameType) -> bool:
        """Whether this frame is to be counted, and was: one of ours, of an application, or of Django."""
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(("offload.", "django_offload.", "benchmarks.apps.", "django.")):
            return False
        if name.startswith("django."):
            name = "django"
        self[f"{name}.{frame.f_code.co_name}" if self._functions and name != "django" else name] += 1
        return True


class Samples(Profile):
    """CPU time: of the code that is at work, with what it has called elsewhere."""

    def _sample(self, number: int, frame: FrameType | None) -> None:
        while frame is not None and not self.count(frame):
            frame = frame.f_back
        if frame is None:
            self[LOOP] += 1

    def __enter__(self) -> Samples:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)
        return self

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)


class Calls(Profile):
    """Calls of Python functions, in all greenlets."""

    def __enter__(self) -> Calls:
        greenlet.settrace(self._switched)
        sys.setprofile(self._called)
        return self

    def __exit__(self, *error: object) -> None:
        greenlet.settrace(None)
        sys.setprofile(None)

    def _switched(self, event: str, greenlets: object) -> None:
        # Each greenlet has a profile function of its own.
        sys.setprofile(self._called)

    def _called(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            self.count(frame)


def serve(app: str) -> tuple[ServerProcess, int]:
    """A server process in this one, without a supervisor, and its port."""
    settings = Reader([app, "--layer", "memory://"], {}, SERVE, (), "").read().settings
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listening.setblocking(False)
    load = SharedLoad(1)
    server = ServerProcess(settings, [listening], control.pair()[1], load.slot(load.take()))
    server.boot()
    server.start()
    return server, int(listening.getsockname()[1])


def load(arguments: list[str], port: int, seconds: float, cpu: int | None, measured: Any) -> tuple[float, float, float]:
    """Run the load client. Returns how many messages it saw in the window, and this process's CPU time in it, in
    seconds of the user and of the kernel."""
    command = [str(BUILD / "client"), *arguments, "--port", str(port), "--warm", "1", "--seconds", str(seconds)]
    prepare: Callable[[], None] | None = None if cpu is None else lambda: os.sched_setaffinity(0, {cpu})
    with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=prepare) as client:
        assert client.stdout is not None

        def answer() -> dict[str, Any]:
            assert client.stdout is not None
            wait_read(client.stdout.fileno())
            line = client.stdout.readline()
            if not line:
                sys.exit("the load client failed")
            return dict(json.loads(line))

        answer()
        before = os.times()
        with measured:
            answer()
        after = os.times()
        result = answer()
    return result["rate"] * seconds, after.user - before.user, after.system - before.system


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.message_cost", description="Cost of one message.")
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time of each of two runs (default: 5)")
    parser.add_argument("--functions", action="store_true", help="by function, not by module")
    options = parser.parse_args()
    native.build()
    pinning = choose_pinning(True)
    if pinning.server is not None:
        os.sched_setaffinity(0, {pinning.server})
    app, arguments = WORKS[options.work]
    _, port = serve(app)
    samples, calls = Samples(options.functions), Calls(options.functions)
    count, user, system = load(arguments, port, options.seconds, pinning.client, samples)
    counted, _, _ = load(arguments, port, options.seconds, pinning.client, calls)
    each = (user + system) / count * 1e6
    print(f"{options.work}: {each:.2f} us of CPU each, {user / count * 1e6:.2f} of them outside the kernel; ", end="")
    print(f"{sum(calls.values()) / counted:.1f} calls\n")
    print("| code | us | calls |\n| --- | ---: | ---: |")
    total = sum(samples.values())
    for name in sorted(samples | calls, key=lambda name: -samples[name]):
        share, made = samples[name] / total * each, calls[name] / counted
        if share >= 0.005 * each or made >= 0.05:
            print(f"| {name} | {share:.2f} | {made:.1f} |")


if __name__ == "__main__":
    main()

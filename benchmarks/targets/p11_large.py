"""P11: large messages, bodies and files."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

from benchmarks.harness import BUILD, contenders
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import Contender, Requirement, Sample

APP = "benchmarks.apps.large"
FILE_NAME = "large.bin"
FILE_BYTES = 100_000_000


def measure_echo(bench: Bench, contender: Contender) -> Sample:
    return bench.timed(contender, "echo", "--connections", "8", "--size", str(1 << 20), "--binary")


def measure_bodies(bench: Bench, contender: Contender) -> Sample:
    return bench.timed(contender, "http", "--connections", "16", "--size", str(1 << 16), "--upload")


def measure_file(bench: Bench, contender: Contender) -> Sample:
    """Megabytes of bodies a second: few files end in a short window, but their bytes come all the time."""
    file = _file()
    sample = bench.timed(contender, "http", "--connections", "4", "--body-file", str(file))
    return dataclasses.replace(sample, value=sample.detail["body_bytes_rate"] / 1e6)


def _file() -> Path:
    """A file of random bytes, made once: no two parts of it are alike."""
    path = BUILD / FILE_NAME
    if not path.exists() or path.stat().st_size != FILE_BYTES:
        path.write_bytes(random.Random(11).randbytes(FILE_BYTES))
    return path


def _with_file(contender: Contender) -> Contender:
    return dataclasses.replace(contender, environment={"BENCHMARK_FILE": f"{{build}}/{FILE_NAME}"})


def _wsgi_peers(path: str, *files: str) -> tuple[Contender, ...]:
    return (
        contenders.limit(path, *files),
        contenders.gunicorn("gunicorn-gevent", "gunicorn -k gevent", APP, path, "gevent", needs=("gevent",)),
        contenders.gevent_websocket(path, APP),
    )


ECHO = Target(
    name="p11-echo",
    title="WebSocket echo of 1 MiB messages",
    work="8 connections, binary messages, one outstanding on each",
    unit="messages/s",
    ours=contenders.offload("benchmarks.apps.large_echo", "/echo"),
    peers=(contenders.limit("/echo"), contenders.gevent_websocket("/echo"), contenders.node_ws("/echo")),
    measure=measure_echo,
    requirements=(Requirement("gevent-websocket", at_least=1),),
)

BODIES = Target(
    name="p11-bodies",
    title="64 KiB up and the same 64 KiB down",
    work="16 keep-alive connections, one POST outstanding on each, Content-Length both ways",
    unit="requests/s",
    ours=contenders.offload(APP),
    peers=_wsgi_peers("/"),
    measure=measure_bodies,
    requirements=(Requirement("gunicorn-gevent", at_least=1), Requirement("gevent-websocket", at_least=1)),
)

FILE = Target(
    name="p11-file",
    title="A file of 100 MB down",
    work="4 keep-alive connections; the file in the page cache, sent by the server's file wrapper if it has one",
    unit="MB/s",
    ours=_with_file(contenders.offload(APP, "/file")),
    peers=tuple(_with_file(peer) for peer in _wsgi_peers("/file", f"{{build}}/{FILE_NAME}")),
    measure=measure_file,
    requirements=(Requirement("gunicorn-gevent", at_least=1), Requirement("gevent-websocket", at_least=1)),
)

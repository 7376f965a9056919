"""P9: messages of a named channel, through a worker process. All are in Redis before the worker starts."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from typing import IO

from benchmarks.harness import ROOT
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import OURS, BenchmarkError, Contender, Requirement, Sample
from benchmarks.harness.processes import last_line, redis_server, start_child, stop_child

FILL_TIMEOUT = 120.0
WORK_TIMEOUT = 120.0
RATE_KEY = b"benchmark:rate"
LAYER = "{redis_url}?capacity=1000000"
FILL = {
    OURS: ("benchmarks.apps.jobs",),
    "channels-runworker": ("benchmarks.peers.channels_jobs", "fill"),
    "celery": ("benchmarks.peers.celery_jobs",),
}


def measure(bench: Bench, contender: Contender) -> Sample:
    """Messages a second of one worker process, as its consumer counted them."""
    bench.environments.check(contender)
    with redis_server(bench.pinning.client) as redis, tempfile.TemporaryFile() as log:
        worker = bench.server(contender, redis.port)
        fill = [str(bench.environments.bin / "python"), "-m", *FILL[OURS if contender.is_ours else contender.name]]
        _wait_for_end(fill, bench.pinning.client, {**(worker.environment or {}), "PYTHONPATH": str(ROOT)})
        child = start_child(
            worker.command,
            bench.pinning.server,
            environment=worker.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + WORK_TIMEOUT
            while (rate := _get(redis.port, RATE_KEY)) is None:
                if child.poll() is not None:
                    raise BenchmarkError(f"the worker ended with status {child.returncode}: {_last_words(log)}")
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"not all messages in {WORK_TIMEOUT:g} s: {_last_words(log)}")
                time.sleep(0.1)
        finally:
            stop_child(child)
    return Sample(float(rate))


def _wait_for_end(command: list[str], cpu: int | None, environment: Mapping[str, str] | None) -> None:
    child = start_child(command, cpu, environment=environment, stdout=subprocess.DEVNULL)
    try:
        _, errors = child.communicate(timeout=FILL_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"the queue was not filled in {FILL_TIMEOUT:g} s") from error
    finally:
        stop_child(child)
    if child.returncode:
        raise BenchmarkError(f"the queue could not be filled: {last_line(errors.decode(errors='replace'))}")


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    return last_line(log.read().decode(errors="replace")) or "it logged nothing"


def _get(port: int, key: bytes) -> bytes | None:
    """Redis' GET, for a short value."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET %s\r\n" % key)
        head, _, value = connection.makefile("rb").read1(4096).partition(b"\r\n")
    if head == b"$-1":
        return None
    if not head.startswith(b"$"):
        raise BenchmarkError(f"Redis answered {head!r}")
    return value.strip()


TARGET = Target(
    name="p9",
    title="Named channel through a worker process",
    work="10,000 messages of 64 bytes that wait in Redis, rate of the last 9,000; one worker process, no queue limit",
    unit="messages/s",
    ours=Contender(
        name=OURS,
        label="offload worker",
        command=("{bin}/offload", "worker", "benchmarks.apps.jobs", "--layer", LAYER, "--log-level", "warning"),
        environment={"BENCHMARK_REDIS": "{redis_url}", "BENCHMARK_LAYER": LAYER},
        packages=("django-offload", "gevent"),
    ),
    peers=(
        Contender(
            name="channels-runworker",
            label="Channels' runworker",
            command=("{bin}/python", "-m", "benchmarks.peers.channels_jobs", "work"),
            environment={"BENCHMARK_REDIS": "{redis_url}"},
            packages=("channels", "channels-redis"),
        ),
        Contender(
            name="celery",
            label="Celery on Redis, one process",
            command=(
                "{bin}/celery", "-A", "benchmarks.peers.celery_jobs", "worker", "--concurrency", "1",
                "--loglevel", "WARNING",
            ),
            environment={"BENCHMARK_REDIS": "{redis_url}"},
            packages=("celery", "redis"),
        ),
    ),
    measure=measure,
    requirements=(Requirement("channels-runworker", at_least=1), Requirement("celery", at_least=1)),
    timed=False,
)  # fmt: skip

"""P6 with consumers in a worker, and Redis far away: a thousand clients come at once, and join one group."""

from __future__ import annotations

import time

from benchmarks.harness import contenders
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import BenchmarkError, Contender, Requirement, Sample
from benchmarks.harness.native import Client
from benchmarks.harness.processes import Server, free_port, redis_server

CONNECTIONS = 1000
AWAY_SECONDS = 0.005
"""Each way."""
OPEN_TIMEOUT = 60.0


def measure(bench: Bench, contender: Contender) -> Sample:
    """Seconds until all are accepted."""
    bench.environments.check(contender)
    with redis_server(bench.pinning.client) as redis:
        port = free_port()
        python = str(bench.environments.bin / "python")
        command = [python, "-m", "benchmarks.harness.far", str(port), str(redis.port), str(AWAY_SECONDS)]
        with Server(command, port, bench.pinning.client), bench.server(contender, port) as server:
            worker = Server(_worker_of(server), server.port, bench.pinning.server)
            with worker:
                # One first, for which the worker has to be there.
                _open(bench, server, contender, 1)
                return Sample(_open(bench, server, contender, CONNECTIONS))


def _worker_of(server: Server) -> list[str]:
    program, app, *_ = server.command
    layer = server.command[server.command.index("--layer") + 1]
    return [program, "worker", app, "--layer", layer, "--log-level", "warning"]


def _open(bench: Bench, server: Server, contender: Contender, count: int) -> float:
    load = ["idle", "--port", str(server.port), "--path", contender.path, "--timeout", str(int(OPEN_TIMEOUT))]
    began = time.monotonic()
    with Client([*load, "--connections", str(count), "--outstanding", str(count)], bench.pinning.client) as client:
        opened = client.answer(OPEN_TIMEOUT)
        seconds = time.monotonic() - began
    if opened["open"] != count:
        raise BenchmarkError(f"{opened['open']:,} of {count:,} opened: {opened['reason']} ({server.last_words()})")
    return seconds


TARGET = Target(
    name="p6-dispatch",
    title="A thousand clients at once, consumers in a worker, Redis 10 ms away",
    work="1,000 handshakes at once that join one group, --dispatch layer, one worker process; until all are accepted",
    unit="s",
    ours=contenders.offload("benchmarks.apps.room", "/room", redis=True, options=("--dispatch", "layer")),
    peers=(),
    measure=measure,
    requirements=(Requirement(at_most=5),),
    higher_is_better=False,
    timed=False,
)

"""P5: memory of an idle routed WebSocket that is in one group, its path and headers kept."""

from __future__ import annotations

import time

from benchmarks.harness import contenders
from benchmarks.harness.machine import raise_descriptor_limit
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import BenchmarkError, Contender, Requirement, Sample
from benchmarks.harness.native import Client
from benchmarks.harness.processes import Server, descriptors, open_connections, resident_bytes

WARM_UP_CONNECTIONS = 200
OPEN_TIMEOUT = 300.0
SETTLE_TIMEOUT = 30.0
SPARE_DESCRIPTORS = 1000
FEWER = (0.5, 0.2)
"""Parts of the wanted number that a peer is offered when it does not hold all."""


def measure(bench: Bench, contender: Contender) -> Sample:
    """Bytes of RSS for each connection, in the one process that holds them."""
    raise_descriptor_limit(bench.idle_connections + SPARE_DESCRIPTORS)
    reasons: list[str] = []
    # Ours has no easier way: its figure is asked for at the full number.
    for part in (1.0,) if contender.is_ours else (1.0, *FEWER):
        count = int(bench.idle_connections * part)
        with bench.serving(contender) as server:
            try:
                sample = _measure(bench, contender, server, count)
            except BenchmarkError as error:
                reasons.append(f"{count:,}: {error} (server: {server.last_words()})")
                continue
        return Sample(sample.value, sample.detail, f"at {count:,} only; {reasons[0]}") if reasons else sample
    raise BenchmarkError("; ".join(reasons))


def _measure(bench: Bench, contender: Contender, server: Server, count: int) -> Sample:
    load = ["idle", "--port", str(server.port), "--path", contender.path, "--browser-headers", "--timeout", "30"]
    warm_up(bench, server, load)
    before = {pid: resident_bytes(pid) for pid in server.pids()}
    with Client([*load, "--connections", str(count)], bench.pinning.client) as client:
        opened = client.answer(OPEN_TIMEOUT)
        if opened["open"] != count:
            raise BenchmarkError(f"{opened['open']:,} of {count:,} connections opened: {opened['reason']}")
        holder = max(server.pids(), key=descriptors)
        held = descriptors(holder)
        if held < count:
            raise BenchmarkError(f"no process holds all connections: {held:,} descriptors in the fullest")
        after = settled_resident_bytes(holder)
        # Only now, so that what delivery allocates is not counted: is each connection really in the group?
        client.command("probe")
        probe = client.answer(60)
        if probe["received"] != count:
            raise BenchmarkError(f"a group send reached {probe['received']:,} of {count:,} connections")
    if holder not in before:
        raise BenchmarkError("the process that holds the connections is not the one that was warmed")
    detail = {"connections": count, "rss_before": before[holder], "rss_after": after}
    return Sample((after - before[holder]) / count, detail)


def warm_up(bench: Bench, server: Server, load: list[str]) -> None:
    """Open some connections, and wait until the server has closed them all again."""
    with Client([*load, "--connections", str(WARM_UP_CONNECTIONS)], bench.pinning.client) as client:
        client.answer(OPEN_TIMEOUT)
    deadline = time.monotonic() + SETTLE_TIMEOUT
    while kept := open_connections(server.port):
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the server keeps {kept:,} connections that the client has closed")
        time.sleep(0.05)


def settled_resident_bytes(pid: int) -> int:
    """RSS once it has stayed within 0.1 % for a second, or at the end of the time for that."""
    deadline = time.monotonic() + SETTLE_TIMEOUT
    figures = [resident_bytes(pid)]
    while time.monotonic() < deadline:
        time.sleep(0.25)
        figures.append(resident_bytes(pid))
        if len(figures) > 4 and max(figures[-5:]) - min(figures[-5:]) <= figures[-1] // 1000:
            break
    return figures[-1]


TARGET = Target(
    name="p5",
    title="Idle routed WebSocket in one group, memory",
    work="growth of RSS of the server process, for each of the connections; headers as a browser sends them",
    unit="bytes",
    ours=contenders.offload("benchmarks.apps.room", "/room", redis=True, options=("--worker-connections", "20000")),
    peers=(
        contenders.channels_uvicorn("/room"),
        contenders.channels_uvicorn_async("/async-room"),
        contenders.node_ws("/room", redis=True),
    ),
    measure=measure,
    requirements=(
        Requirement(at_most=8000),
        Requirement("channels-uvicorn", at_most=0.25),
        Requirement("channels-uvicorn-async", at_most=0.25),
    ),
    higher_is_better=False,
    timed=False,
)

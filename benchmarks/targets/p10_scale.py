"""P10: how cost grows: a sender's time with a group's members, Redis commands with sends, memory with connections."""

from __future__ import annotations

import contextlib
import json
import select
import statistics
import subprocess
import time
from collections.abc import Iterator

from benchmarks.harness import contenders
from benchmarks.harness.machine import raise_descriptor_limit
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import BenchmarkError, Contender, Requirement, Sample
from benchmarks.harness.native import Client
from benchmarks.harness.processes import Server, descriptors, last_line, redis_server, start_child, stop_child
from benchmarks.targets.p5_memory import OPEN_TIMEOUT, SPARE_DESCRIPTORS, settled_resident_bytes, warm_up

FEW, MANY = 10, 10_000
SENDS = 1_000
WARM_SENDS, LEAST_SENDS = 3, 10
PAUSE = 0.02
ANSWER_TIMEOUT = 60.0
PARTS = (1 / 15, 1 / 3, 2 / 3, 1)
"""Parts of the wanted number of connections at which memory is read: 1,000, 5,000, 10,000 and 15,000."""


def measure_sender(bench: Bench, contender: Contender) -> Sample:
    """The median time of a send to many, over that of a send to few; both groups live in the same server."""
    raise_descriptor_limit(FEW + MANY + SPARE_DESCRIPTORS)
    times: dict[str, list[float]] = {"few": [], "many": []}
    with (
        _serving(bench, contender) as (server, redis_url),
        _members(bench, server, "/few", FEW) as few,
        _members(bench, server, "/many", MANY) as many,
        _sender(bench, redis_url, "times") as sender,
    ):
        groups = {"few": (few, FEW), "many": (many, MANY)}
        for client, _ in groups.values():
            client.command("listen")
        end = time.monotonic() + bench.warm + bench.seconds
        while time.monotonic() < end or len(times["many"]) < WARM_SENDS + LEAST_SENDS:
            for name, (client, count) in groups.items():
                # All is quiet: the last message has reached all of its group.
                time.sleep(PAUSE)
                times[name].append(_timed_send(sender, name))
                _wait_for_messages(server, client, count * len(times[name]))
    medians = {name: round(statistics.median(values[WARM_SENDS:]), 1) for name, values in times.items()}
    detail = {"microseconds": medians, "sends": len(times["few"]) - WARM_SENDS}
    note = f"{medians['few']:.0f} µs to {FEW}, {medians['many']:.0f} µs to {MANY:,}"
    return Sample(medians["many"] / medians["few"], detail, note)


def measure_commands(bench: Bench, contender: Contender) -> Sample:
    """Commands that clients sent to Redis, whoever they are, over the number of sends."""
    with _serving(bench, contender) as (server, redis_url), _members(bench, server, "/few", FEW) as few:
        few.command("listen")
        with _sender(bench, redis_url, "calls", str(SENDS), "few") as sender:
            calls = json.loads(_line(sender, ANSWER_TIMEOUT))
        _wait_for_messages(server, few, FEW * (SENDS + 1))
    told = {who: ", ".join(f"{count:,} {name}" for name, count in found.items()) for who, found in calls.items()}
    note = f"{told['clients']}; executed by scripts: {told['scripts'] or 'none'}"
    return Sample(sum(calls["clients"].values()) / SENDS, calls, note)


def measure_memory(bench: Bench, contender: Contender) -> Sample:
    """What one of the last connections costs, over what one of the first did."""
    counts = [max(1, round(bench.idle_connections * part)) for part in PARTS]
    raise_descriptor_limit(counts[-1] + SPARE_DESCRIPTORS)
    with _serving(bench, contender) as (server, _), contextlib.ExitStack() as stack:
        warm_up(bench, server, _load(server, "/room"))
        clients, sizes, opened = [], [], 0
        for count in counts:
            clients.append(stack.enter_context(_members(bench, server, "/room", count - opened)))
            opened = count
            holder = max(server.pids(), key=descriptors)
            sizes.append(settled_resident_bytes(holder))
        for client in clients[1:]:
            client.command("listen")
        # Only now, so that what delivery allocates is not counted: is each connection really there, and in the group?
        clients[0].command("probe")
        if clients[0].answer(ANSWER_TIMEOUT)["received"] != counts[0]:
            raise BenchmarkError("a group send did not reach the first connections")
        for client, before, count in zip(clients[1:], counts, counts[1:], strict=False):
            _wait_for_messages(server, client, count - before)
    steps = [
        (after - before) / (count - fewer)
        for before, after, fewer, count in zip(sizes, sizes[1:], counts, counts[1:], strict=False)
    ]
    note = "; ".join(
        f"{fewer:,} to {count:,}: {step:,.0f} bytes each"
        for fewer, count, step in zip(counts, counts[1:], steps, strict=False)
    )
    return Sample(steps[-1] / steps[0], {"connections": counts, "rss": sizes}, note)


@contextlib.contextmanager
def _serving(bench: Bench, contender: Contender) -> Iterator[tuple[Server, str]]:
    """A server, and the address of its Redis."""
    bench.environments.check(contender)
    with redis_server(bench.pinning.client) as redis, bench.server(contender, redis.port) as server:
        yield server, f"redis://127.0.0.1:{redis.port}/0"


def _load(server: Server, path: str) -> list[str]:
    return ["idle", "--port", str(server.port), "--path", path, "--timeout", "30"]


@contextlib.contextmanager
def _members(bench: Bench, server: Server, path: str, count: int) -> Iterator[Client]:
    """So many connections, all open."""
    with Client([*_load(server, path), "--connections", str(count)], bench.pinning.client) as client:
        opened = client.answer(OPEN_TIMEOUT)
        if opened["open"] != count:
            raise BenchmarkError(
                f"{opened['open']:,} of {count:,} connections opened: {opened['reason']} ({server.last_words()})"
            )
        yield client


@contextlib.contextmanager
def _sender(bench: Bench, redis_url: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`benchmarks.apps.sender`, on the client's CPU."""
    command = [str(bench.environments.bin / "python"), "-m", "benchmarks.apps.sender", *arguments]
    child = start_child(
        command, bench.pinning.client, environment={"BENCHMARK_REDIS": redis_url}, stdin=subprocess.PIPE
    )
    try:
        yield child
    finally:
        stop_child(child)
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream:
                stream.close()


def _timed_send(sender: subprocess.Popen[bytes], group: str) -> float:
    """Microseconds that a send took the sender."""
    assert sender.stdin
    sender.stdin.write(f"{group}\n".encode())
    sender.stdin.flush()
    return float(_line(sender, ANSWER_TIMEOUT))


def _line(sender: subprocess.Popen[bytes], timeout: float) -> bytes:
    """What the sender says next; it says no more than it was asked."""
    assert sender.stdout
    assert sender.stderr
    ready, _, _ = select.select([sender.stdout], [], [], timeout)
    line = sender.stdout.readline() if ready else b""
    if not line:
        stop_child(sender)
        words = last_line(sender.stderr.read().decode(errors="replace"))
        raise BenchmarkError(f"the sender failed: {words or 'it said nothing'}")
    return line


def _wait_for_messages(server: Server, client: Client, wanted: int) -> None:
    """All that was sent arrives, and no more."""
    deadline = time.monotonic() + ANSWER_TIMEOUT
    while True:
        client.command("report")
        answer = client.answer(ANSWER_TIMEOUT)
        if answer["received"] == wanted:
            return
        if answer["received"] > wanted or answer["lost"] or time.monotonic() > deadline:
            raise BenchmarkError(
                f"{answer['received']:,} messages arrived, {wanted:,} were sent; {answer['lost']:,} connections ended"
                f" ({answer['reason']}; server: {server.last_words()})"
            )
        time.sleep(PAUSE)


OURS = contenders.offload("benchmarks.apps.rooms", redis=True, options=("--worker-connections", "20000"))

SENDER = Target(
    name="p10-sender",
    title="Sender's time for a group of 10,000 over that for a group of 10",
    work="a process that serves nothing sends 64 bytes to each group in turn, through Redis, all members in one server",
    unit="times",
    ours=OURS,
    peers=(),
    measure=measure_sender,
    requirements=(Requirement(at_most=1.25),),
    higher_is_better=False,
)

COMMANDS = Target(
    name="p10-commands",
    title="Redis commands for each group send",
    work="1,000 sends to a group of 10; every command that Redis got meanwhile, from anybody, by MONITOR",
    unit="commands",
    ours=OURS,
    peers=(),
    measure=measure_commands,
    requirements=(Requirement(at_most=1),),
    higher_is_better=False,
    timed=False,
)

MEMORY = Target(
    name="p10-memory",
    title="Memory of one of the last connections over that of one of the first",
    work="growth of RSS for each connection from 10,000 to 15,000, over that from 1,000 to 5,000; all in one group",
    unit="times",
    ours=OURS,
    peers=(),
    measure=measure_memory,
    requirements=(Requirement(at_most=1.25),),
    higher_is_better=False,
    timed=False,
)

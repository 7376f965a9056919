"""Rounds: start, warm, measure and stop ours and a peer in turn, so that both meet the same weather."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence

from benchmarks.harness import BUILD, SUITE
from benchmarks.harness.environments import Environments
from benchmarks.harness.machine import Pinning, describe
from benchmarks.harness.model import (
    BEFORE,
    BenchmarkError,
    Comparison,
    Contender,
    Entry,
    Requirement,
    Result,
    Sample,
    figure,
)
from benchmarks.harness.native import run_timed
from benchmarks.harness.postgres import Postgres
from benchmarks.harness.processes import Server, free_port, redis_server


@dataclasses.dataclass(frozen=True)
class Bench:
    """How this run measures; what a target's `measure` works with."""

    environments: Environments
    pinning: Pinning
    rounds: int
    seconds: float
    warm: float
    idle_connections: int

    @contextlib.contextmanager
    def serving(self, contender: Contender) -> Iterator[Server]:
        """The contender's server, and the Redis or PostgreSQL that it needs, all new."""
        with self.servers(contender, 1) as servers:
            yield servers[0]

    @contextlib.contextmanager
    def servers(self, contender: Contender, count: int) -> Iterator[list[Server]]:
        """As many servers of the contender, which share the Redis or PostgreSQL that they need, all new."""
        self.environments.check(contender)
        with contextlib.ExitStack() as stack:
            redis_port = stack.enter_context(redis_server(self.pinning.client)).port if contender.redis else 0
            database = stack.enter_context(Postgres(self.pinning.client)).directory if contender.postgres else ""
            yield [stack.enter_context(self.server(contender, redis_port, database)) for _ in range(count)]

    def server(self, contender: Contender, redis_port: int, database: str = "") -> Server:
        """One server of the contender, not started yet."""
        port = free_port()
        values = {
            "port": port,
            "redis_port": redis_port,
            "redis_url": f"redis://127.0.0.1:{redis_port}/0",
            "bin": self.environments.bin,
            "before": self.environments.before,
            "node": shutil.which("node"),
            "suite": SUITE,
            "build": BUILD,
            "postgres": database,
        }
        command = [part.format(**values) for part in contender.command]
        environment = {key: value.format(**values) for key, value in contender.environment.items()}
        return Server(command, port, self.pinning.server, environment)

    def timed(self, contender: Contender, *load: str, processes: int = 1) -> Sample:
        """The rate that the load client reaches with these arguments, against one server process or two."""
        with self.servers(contender, processes) as servers:
            arguments = [*load, "--port", str(servers[0].port), "--path", contender.path]
            if processes > 1:
                arguments += ["--second-port", str(servers[1].port)]

            def cpu_seconds() -> float:
                return sum(server.cpu_seconds() for server in servers)

            try:
                detail = run_timed(arguments, self.pinning.client, self.warm, self.seconds, cpu_seconds)
            except BenchmarkError as error:
                words = "; ".join(dict.fromkeys(server.last_words() for server in servers))
                raise BenchmarkError(f"{error} (server: {words})") from error
        note = "the client was the limit" if detail["client_cpu"] > 0.95 else ""
        return Sample(detail["rate"], detail, note)


@dataclasses.dataclass(frozen=True)
class Target:
    """One row of the targets: a kind of work, who does it, and what ours must reach."""

    name: str
    title: str
    work: str
    unit: str
    ours: Contender
    peers: tuple[Contender, ...]
    measure: Callable[[Bench, Contender], Sample]
    requirements: tuple[Requirement, ...] = ()
    higher_is_better: bool = True
    timed: bool = True
    """Whether `--seconds` is the length of a turn."""
    pinned: bool = True
    """False: the kernel chooses the CPUs, whatever the other targets do."""


def measure(bench: Bench, target: Target, wanted: Sequence[str]) -> Result:
    """Measure `target` against those of its peers that are wanted (empty: all), or against an earlier commit alone."""
    peers = [peer for peer in target.peers if not wanted or peer.name in wanted]
    requirements = target.requirements
    if bench.environments.revision is not None:
        peers = [target.ours.before(bench.environments.revision)]
        limit = Requirement(BEFORE, at_least=0.97) if target.higher_is_better else Requirement(BEFORE, at_most=1 / 0.97)
        requirements = (limit,)
    if not target.pinned:
        bench = dataclasses.replace(bench, pinning=Pinning())
    bench.environments.prepare([target.ours, *peers])
    ours = _entry(bench, target.ours)
    entries, comparisons = [ours], []
    if not target.peers:
        # Only against itself, at another size.
        for number in range(1, bench.rounds + 1):
            _sample(bench, target, target.ours, ours, number)
    for peer in peers:
        theirs = _entry(bench, peer)
        comparison = Comparison(peer.name)
        for number in range(1, bench.rounds + 1):
            a = _sample(bench, target, target.ours, ours, number)
            b = _sample(bench, target, peer, theirs, number)
            if a and b:
                comparison.ratios.append(a.value / b.value if b.value else float("inf"))
            if ours.error and theirs.error:
                break
        entries.append(theirs)
        comparisons.append(comparison)
    result = Result(
        target=target.name,
        title=target.title,
        work=target.work,
        unit=target.unit,
        higher_is_better=target.higher_is_better,
        when=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        rounds=bench.rounds,
        seconds=bench.seconds if target.timed else None,
        pinned=str(bench.pinning),
        machine=describe(bench.environments.python),
        entries=entries,
        comparisons=comparisons,
    )
    result.judge(requirements)
    return result


def _entry(bench: Bench, contender: Contender) -> Entry:
    return Entry(contender.name, contender.label, bench.environments.versions(contender))


def _sample(bench: Bench, target: Target, contender: Contender, entry: Entry, number: int) -> Sample | None:
    """One turn. Who failed once is not asked again: its error stands in the table."""
    if entry.error:
        return None
    try:
        sample = target.measure(bench, contender)
    except BenchmarkError as error:
        entry.error = str(error)
        print(f"{target.name} round {number}: {contender.label}: {error}", file=sys.stderr)
        return None
    entry.samples.append(sample)
    remark = f" ({sample.note})" if sample.note else ""
    print(
        f"{target.name} round {number}: {contender.label}: {figure(sample.value)} {target.unit}{remark}",
        file=sys.stderr,
    )
    return sample

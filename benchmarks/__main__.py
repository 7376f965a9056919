"""`python -m benchmarks`: measure, compare, and write the tables and plots."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import BUILD, ROOT, SUITE, VENV, native
from benchmarks.harness.environments import Environments
from benchmarks.harness.machine import choose_pinning
from benchmarks.harness.measure import Bench, measure
from benchmarks.harness.model import BenchmarkError, Result
from benchmarks.harness.report import markdown, read_json, write_json
from benchmarks.targets import TARGETS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure offload against its peers.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)} (default: all)")
    parser.add_argument("--rounds", type=int, metavar="N", help="times that ours and each peer take turns (default: 3)")
    parser.add_argument("--seconds", type=float, metavar="S", help="measured time of each turn (default: 2.5)")
    parser.add_argument("--warm", type=float, metavar="S", help="time under load before that (default: 1)")
    parser.add_argument("--peers", default="", metavar="NAME,...", help="only these peers (default: all of the target)")
    parser.add_argument("--idle-connections", type=int, metavar="N", help="connections of p5 (default: 15000)")
    parser.add_argument("--quick", action="store_true", help="one short round, written below benchmarks/build/quick")
    parser.add_argument("--no-pin", action="store_true", help="let the kernel choose the CPUs")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where results go (default: benchmarks)")
    parser.add_argument("--report-only", action="store_true", help="write table and plots from results that are there")
    parser.add_argument(
        "--strict", action="store_true", help='exit 1 when a "must reach" is not reached, or a peer was not measured'
    )
    parser.add_argument("--python", default=sys.executable, metavar="PATH", help="the interpreter of the servers")
    parser.add_argument(
        "--before",
        metavar="REV",
        help="measure against this commit of ours, not against the peers; written below benchmarks/build/against",
    )
    parser.add_argument("--list", action="store_true", help="name the targets and their peers, and exit")
    options = parser.parse_args(arguments)
    known = {peer.name for target in TARGETS.values() for peer in target.peers}
    options.peers = [name for name in options.peers.split(",") if name]
    for name in options.targets:
        if name not in TARGETS:
            parser.error(f"no such target: {name}; there are {', '.join(TARGETS)}")
    for name in options.peers:
        if name not in known:
            parser.error(f"no such peer: {name}; there are {', '.join(sorted(known))}")
    rounds, seconds, warm, idle = (1, 1.0, 0.3, 1000) if options.quick else (3, 2.5, 1.0, 15000)
    options.rounds = rounds if options.rounds is None else options.rounds
    options.seconds = seconds if options.seconds is None else options.seconds
    options.warm = warm if options.warm is None else options.warm
    options.idle_connections = idle if options.idle_connections is None else options.idle_connections
    if options.rounds < 1 or options.seconds <= 0 or options.warm < 0 or options.idle_connections < 1:
        parser.error("rounds, seconds and connections must be above 0")
    folder = "quick" if options.quick else "against" if options.before else None
    options.output = options.output or (BUILD / folder if folder else SUITE)
    return options


def write_report(output: Path) -> None:
    (output / "RESULTS.md").write_text(markdown(read_json(output / "results")))
    command = [
        str(VENV / "bin/python"),
        "-m",
        "benchmarks.harness.plots",
        str(output / "results"),
        str(output / "plots"),
    ]
    try:
        subprocess.run(command, cwd=ROOT, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no plots: {error}", file=sys.stderr)
    print(f"written: {output / 'RESULTS.md'}", file=sys.stderr)


def main() -> int:
    options = parse()
    if options.list:
        for target in TARGETS.values():
            print(f"{target.name:13} {target.title}\n{'':13} {', '.join(peer.name for peer in target.peers)}")
        return 0
    # A kill from outside unwinds like Ctrl-C, so that every server's `finally` runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.output.mkdir(parents=True, exist_ok=True)
    if options.report_only:
        write_report(options.output)
        return 0
    native.build()
    bench = Bench(
        environments=Environments(options.python, options.before),
        pinning=choose_pinning(not options.no_pin),
        rounds=options.rounds,
        seconds=options.seconds,
        warm=options.warm,
        idle_connections=options.idle_connections,
    )
    results: list[Result] = []
    for name in options.targets or TARGETS:
        result = measure(bench, TARGETS[name], options.peers)
        write_json(result, options.output / "results")
        results.append(result)
    write_report(options.output)
    failed = any(result.entries[0].error for result in results)
    missed = any(item["reached"] is not True for result in results for item in result.requirements)
    missed = missed or any(entry.error for result in results for entry in result.entries)
    return int(failed or (options.strict and missed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as problem:
        sys.exit(f"benchmarks: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)

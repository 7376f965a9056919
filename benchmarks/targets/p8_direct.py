"""P8: messages from one connection to another, whose socket a second server process holds."""

import dataclasses

from benchmarks.harness import contenders
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import BenchmarkError, Contender, Requirement, Sample

RATE = 5_000
LESS = (0.2, 0.1)
"""Parts of that rate that a peer is offered when it loses messages, or falls behind."""
BEHIND_US = 1e6


def measure(bench: Bench, contender: Contender) -> Sample:
    """The 99th percentile, in microseconds, of the way from one client to the other."""
    reasons: list[str] = []
    # Ours has no easier way: its figure is asked for at the full rate.
    for part in (1.0,) if contender.is_ours else (1.0, *LESS):
        rate = f"{RATE * part:.0f}"
        load = ("pairs", "--connections", "200", "--size", "64", "--rate", rate)
        try:
            sample = bench.timed(contender, *load, processes=2)
        except BenchmarkError as error:
            reasons.append(f"{rate}/s: {error}")
            continue
        p99 = sample.detail["latency_us"]["p99"]
        if p99 > BEHIND_US and not contender.is_ours:
            reasons.append(f"{rate}/s: it fell behind by {p99 / 1e6:.1f} s")
            continue
        notes = [note for note in (sample.note, f"at {rate}/s only; {reasons[0]}" if reasons else "") if note]
        return dataclasses.replace(sample, value=p99, note="; ".join(notes))
    raise BenchmarkError("; ".join(reasons))


TARGET = Target(
    name="p8",
    title="One to one through Redis, between two server processes: 99th percentile",
    work="5,000 messages/s of 64 bytes, sent when due, over 100 pairs with an end on either process; latency from then",
    unit="µs",
    ours=contenders.offload("benchmarks.apps.direct", "/direct", redis=True),
    peers=(contenders.channels_uvicorn("/direct"), contenders.channels_uvicorn_async("/async-direct")),
    measure=measure,
    requirements=(
        Requirement("channels-uvicorn", at_most=1),
        Requirement("channels-uvicorn-async", at_most=1),
    ),
    higher_is_better=False,
)

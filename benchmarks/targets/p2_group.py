"""P2: group send through Redis to 500 members: strictly in turn, several under way, several members talking."""

import dataclasses

from benchmarks.harness import contenders
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import Contender, Requirement, Sample

LOAD = ("fanout", "--connections", "500", "--size", "64")


def measure(bench: Bench, contender: Contender) -> Sample:
    return bench.timed(contender, *LOAD)


def measure_pipelined(bench: Bench, contender: Contender) -> Sample:
    return bench.timed(contender, *LOAD, "--depth", "8")


def measure_senders(bench: Bench, contender: Contender) -> Sample:
    return bench.timed(contender, *LOAD, "--senders", "16")


TARGET = Target(
    name="p2",
    title="Group send through Redis to 500 members",
    work="64-byte text messages from one member to all 500; the next one when all have it; the C limit without Redis",
    unit="deliveries/s",
    ours=contenders.offload("benchmarks.apps.room", "/room", redis=True),
    peers=(
        contenders.limit("/room"),
        contenders.channels_uvicorn("/room"),
        contenders.channels_uvicorn_async("/async-room"),
        contenders.channels_uvicorn_pubsub("/async-room"),
        contenders.channels_daphne("/room"),
        contenders.node_ws("/room", redis=True),
    ),
    measure=measure,
    requirements=(
        Requirement("channels-uvicorn", at_least=15),
        Requirement("channels-uvicorn-async", at_least=15),
        Requirement("node-ws", at_least=1.2),
    ),
)

PIPELINED = dataclasses.replace(
    TARGET,
    name="p2-pipelined",
    title="Group send through Redis to 500 members, eight under way",
    work="as P2, with up to eight messages of the sender under way, so that a server can join its sends",
    measure=measure_pipelined,
    requirements=(),
)

SENDERS = dataclasses.replace(
    TARGET,
    name="p2-senders",
    title="Group send through Redis to 500 members, sixteen of them talking",
    work="as P2, with sixteen members that each send their next message when all 500 have the last one",
    measure=measure_senders,
    requirements=(Requirement("channels-uvicorn", at_least=15), Requirement("node-ws", at_least=1.2)),
)

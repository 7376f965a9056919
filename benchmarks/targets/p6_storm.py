"""P6: a storm of connections. Each is a handshake, a connect consumer and a group joined; none is closed again."""

import dataclasses

from benchmarks.harness import contenders
from benchmarks.harness.machine import raise_descriptor_limit
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import Contender, Requirement, Sample

CONNECTIONS = 15_000
SPARE_DESCRIPTORS = 1000


def measure(bench: Bench, contender: Contender) -> Sample:
    raise_descriptor_limit(CONNECTIONS + SPARE_DESCRIPTORS)
    return bench.timed(contender, "storm", "--connections", str(CONNECTIONS), "--outstanding", "100", "--timeout", "30")


TARGET = Target(
    name="p6",
    title="Connect storm: handshake, connect consumer and group join, through Redis",
    work="100 handshakes at a time until the time is over or 15,000 are open; then one message must reach all members",
    unit="connections/s",
    ours=contenders.offload("benchmarks.apps.room", "/room", redis=True),
    peers=(
        contenders.limit("/room"),
        contenders.channels_uvicorn("/room"),
        contenders.channels_uvicorn_async("/async-room"),
        contenders.node_ws("/room", redis=True),
    ),
    measure=measure,
    requirements=(
        Requirement("channels-uvicorn", at_least=5),
        Requirement("channels-uvicorn-async", at_least=5),
    ),
)

IPC = dataclasses.replace(
    TARGET,
    name="p6-ipc",
    title="Connect storm, ours with its default layer",
    work="as P6; ours with the hub process that it starts by itself, the peers with Redis",
    ours=contenders.offload("benchmarks.apps.room", "/room"),
    peers=TARGET.peers[1:3],
)

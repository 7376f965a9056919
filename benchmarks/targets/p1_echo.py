"""P1: WebSocket echo through a routed consumer."""

import dataclasses

from benchmarks.harness import contenders
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import Contender, Requirement, Sample


def measure(bench: Bench, contender: Contender) -> Sample:
    return bench.timed(contender, "echo", "--connections", "100", "--size", "64")


TARGET = Target(
    name="p1",
    title="WebSocket echo through a routed consumer",
    work="100 connections, 64-byte text messages, one outstanding on each",
    unit="messages/s",
    ours=contenders.offload("benchmarks.apps.echo", "/echo"),
    peers=(
        contenders.limit("/echo"),
        contenders.channels_uvicorn("/echo"),
        contenders.channels_uvicorn_async("/async-echo"),
        contenders.channels_daphne("/echo"),
        contenders.gevent_websocket("/echo"),
        contenders.node_ws("/echo"),
    ),
    measure=measure,
    requirements=(
        Requirement("channels-uvicorn", at_least=5),
        Requirement("channels-uvicorn-async", at_least=5),
        Requirement("gevent-websocket", at_least=2.5),
        Requirement("node-ws", at_least=1),
        Requirement("c-limit", at_least=0.5),
    ),
)
UNPINNED = dataclasses.replace(
    TARGET,
    name="p1-unpinned",
    title=f"{TARGET.title}, CPUs as the kernel chooses",
    peers=tuple(peer for peer in TARGET.peers if peer.name in ("c-limit", "gevent-websocket", "node-ws")),
    pinned=False,
    requirements=(),
)

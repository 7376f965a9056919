"""P7: a consumer that waits 10 ms for PostgreSQL, as most of an application's consumers wait for theirs."""

import dataclasses

from benchmarks.harness import contenders
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import Contender, Requirement, Sample

DATABASE = ("django", "psycopg", "psycopg-binary", "psycopg-pool")


WARM_SECONDS = 5.0
"""At the least: the pool opens its connections when the first consumer asks for one, and each is a process to fork."""


def measure(bench: Bench, contender: Contender) -> Sample:
    bench = dataclasses.replace(bench, warm=max(bench.warm, WARM_SECONDS))
    return bench.timed(contender, "echo", "--connections", "200", "--size", "64")


def _with_database(contender: Contender) -> Contender:
    return dataclasses.replace(
        contender, environment={"BENCHMARK_POSTGRES": "{postgres}"}, packages=(*contender.packages, *DATABASE),
        redis=False, postgres=True,
    )  # fmt: skip


def _channels(contender: Contender) -> Contender:
    command = (contender.command[0], "benchmarks.peers.channels_database:application", *contender.command[2:])
    return _with_database(dataclasses.replace(contender, command=command))


TARGET = Target(
    name="p7",
    title="Consumer that waits 10 ms for PostgreSQL",
    work="200 connections, 64-byte text messages, one outstanding on each; select pg_sleep(0.01), then the echo; "
    "a pool of 200 connections to the database",
    unit="messages/s",
    ours=_with_database(contenders.offload("benchmarks.apps.database_site.wsgi", "/wait")),
    peers=(
        _channels(contenders.channels_uvicorn("/wait")),
        _channels(contenders.channels_uvicorn_async("/async-wait")),
    ),
    measure=measure,
    requirements=(Requirement("channels-uvicorn", at_least=20),),
)

"""P3: "hello world" WSGI over keep-alive."""

import dataclasses

from benchmarks.apps.hello import BODY
from benchmarks.harness import contenders
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import Contender, Requirement, Sample

APP = "benchmarks.apps.hello"


LOAD = ("http", "--connections", "64", "--body", BODY.decode())


def measure(bench: Bench, contender: Contender) -> Sample:
    return bench.timed(contender, *LOAD, "--new-paths")


def measure_repeated(bench: Bench, contender: Contender) -> Sample:
    return bench.timed(contender, *LOAD)


TARGET = Target(
    name="p3",
    title='"Hello world" WSGI over keep-alive',
    work="64 connections, one request outstanding on each, no pipelining, another path with each request",
    unit="requests/s",
    ours=contenders.offload(APP),
    peers=(
        contenders.limit("/"),
        contenders.gunicorn("gunicorn-gevent", "gunicorn -k gevent", APP, "/", "gevent", needs=("gevent",)),
        contenders.gunicorn(
            "gunicorn-gthread", "gunicorn -k gthread, 8 threads", APP, "/", "gthread", "--threads", "8"
        ),
        contenders.granian(f"{APP}:application"),
        contenders.pywsgi(),
    ),
    measure=measure,
    requirements=(
        Requirement("gunicorn-gevent", at_least=4),
        Requirement("granian", at_least=1),
        Requirement("c-limit", at_least=0.35),
    ),
)
_NEXT = tuple(peer for peer in TARGET.peers if peer.name in ("c-limit", "gunicorn-gevent", "granian"))
REPEATED = dataclasses.replace(
    TARGET,
    peers=_NEXT,
    name="p3-repeated",
    title=f"{TARGET.title}, the same request again and again",
    work="64 connections, one request outstanding on each, no pipelining, always the same path",
    measure=measure_repeated,
)
UNPINNED = dataclasses.replace(
    TARGET,
    name="p3-unpinned",
    title=f"{TARGET.title}, CPUs as the kernel chooses",
    peers=_NEXT,
    pinned=False,
    requirements=(),
)

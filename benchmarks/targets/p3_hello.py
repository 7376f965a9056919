"""P3: "hello world" WSGI over keep-alive."""

from benchmarks.apps.hello import BODY
from benchmarks.harness import contenders
from benchmarks.harness.measure import Bench
from benchmarks.harness.model import Contender, Requirement, Sample, Target

APP = "benchmarks.apps.hello"


def measure(bench: Bench, contender: Contender) -> Sample:
    return bench.timed(contender, "http", "--connections", "64", "--body", BODY.decode())


TARGET = Target(
    name="p3",
    title='"Hello world" WSGI over keep-alive',
    work="64 connections, one request outstanding on each, no pipelining",
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
    requirements=(Requirement("gunicorn-gevent", at_least=4),),
)

"""P14: the time from the command to the first answer, and the memory of a server that has nothing to do."""

from __future__ import annotations

import http.client
import statistics
import time

from benchmarks.apps.hello import BODY
from benchmarks.harness import contenders
from benchmarks.harness.measure import Bench, Target
from benchmarks.harness.model import BenchmarkError, Contender, Requirement, Sample
from benchmarks.harness.processes import Server, proportional_bytes, resident_bytes

APP = "benchmarks.apps.hello"
STARTS = 7
ANSWER_TIMEOUT = 30.0
SETTLE_SECONDS = 1.0


def measure_start(bench: Bench, contender: Contender) -> Sample:
    """The median of several starts, after one that fills the caches of files and bytecode."""
    _first_answer(bench, contender)
    seconds = [_first_answer(bench, contender) for _ in range(STARTS)]
    return Sample(statistics.median(seconds) * 1000, {"milliseconds": [round(each * 1000, 1) for each in seconds]})


def _first_answer(bench: Bench, contender: Contender) -> float:
    with bench.serving(contender) as server:
        _get(server)
        return time.monotonic() - server.began


def measure_memory(bench: Bench, contender: Contender) -> Sample:
    """Proportional set size of all processes together: what several of them share counts once."""
    with bench.serving(contender) as server:
        _get(server)
        time.sleep(SETTLE_SECONDS)
        pids = server.pids()
        proportional = sum(proportional_bytes(pid) for pid in pids)
        resident = [resident_bytes(pid) for pid in pids]
    each = " + ".join(f"{figure / 1e6:.1f}" for figure in resident)
    return Sample(proportional / 1e6, {"resident": resident}, f"{len(pids)} processes, RSS {each} MB")


def _get(server: Server) -> None:
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_TIMEOUT)
    try:
        client.request("GET", "/")
        if (body := client.getresponse().read()) != BODY:
            raise BenchmarkError(f"another answer than {BODY!r}: {body[:100]!r}")
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"no answer: {error!r} ({server.last_words()})") from error
    finally:
        client.close()


START = Target(
    name="p14-start",
    title="From the command to the first answer",
    work=f'"hello world" WSGI, one server process; the median of {STARTS} starts',
    unit="ms",
    ours=contenders.offload(APP),
    peers=(contenders.gunicorn("gunicorn-gevent", "gunicorn -k gevent", APP, "/", "gevent", needs=("gevent",)),),
    measure=measure_start,
    requirements=(Requirement("gunicorn-gevent", at_most=1),),
    higher_is_better=False,
    timed=False,
)

MEMORY = Target(
    name="p14-memory",
    title="Memory of a server that has nothing to do",
    work="PSS of the parent and one server process, after one request",
    unit="MB",
    ours=START.ours,
    peers=START.peers,
    measure=measure_memory,
    requirements=(Requirement("gunicorn-gevent", at_most=1),),
    higher_is_better=False,
    timed=False,
)

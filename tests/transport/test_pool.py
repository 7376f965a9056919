"""The pool's greenlets, and what earlier tasks leave behind in them."""

from __future__ import annotations

import re
from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event
from greenlet import getcurrent

from offload.transport.pool import Pool
from tests.http.client import Client
from tests.serving import DEADLINE, serving

LASTING = "tests.http.apps.lasting"
DROPPED = r"%s.* was (?:thrown into a task that has ended, and is dropped|not closed by the task that started it)"


def run(pool: Pool, function: Callable[[], object]) -> None:
    """Run something in the pool, and wait until it has ended."""
    done = Event()

    def task(_: object) -> None:
        try:
            function()
        finally:
            done.set()

    pool.submit(task, None)
    assert done.wait(DEADLINE)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("timeout", r"<Timeout .*0\.01"), ("kill", ".*GreenletExit"), ("throw", "RuntimeError.'thrown late'")],
)
def test_no_request_is_lost_after_an_exception_that_an_earlier_one_left_behind(kind: str, said: str) -> None:
    with serving(LASTING, "--pool-size", "1", "--layer", "memory://") as server, Client(server) as client:
        for times in (1, 2, 3):
            assert client.get(f"/leaves?{kind}").text == "here"
            server.wait_for(DROPPED % said, times=times)
            assert client.get("/").text == "here"
        assert server.stop() == 0
        assert "cut off" not in server.log


@pytest.mark.parametrize("kind", ["switch", "switch-with-two"])
def test_switch_by_a_stranger_is_no_task(kind: str) -> None:
    with serving(LASTING, "--pool-size", "1", "--layer", "memory://") as server, Client(server) as client:
        for _ in range(3):
            assert client.get(f"/leaves?{kind}").text == "here"
            assert client.get("/").text == "here"
        assert server.stop() == 0
        assert "[ERROR]" not in server.log


def test_timeout_of_an_earlier_request_does_not_hit_one_that_waits_in_its_greenlet() -> None:
    with serving(LASTING, "--pool-size", "1", "--layer", "memory://") as server, Client(server) as client:
        # In a row, so that they share the greenlet, and the second waits when the time is over.
        client.send(b"GET /leaves?timeout HTTP/1.1\r\nHost: a\r\n\r\nGET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
        assert [client.read().text for _ in range(2)] == ["here", "here"]
        assert len(re.findall(DROPPED % r"<Timeout .*0\.01", server.log)) == 1


def test_exception_in_the_midst_of_logging_a_failure_ends_the_connection() -> None:
    with serving(LASTING, "--pool-size", "1", "--layer", "memory://") as server, Client(server) as client:
        line = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
        client.send(line % b"/" + line % b"/fails" + line % b"/")
        assert client.read().text == "here"
        assert client.rest() == b""
        server.wait_for(r"a task of the pool failed: <Timeout .*0\.01")
        with Client(server) as other:
            assert other.get("/").text == "here"
        assert server.stop() == 0
        assert "cut off" not in server.log


def test_pool_keeps_its_size_after_exceptions_for_greenlets_without_a_task() -> None:
    pool = Pool(2)
    for _ in range(5):
        run(pool, lambda: gevent.get_hub().loop.run_callback(gevent.kill, getcurrent()))
        gevent.idle()
    began: list[Event] = [Event(), Event(), Event()]
    let_on = Event()

    def task(number: int) -> None:
        began[number].set()
        let_on.wait(DEADLINE)

    for number in range(3):
        pool.submit(task, number)
    assert began[0].wait(DEADLINE)
    assert began[1].wait(DEADLINE)
    assert (pool.busy, pool.waiting, began[2].is_set()) == (2, 1, False)
    rested = Event()
    pool.rested = rested.set
    let_on.set()
    assert began[2].wait(DEADLINE)
    assert rested.wait(DEADLINE)
    assert (pool.busy, pool.waiting) == (0, 0)


def test_values_that_are_local_to_a_greenlet_or_thread_stay_for_later_requests() -> None:
    """What docs/explanation/greenlets.md says of both kinds, and what `contextvars` are for."""
    with serving(LASTING, "--pool-size", "1", "--layer", "memory://") as server, Client(server) as client:
        assert client.get("/both-local?ann").text == "None None"
        assert client.get("/both-local?bob").text == "ann ann"

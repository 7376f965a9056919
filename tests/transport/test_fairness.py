"""The loop polls between the tasks of a backlog, so that timers, reads and signals run in time.

Standstills are counted in processor time, so that the machine's other work does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import gevent
import pytest
from gevent.event import Event

from offload.interfaces import Delivery
from offload.layers.local.subscriptions import SLICE, Subscriptions
from offload.transport.pool import Pool, make_pause, wait_for_client
from tests.http.apps.busy import MESSAGE_SECONDS, REQUEST_SECONDS
from tests.http.client import Client
from tests.serving import DEADLINE, Server, serving
from tests.websocket.sockets import open_socket

SLACK_SECONDS = 0.02


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("tests.http.apps.busy", "--layer", "memory://") as server:
        yield server


def worst(server: Server) -> float:
    with Client(server) as client:
        return float(client.get("/worst").text)


def test_timer_is_late_by_no_more_than_a_message_while_a_websocket_has_many_waiting(server: Server) -> None:
    with open_socket(server, "/") as socket:
        worst(server)
        for _ in range(100):
            socket.send("a")
        for _ in range(100):
            socket.recv(DEADLINE)
    assert MESSAGE_SECONDS <= worst(server) <= MESSAGE_SECONDS + SLACK_SECONDS


def test_timer_is_late_by_no_more_than_a_request_while_a_connection_has_pipelined_many(server: Server) -> None:
    worst(server)
    with Client(server) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 300)
        for _ in range(300):
            assert client.read().status == 200
    assert REQUEST_SECONDS <= worst(server) <= REQUEST_SECONDS + SLACK_SECONDS


def compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def watch(done: Event, gaps: list[float]) -> None:
    """The processor time between two fires of a timer, until it is done."""
    before = time.process_time()
    while not done.is_set():
        gevent.sleep(0.001)
        now = time.process_time()
        gaps.append(now - before)
        before = now


@pytest.mark.parametrize("how", ["each submits the next", "all at once", "each waits for a callback"])
def test_pool_lets_a_timer_fire_between_tasks(how: str) -> None:
    pool, done, count = Pool(4), Event(), 100
    gaps: list[float] = []

    def task(left: int) -> None:
        if how == "each waits for a callback":
            gevent.sleep(0)
        compute(0.002)
        if left == 1:
            done.set()
        elif how != "all at once":
            pool.submit(task, left - 1)

    watching = gevent.spawn(watch, done, gaps)
    gevent.idle()
    for left in range(count if how == "all at once" else 1):
        pool.submit(task, count - left)
    assert done.wait(DEADLINE)
    watching.join()
    assert max(gaps) <= 0.002 + SLACK_SECONDS


def test_timer_fires_between_the_slices_of_a_large_group() -> None:
    subscriptions, done = Subscriptions(60.0), Event()
    subscriptions.pause = make_pause()
    received: list[list[int]] = []
    gaps: list[float] = []

    def member(texts: list[int], delivery: Delivery) -> None:
        texts.append(delivery.content["number"])
        compute(0.00001)

    for number in range(3 * SLICE):
        received.append([])
        subscriptions.attach(f"a!{number}", partial(member, received[-1]))
        subscriptions.add("all", f"a!{number}")

    watching = gevent.spawn(watch, done, gaps)
    gevent.idle()
    # Several senders at once, and one in the loop itself, which may not wait.
    senders = [gevent.spawn(subscriptions.fan_out, "all", {"number": number}) for number in range(5)]
    gevent.get_hub().loop.run_callback(subscriptions.fan_out, "all", {"number": 5})
    assert [sender.get() for sender in senders] == [3 * SLICE] * 5
    done.set()
    watching.join()
    assert all(texts == received[0] for texts in received)
    assert sorted(received[0]) == [0, 1, 2, 3, 4, 5]
    assert max(gaps) <= SLICE * 0.00001 + SLACK_SECONDS


@pytest.mark.parametrize("takes_together", [True, False])
def test_several_messages_to_a_large_group_are_called_in_slices(takes_together: bool) -> None:
    subscriptions, received, calls = Subscriptions(60.0), [], [0]

    def member(delivery: Delivery) -> None:
        calls[0] += 1 if delivery.prepared else len(delivery.parts)
        delivery.prepared = takes_together
        received.append([part.content for part in delivery.parts])

    def pause() -> None:
        assert calls[0] <= SLICE
        calls[0] = 0

    for number in range(3 * SLICE):
        subscriptions.attach(f"a!{number}", member, joins=True)
        subscriptions.add("all", f"a!{number}")
    subscriptions.pause = pause
    contents = [{"number": number} for number in range(10)]
    assert subscriptions.fan_out("all", *contents) == 3 * SLICE
    assert received == [contents] * (3 * SLICE)


def test_caller_that_is_interrupted_between_slices_leaves_nobody_out() -> None:
    subscriptions, received = Subscriptions(60.0), []
    for number in range(3 * SLICE):
        subscriptions.attach(f"a!{number}", received.append)
        subscriptions.add("all", f"a!{number}")

    def pause() -> None:
        raise TimeoutError

    subscriptions.pause = pause
    with pytest.raises(TimeoutError):
        subscriptions.fan_out("all", {})
    assert len(received) == 3 * SLICE


def test_task_that_waits_for_a_client_holds_no_place() -> None:
    pool, sent, ended = Pool(1), Event(), Event()
    began: list[str] = []

    def slow(_: object) -> None:
        began.append("slow")
        assert wait_for_client(sent.wait, DEADLINE)
        began.append("slow again")
        ended.set()

    def quick(_: object) -> None:
        began.append("quick")
        sent.set()

    for _ in range(3):
        pool.submit(slow, None)
    pool.submit(quick, None)
    assert ended.wait(DEADLINE)
    assert began[:4] == ["slow", "slow", "slow", "quick"]
    gevent.idle()
    assert (pool.busy, pool.waiting) == (0, 0)


def test_raw_websockets_that_wait_for_their_clients_hold_no_place() -> None:
    with (
        serving("tests.websocket.apps.raw", "--layer", "memory://", "--pool-size", "1") as server,
        open_socket(server, "/echo") as one,
        open_socket(server, "/echo") as other,
    ):
        for socket in (one, other, one):
            socket.send("hello")
            assert socket.recv(DEADLINE) == "hello"

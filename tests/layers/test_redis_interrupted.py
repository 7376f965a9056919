"""The Redis layer when a signal raises an exception in the middle of a send, as a task's time limit does.

A signal is acted upon when a function of Python's begins, and when one of C's returns. Each of these places has its
turn here, one after the other, so that nothing is left to chance.
"""

import gc
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from offload.layers.ipc import IPCLayer
from offload.layers.redis import RedisLayer
from tests.layers.hubs import HubProcess
from tests.layers.redis_receiver import Receiver, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import RedisCluster, shared_redis_server, until  # noqa: F401  # a fixture

PATIENCE = 10.0


class TimeLimit(Exception):
    """As Celery's."""


class Stop(BaseException):
    """As Ctrl-C's."""


def in_the_layer(code):
    return "layers/redis/" in code.co_filename


def where_a_reader_starts(code):
    # Not in what the interpreter's own locks are made of, which would be left in pieces.
    return "offload/layers/" in code.co_filename or (
        code.co_filename == threading.__file__ and code.co_name in ("start", "wait")
    )


def interrupted_at(place, kind, call, counts=in_the_layer):
    """Make a call and raise in it at the n-th place. Returns whether that was reached."""
    left = place
    reached = []

    def step(frame, event, argument):
        nonlocal left
        code = frame.f_code
        if event not in ("call", "c_return") or not counts(code):
            return
        left -= 1
        if not left:
            reached.append(code.co_name)
            raise kind

    gc.disable()  # what ends there, such as another test's layer, may not raise
    sys.setprofile(step)
    try:
        call()
    except kind:
        assert reached
    finally:
        sys.setprofile(None)
        gc.enable()
    return bool(reached)


def test_interrupted_question_for_a_clusters_slots_can_be_asked_again(
    tmp_path_factory,
    redis_layers,  # noqa: F811
):
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"), masters=3)
    try:
        redis_layers(cluster.url).session_save("mine", {"n": 1}, 60)
        place = 0
        reached = True
        while reached:
            place += 1
            layer = redis_layers(cluster.url, timeout=PATIENCE)
            reached = interrupted_at(place, TimeLimit, partial(layer.session_load, "mine"))
            assert in_time(layer.session_load, "mine") == {"n": 1}, place
            layer.close()
        assert place > 3
    finally:
        cluster.kill()


@pytest.mark.parametrize("kind", ["redis", "ipc"])
def test_interrupted_start_of_a_reader_leaves_one_or_none(shared_redis_server, tmp_path, kind):  # noqa: F811
    # A writer and a reader.
    name, number = {"redis": ("offload-redis-subscriber", 2), "ipc": ("offload-ipc-hub", 2)}[kind]
    hub = HubProcess(tmp_path / "hub.sock").started() if kind == "ipc" else None
    place = 0
    reached = True
    try:
        while reached:
            place += 1
            layer = RedisLayer(shared_redis_server.url) if kind == "redis" else IPCLayer(hub.path)
            reached = interrupted_at(place, Stop, partial(layer.new_channel, "reply"), where_a_reader_starts)
            receiver = in_time(Receiver, layer)
            in_time(layer.group_add, "group", receiver.channel)
            in_time(layer.group_send, "group", {"place": place})
            assert receiver.next() == {"place": place}
            # Not those that the interpreter itself was interrupted in making, which never run.
            until(
                lambda: sum(thread.name == name and thread.is_alive() for thread in threading.enumerate()) == number,
                "no more than there are to be",
            )
            layer.close()
        assert place > 20
    finally:
        threading._limbo.clear()  # what the interpreter was interrupted in making is shown as threads for ever
        if hub is not None:
            hub.close()


def in_time(call, *arguments):
    """Its result, from a thread of its own: what waits for ever must not keep the test."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call(*arguments)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert results, "somebody waits for ever"
    return results[0]


@pytest.mark.parametrize("kind", [TimeLimit, Stop])
@pytest.mark.parametrize("connected", [True, False])
def test_interrupted_send_is_raised_as_it_is_and_harms_nobody(
    shared_redis_server,  # noqa: F811
    redis_layers,  # noqa: F811
    kind,
    connected,
):
    layer = redis_layers(shared_redis_server.url, timeout=PATIENCE)
    layer.session_save("mine", {"n": 1}, 60)
    layer.session_save("theirs", {"n": 2}, 60)
    ended = threading.Event()
    right = []

    def ask():
        while not ended.is_set():
            right.append(layer.session_load("theirs") == {"n": 2})

    others = [threading.Thread(target=ask, daemon=True) for _ in range(2)] if connected else []
    for other in others:
        other.start()
    place = 0
    reached = True
    while reached:
        place += 1
        if not connected:
            layer.close()
        reached = interrupted_at(place, kind, partial(layer.session_load, "mine"))
        assert in_time(layer.session_load, "mine") == {"n": 1}, place
    assert place > 10
    ended.set()
    for other in others:
        other.join(PATIENCE)
        assert not other.is_alive()
    assert all(right)


@pytest.mark.parametrize("crowd", [False, True])
def test_handler_that_sends_in_the_middle_of_its_threads_send_is_not_held_up(
    shared_redis_server,  # noqa: F811
    redis_layers,  # noqa: F811
    crowd,
):
    layer = redis_layers(shared_redis_server.url, timeout=PATIENCE, capacity=1000)
    layer.session_save("mine", {"n": 1}, 60)
    others = []

    def step(frame, event, argument):
        nonlocal left
        if event not in ("call", "c_return") or not in_the_layer(frame.f_code):
            return
        left -= 1
        if not left:
            if crowd:
                others.append(threading.Thread(target=layer.session_load, args=("mine",), daemon=True))
                others[-1].start()
            layer.send("audit", {"place": place})

    place = 0
    left = 0
    while left <= 0:
        place += 1
        left = place
        started = time.monotonic()
        sys.setprofile(step)
        try:
            found = layer.session_load("mine")
        finally:
            sys.setprofile(None)
        assert found == {"n": 1}
        assert time.monotonic() - started < PATIENCE, place
        for other in others:
            other.join(PATIENCE)
    assert place > 10
    assert {layer.receive(["audit"], 0)[1]["place"] for _ in range(1, place)} == set(range(1, place))


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("kind", [TimeLimit, TimeoutError])
def test_signal_ends_a_send_that_a_frozen_server_holds_up(
    shared_redis_server,  # noqa: F811
    redis_layers,  # noqa: F811
    kind,
    connected,
):
    layer = redis_layers(shared_redis_server.url, timeout=PATIENCE)
    if connected:
        layer.check()

    def limit(number, frame):
        raise kind

    before = signal.signal(signal.SIGALRM, limit)
    shared_redis_server.freeze()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(kind):
            layer.send("queue", {})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        shared_redis_server.thaw()
    in_time(layer.check)


def test_signal_while_a_number_is_written_down_does_not_end_the_process():
    # In a process of its own, since what this is about is one that the kernel ends.
    program = """if True:
        from offload.layers.redis.resp import pack

        class Interrupted(int):
            def __str__(self):
                raise KeyboardInterrupt

        print(pack("SET", "key", Interrupted(3)))
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == repr(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$1\r\n3\r\n") + "\n"

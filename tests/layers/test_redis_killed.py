"""The Redis layer when one of those who use it is killed, or interrupted, while others use it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from offload.exceptions import LayerUnavailable
from tests.layers.redis_receiver import redis_layers  # noqa: F401  # a fixture
from tests.redis_server import redis_server, running_redis, until  # noqa: F401  # a fixture


def run_beside(server, program, *arguments):
    """Run a program that is given the server's address and process id, and may stop it."""
    pid = server.process.pid
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, server.url, str(pid), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.kill(pid, signal.SIGCONT)
    assert run.returncode == 0, run.stderr


def test_interrupted_sender_leaves_the_others_unharmed(redis_server):  # noqa: F811
    program = """
import os, signal, sys, threading
from offload.exceptions import LayerUnavailable
from offload.layers.redis import RedisLayer
from tests.redis_server import stand_still
layer = RedisLayer(sys.argv[1], timeout=20)
server = int(sys.argv[2])
layer.check()
begun = threading.Event()
ended = []
def send(number):
    try:
        layer.send("queue", {"n": number})
        ended.append("sent")
    except LayerUnavailable:
        ended.append("raised")
def interrupt():
    begun.wait(20)
    threads = [threading.Thread(target=send, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    os.kill(server, signal.SIGCONT)
    for thread in threads:
        thread.join(20)
stand_still(server)
other = threading.Thread(target=interrupt)
other.start()
try:
    begun.set()
    layer.send("queue", {"n": "main"})
except KeyboardInterrupt:
    ended.append("interrupted")
other.join(20)
assert sorted(ended) == ["interrupted", *["sent"] * 5], ended
layer.check()
layer.close()
"""
    run_beside(redis_server, program)


@pytest.mark.parametrize("kind", ["gevent.GreenletExit", "TimeoutError", "OSError", "Mine", "gevent.Timeout"])
def test_killed_greenlets_leave_the_others_unharmed(redis_server, kind):  # noqa: F811
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, os, signal, sys
from offload.layers.redis import RedisLayer
from tests.redis_server import stand_still
url, server = sys.argv[1], int(sys.argv[2])
class Mine(Exception):
    pass
kind = eval(sys.argv[3])
layer = RedisLayer(url, timeout=10)
layer.send("queue", {})
layer.receive(["queue"], 5)  # now the server knows the scripts
with gevent.Timeout(20):
    stand_still(server)
    greenlets = [gevent.spawn(layer.send, "queue", {"n": n}) for n in range(5)]
    greenlets += [gevent.spawn(layer.receive, ["never"]), gevent.spawn(layer.group_add, "group", "member")]
    gevent.idle()  # these are on their way
    greenlets += [gevent.spawn(layer.send, "queue", {"n": n}) for n in range(7, 12)]
    gevent.sleep(0)  # these are queued, or on their way
    killed = [0, 1, 3, 5, 7, 9]
    for number in killed:
        greenlets[number].kill(kind)
        assert isinstance(greenlets[number].exception or greenlets[number].value, kind), (number, greenlets[number])
    os.kill(server, signal.SIGCONT)
    gevent.joinall([greenlets[number] for number in range(12) if number not in killed], raise_error=True)
    assert layer.statistics()["sent"] == 1 + 5
    # What was on its way has arrived, also of those that were killed.
    found = []
    while (message := layer.receive(["queue"], 0)) is not None:
        found.append(message[1]["n"])
    assert [n for n in found if n not in (7, 9)] == [0, 1, 2, 3, 4, 8, 10, 11], found
    layer.check()
    assert layer.statistics()["lost"] == layer.statistics()["reconnects"] == 0
layer.close()
"""
    run_beside(redis_server, program, kind)


def test_real_thread_among_greenlets_is_refused(redis_server):  # noqa: F811
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, sys
from offload.exceptions import LayerUnreachable
from offload.layers.redis import RedisLayer
layer = RedisLayer(sys.argv[1])
def refused(call, *arguments):
    try:
        call(*arguments)
    except LayerUnreachable as error:
        return str(error)
pool = gevent.get_hub().threadpool
calls = (layer.send, "queue", {}), (layer.new_channel, "reply"), (layer.receive, ["queue"], 0), (layer.check,)
with gevent.Timeout(20):
    for _ in range(2):
        for call in calls:
            assert pool.apply(refused, call) == (
                "layer 'redis' cannot be used by a real thread of a process that gevent has patched; have a greenlet of"
                " the main thread do it"
            )
        layer.send("queue", {})
        assert gevent.spawn(layer.receive, ["queue"], 0).get() == ("queue", {})
layer.close()
"""
    run_beside(redis_server, program)


def test_killed_adds_leave_no_half_command(tmp_path):
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, os, signal, sys
from gevent.event import Event
from offload.layers.redis import RedisLayer
from tests.redis_server import stand_still
layer = RedisLayer(sys.argv[1], timeout=20)
server = int(sys.argv[2])
came = Event()
channel = layer.new_channel("reply")
layer.attach(channel, lambda delivery: came.set())
layer.group_add("kept", channel)
with gevent.Timeout(40):
    stand_still(server)
    # More than the system takes while the server reads nothing.
    groups = [f"group-{number:05}-".ljust(99, "x") for number in range(10000)]
    adds = [gevent.spawn(layer.group_add, group, channel) for group in groups]
    gevent.idle()  # what the system takes is on its way
    gevent.killall(adds)
    os.kill(server, signal.SIGCONT)
    layer.group_add("next", channel)
    for group in ("kept", "next"):
        came.clear()
        layer.group_send(group, {})
        came.wait()
    assert layer.statistics()["reconnects"] == 0
    assert set(layer.subscriptions.clear_groups()) == {"kept", "next"}
layer.close()
"""
    with running_redis(tmp_path, path=tmp_path / "redis.sock") as server:
        run_beside(server, program)


def test_killed_add_takes_nobody_elses_membership_along(redis_server):  # noqa: F811
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, os, signal, sys
from gevent.queue import SimpleQueue
from offload.layers.redis import RedisLayer
from tests.redis_server import stand_still
url, server = sys.argv[1], int(sys.argv[2])
layer, other = RedisLayer(url, timeout=20), RedisLayer(url, timeout=20)
channel = layer.new_channel("reply")
got = SimpleQueue()
layer.attach(channel, lambda delivery: got.put(delivery.content))
layer.group_add("before", channel)
with gevent.Timeout(20):
    for number, killed in enumerate([(0,), (1,), (0, 1), (1, 0), (0, 1, 2)]):
        room = f"room-{number}"
        stand_still(server)
        greenlets = []
        for _ in range(3):
            greenlets.append(gevent.spawn(layer.group_add, room, channel))
            gevent.idle()
        for place in killed:
            greenlets[place].kill()
        os.kill(server, signal.SIGCONT)
        gevent.joinall(greenlets, raise_error=True)
        other.group_send(room, {"room": room})
        other.send(channel, {"marker": number})
        expected = [{"room": room}] if len(killed) < 3 else []
        assert [got.get() for _ in range(len(expected) + 1)] == [*expected, {"marker": number}], room
        assert layer.subscriptions.has_members(room) is bool(expected)
for each in (layer, other):
    each.close()
"""
    run_beside(redis_server, program)


# A signal's handler runs where a function begins, or after a call of one that is written in C: there, each in its turn,
# the exception is raised that one raises (a soft time limit's, an interrupt from the keyboard).
_INTERRUPTED = """
import faulthandler, os, sys, time
from offload.exceptions import LayerUnavailable
from offload.layers.redis import RedisLayer

faulthandler.dump_traceback_later(30, exit=True)
layer = RedisLayer(sys.argv[1], timeout=5)
kind = getattr(__import__("builtins"), sys.argv[3])
channel = layer.new_channel("reply")
layer.attach(channel, lambda delivery: None)
layer.group_add("warm", channel)
files = tuple(f"{name}.py" for name in ("upstream", "topics", "subscriber", "link", "future", "thread", "shards"))
class Signal(kind):
    pass

def disturbed(place, call, *arguments):
    left = place
    def look(frame, event, argument):
        nonlocal left
        if event in ("call", "c_return") and os.path.basename(frame.f_code.co_filename) in files:
            left -= 1
            if not left:
                sys.setprofile(None)
                raise Signal
    sys.setprofile(look)
    try:
        call(*arguments)
    except Signal:
        pass
    finally:
        sys.setprofile(None)
    return left <= 0

groups = {"warm"}
def works(group):
    groups.add(group)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            return layer.group_add(group, channel)
        except LayerUnavailable:  # its connection was given up, since half a command may have been sent
            pass
    sys.exit(f"group_add after an interruption at place {place} never worked again")

places = 0
for call in (layer.group_add, layer.group_discard):
    place = 1
    while True:
        group = f"group-{call.__name__}-{place}"
        if call == layer.group_discard:
            works(group)
        groups.add(group)
        if not disturbed(place, call, group, channel):
            break
        works(f"after-{place}")
        works(group)
        place += 1
        places += 1
assert places > 40, places
for group in groups:
    layer.group_discard(group, channel)
works("last")
with __import__("redis").Redis.from_url(sys.argv[1]) as client:
    assert client.pubsub_channels("group:*") == [b"group:last"], client.pubsub_channels("group:*")
layer.close()
"""


@pytest.mark.parametrize("kind", ["Exception", "BaseException"])
def test_interruption_anywhere_in_an_add_or_a_discard_leaves_the_next_unharmed(redis_server, kind):  # noqa: F811
    run_beside(redis_server, _INTERRUPTED, kind)


def test_message_for_a_killed_receiver_goes_to_the_next(redis_server):  # noqa: F811
    program = """
from gevent import monkey; monkey.patch_all()
import gevent, os, signal, socket, sys
from offload.layers.redis import RedisLayer
from tests.redis_server import ForeignClient, stand_still, until
url, server = sys.argv[1], int(sys.argv[2])
layer = RedisLayer(url, timeout=10)
def connect():
    return ForeignClient(socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0]))))
with connect() as watcher, connect() as pusher, gevent.Timeout(30):
    # The script that takes is under way.
    layer.send("queue", {"n": "script"})
    layer.receive(["other"], 0)
    stand_still(server)
    takers = [gevent.spawn(layer.receive, ["queue"], 5) for _ in range(3)]
    gevent.idle()
    for taker in takers:
        taker.kill()
    os.kill(server, signal.SIGCONT)
    assert layer.receive(["queue"], 5) == ("queue", {"n": "script"})
    # Who waits has been told of it, and has not taken it.
    for number in range(5):
        taker = gevent.spawn(layer.receive, ["queue"], 20)
        until(lambda: b"tracking_total_keys:1" in watcher.run("INFO", "stats"), "the receiver to wait")
        pusher.run("PING")
        stand_still(server)
        pusher.send("RPUSH", "channel:queue", '{"n": %d}' % number)
        taker.kill()
        os.kill(server, signal.SIGCONT)
        assert layer.receive(["queue"], 5) == ("queue", {"n": number})
        assert pusher.read() == 1
    assert layer.statistics()["lost"] == 0, layer.statistics()
layer.close()
"""
    run_beside(redis_server, program)


def test_message_for_a_receiver_that_a_signal_ends_goes_to_the_next(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url, timeout=10)
    layer.send("queue", {"n": 1})
    layer.receive(["other"], 0)

    class TimeLimit(Exception):
        pass

    def limit(number, frame):
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, limit)
    redis_server.freeze()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(TimeLimit):
            layer.receive(["queue"], 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        redis_server.thaw()
    assert layer.receive(["queue"], 10) == ("queue", {"n": 1})
    assert layer.statistics()["lost"] == 0


def test_message_taken_too_late_for_its_receiver_goes_to_the_next(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url, timeout=0.2)
    layer.send("queue", {"n": 1})
    layer.receive(["other"], 0)
    redis_server.freeze()
    with pytest.raises(LayerUnavailable):
        layer.receive(["queue"], 0)
    redis_server.thaw()
    assert layer.receive(["queue"], 10) == ("queue", {"n": 1})
    assert layer.statistics()["lost"] == 0


def test_message_that_may_have_been_taken_is_counted_when_nobody_ever_knows(tmp_path, redis_layers):  # noqa: F811
    with running_redis(tmp_path) as server:
        layer = redis_layers(server.url, timeout=0.2)
        layer.send("queue", {"n": 1})
        layer.receive(["other"], 0)
        server.freeze()
        with pytest.raises(LayerUnavailable):
            layer.receive(["queue"], 0)
        assert layer.statistics()["lost"] == 0
    until(lambda: layer.statistics()["lost"] == 1, "the message to be counted")


def test_message_whose_answer_is_cut_off_is_counted(redis_server, redis_layers):  # noqa: F811
    sender = redis_layers(redis_server.url)
    with Cutter(redis_server.port) as cutter:
        layer = redis_layers(f"redis://127.0.0.1:{cutter.port}")
        assert layer.receive(["queue"], 0) is None
        cutter.cut_after(b"EVALSHA")
        sender.send("queue", {})
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(layer.receive, ["queue"], 20)
            assert cutter.came.wait(10)
            until(lambda: redis_server.run("LLEN", "channel:queue") == 0, "the message to be taken")
            cutter.close()
            with pytest.raises(LayerUnavailable):
                waiting.result(10)
    until(lambda: layer.statistics()["lost"] == 1, "it to be counted")


class Cutter:
    """Stands between a layer and its server, and keeps the answers from a command on until it is closed."""

    def __init__(self, port):
        self.came = threading.Event()
        self._server_port = port
        self._word = None
        self._sockets = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.close()

    def cut_after(self, word):
        self._word = word

    def close(self):
        self._listener.close()
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets += near, far
                threading.Thread(target=self._forth, args=(near, far), daemon=True).start()
                threading.Thread(target=self._back, args=(far, near), daemon=True).start()

    def _forth(self, near, far):
        with near, contextlib.suppress(OSError):
            while data := near.recv(65536):
                if self._word is not None and self._word in data:
                    self.came.set()
                far.sendall(data)

    def _back(self, far, near):
        with far, contextlib.suppress(OSError):
            while data := far.recv(65536):
                if not self.came.is_set():
                    near.sendall(data)


def test_message_for_a_killed_receiver_of_several_shards_goes_to_the_next(redis_server, tmp_path):  # noqa: F811
    (tmp_path / "second").mkdir()
    with running_redis(tmp_path / "second") as second:
        program = f"""
from gevent import monkey; monkey.patch_all()
import gevent, sys
from gevent.event import Event
from offload.layers.redis import RedisLayer
layer = RedisLayer([sys.argv[1], {second.url!r}])
other = RedisLayer([sys.argv[1], {second.url!r}])
parts = layer.backend.ring.parts([f"channel:queue-{{number}}" for number in range(100)])
queues = [key.removeprefix("channel:") for _, keys in parts for key in keys[:3]]
assert len(queues) == 6
received, came = [], Event()
def take():
    while True:
        _, content = layer.receive(queues)
        received.append(content["n"])
        came.set()
with gevent.Timeout(30):
    taker = gevent.spawn(take)
    for number in range(200):
        other.send(queues[number % 6], {{"n": number}})
        for _ in range(number % 4):
            other.check()  # as long as the servers take to answer
        taker.kill()
        taker = gevent.spawn(take)
    while len(received) < 200:
        came.wait()
        came.clear()
    assert sorted(received) == list(range(200))
    assert layer.statistics()["lost"] == 0, layer.statistics()
    taker.kill()
layer.close()
other.close()
"""
        run_beside(redis_server, program)

"""Messages that are about to come are awaited when delivering them one by one would cost more."""

import json
import subprocess
import sys

import pytest

from tests.redis_server import shared_redis_server  # noqa: F401  # a fixture

# One member whose receiver takes as long as a large group's. Prints which deliveries were said to be followed by more:
# of a sender who sends the next when the last is answered, and of one who sends it when the last has been delivered.
_PROGRAM = """
from gevent import monkey; monkey.patch_all()
import json, os, resource, sys, time
import gevent
from gevent.event import Event
from offload.layers.addresses.urls import layer_from_url

# As many descriptors as a process has that holds as many WebSockets.
descriptors = int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(descriptors)]

layer = layer_from_url(sys.argv[1])
arrived, came = [], Event()

def deliver(delivery):
    until = time.perf_counter() + 0.004
    while time.perf_counter() < until:
        pass
    arrived.append((delivery.content["n"], delivery.more))
    came.set()

channel = layer.new_channel("reply")
layer.attach(channel, deliver)
layer.group_add("room", channel)

def all_arrive(number):
    with gevent.Timeout(20):
        while len(arrived) < number:
            came.wait()
            came.clear()

def send():
    for n in range(40):
        layer.group_send("room", {"n": n})
        # As many turns as a server takes from one consumer's end to the next one's start.
        gevent.sleep(0)
        gevent.sleep(0)

gevent.spawn(send).get()
all_arrive(40)
eager, arrived[:] = list(arrived), []
for n in range(10):
    layer.group_send("room", {"n": n})
    all_arrive(n + 1)
print(json.dumps([eager, arrived]))
layer.close()
"""


def told_by(program, server, descriptors):
    """What a program prints that holds as many descriptors besides its own."""
    run = subprocess.run(
        [sys.executable, "-c", program, server.url, str(descriptors)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("descriptors", [0, 1500])
def test_messages_of_one_sender_are_joined_when_they_are_costly_to_deliver(shared_redis_server, descriptors):  # noqa: F811
    eager, patient = told_by(_PROGRAM, shared_redis_server, descriptors)
    assert [n for n, _ in eager] == list(range(40))
    # Of the forty thirty-seven, where nobody else has the processor; what must be is held by the test below.
    assert sum(more for _, more in eager) >= 10
    # Nothing was to be awaited here.
    assert patient == [[n, False] for n in range(10)]


# Here the test says what is about to come, and sends it the moment it is awaited. Waiting is worth half a minute to the
# reader, so that nothing depends on how fast anybody is; what it should not wait for fails by the program's time.
_STEPS = """
from gevent import monkey; monkey.patch_all()
import json, os, resource, sys
import gevent, redis
from gevent.event import Event
from offload.layers.redis import subscriber as redis_subscriber
from offload.layers.addresses.urls import layer_from_url

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(int(sys.argv[2]))]

class Waits(redis_subscriber.Subscriber):
    _cost = property(lambda self: 60.0, lambda self, seconds: None)

redis_subscriber._LONGEST_WAIT = 30.0
url = sys.argv[1]
layer, other = layer_from_url(url), redis.Redis.from_url(url)
arrived, came = [], Event()

def deliver(delivery):
    arrived.append((delivery.content["n"], delivery.more))
    came.set()

channel = layer.new_channel("reply")
layer.attach(channel, deliver)
layer.group_add("room", channel)
subscriber = layer._ring.shards()[0].subscriber
subscriber.__class__ = Waits
to_do, had_turns = [], []

def expects():
    if to_do:
        to_do.pop(0)()
        return True
    return False

def publish(n, size=0):
    other.publish("group:room", json.dumps({"n": n, "filling": "x" * size}))

def take_turns():
    # As who has just been answered, until it sends its next.
    for _ in range(4):
        gevent.sleep(0)
    had_turns.append(True)

def replies(most):
    found = replies_of_wire(most)
    gevent.spawn(take_turns)
    return found

def round_of(number, *steps):
    arrived.clear()
    to_do[:] = steps
    publish(0)
    while len(arrived) < number:
        came.wait()
        came.clear()
    return list(arrived)

with gevent.Timeout(20):
    subscriber._expects = expects
    said = {
        "nothing": round_of(1),
        "three": round_of(4, *[lambda n=n: publish(n) for n in (1, 2, 3)]),
        # The first read of it is a part.
        "large": round_of(2, lambda: publish(1, 1 << 20)),
        "end": round_of(1, lambda: other.client_kill_filter(_type="pubsub")),
    }
    while not layer.statistics()["reconnects"]:
        gevent.sleep(0.001)
    replies_of_wire = subscriber._connection.replies
    subscriber._connection.replies = replies
    round_of(1)  # it waits for this one by the wire's own
    subscriber._expects = lambda: said.setdefault("had turns", bool(had_turns)) and False
    round_of(1)
print(json.dumps(said))
layer.close()
"""


@pytest.mark.parametrize("descriptors", [0, 1500])
def test_only_what_is_expected_is_awaited_and_nothing_that_was_read_is_lost(shared_redis_server, descriptors):  # noqa: F811
    said = told_by(_STEPS, shared_redis_server, descriptors)
    assert said["nothing"] == [[0, False]]
    assert said["three"] == [[0, True], [1, True], [2, True], [3, False]]
    assert said["large"] == [[0, False], [1, False]]
    assert said["end"] == [[0, False]]
    # So that who was just answered can send its next before anybody asks.
    assert said["had turns"]

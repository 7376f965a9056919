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
        for _ in range(2):
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

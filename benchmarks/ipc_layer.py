"""What the IPC layer carries: one hub, two processes' worth of layers in this one, so both sides share an interpreter.

python benchmarks/ipc_layer.py [--gevent]
"""

import sys

if "--gevent" in sys.argv:
    from gevent import monkey

    monkey.patch_all()

import os
import subprocess
import tempfile
import threading
import time

from offload.layers.ipc import IPCLayer

MESSAGE = {"text": "x" * 64}


def measure(what, number, action, callers=1, finished=None):
    """Call an action so many times from so many threads (greenlets, with --gevent), and print the rate."""

    def run():
        for _ in range(number // callers):
            action()

    threads = [threading.Thread(target=run) for _ in range(callers)]
    before = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if finished is not None:
        assert finished.wait(60), "not everything arrived"
    taken = time.perf_counter() - before
    print(f"{what:48} {callers:3} callers {number / taken:10,.0f}/s {taken / number * 1e6:8.1f} us")


def main():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "hub.sock")
        hub = subprocess.Popen([sys.executable, "-m", "offload.hub.server", path], stderr=subprocess.DEVNULL)
        one, two = IPCLayer(path, capacity=1_000_000), IPCLayer(path)
        one.expect_hub()
        two.expect_hub()
        try:
            measure_all(one, two)
        finally:
            one.close()
            two.close()
            hub.terminate()
            hub.wait()


def measure_all(one, two):
    one.check()
    two.check()
    measure("round trip to the hub", 5000, one.check)
    for callers in (1, 50):
        measure("send to a queue", 10_000, lambda: one.send("queue", MESSAGE), callers)
        measure("receive from a full queue", 10_000, lambda: two.receive(["queue"], 1), callers)
    got, expected, finished = [0], [0], threading.Event()

    def deliver(_):
        got[0] += 1
        if got[0] == expected[0]:
            finished.set()

    def expect(number):
        got[0], expected[0] = 0, number
        finished.clear()

    channels = [two.new_channel("reply") for _ in range(500)]
    for channel in channels:
        two.attach(channel, deliver)
        two.group_add("group", channel)
    expect(2000 * 500)
    measure(
        "group send to 500 members of another process", 2000, lambda: one.group_send("group", MESSAGE), 50, finished
    )
    expect(20_000)
    measure("send to a reply channel of another process", 20_000, lambda: one.send(channels[0], MESSAGE), 50, finished)
    groups = iter(range(10_000))
    measure("first member of a new group", 5000, lambda: two.group_add(f"room-{next(groups)}", channels[0]))


if __name__ == "__main__":
    main()

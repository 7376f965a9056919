"""The memory layer against the conformance suite, and what is its own."""

import enum
import gc
import math
import os
import threading
import tracemalloc
import weakref

import pytest

from offload.layers.memory import MemoryLayer, MemoryServer
from offload.testing.conformance import LayerConformance
from tests.redis_server import until


class TestMemoryLayer(LayerConformance):
    server = MemoryServer()

    def make_layer(self, **settings):
        return MemoryLayer(self.server, **settings)


def test_memory_layers_share_nothing_without_a_common_server():
    layer, stranger = MemoryLayer(), MemoryLayer()
    layer.send("queue", {"n": 1})
    assert stranger.receive(["queue"], 0) is None
    assert layer.receive(["queue"], 0) == ("queue", {"n": 1})


def test_memory_layer_counts_expired_messages():
    layer = MemoryLayer(expiry=1e-9)
    layer.send("queue", {})
    assert layer.receive(["queue"], 0) is None
    assert layer.statistics()["expired"] == 1


def test_memory_layer_of_a_forked_child_is_empty_and_another_process():
    layer = MemoryLayer()
    layer.send("queue", {})
    reply = layer.new_channel("reply")
    token = layer.process
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        seen = (
            layer.process != token,
            layer.receive(["queue"], 0) is None,
            layer.new_channel("reply").partition("!")[0] != reply.partition("!")[0],
            layer.statistics()["sent"] == 0,
        )
        os.write(writer, bytes(seen))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(reader, 10) == b"\x01\x01\x01\x01"
    os.close(reader)
    os.close(writer)
    assert layer.process == token
    assert layer.receive(["queue"], 0) == ("queue", {})


def test_memory_layer_is_freed_when_dropped():
    layer = MemoryLayer()
    layer.attach(layer.new_channel("reply"), print)
    layer.receive([layer.new_channel("own")], 0)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None


def test_dropped_layers_leave_nothing_behind():
    def make(number):
        for _ in range(number):
            MemoryLayer().close()
        gc.collect()

    make(10)
    tracemalloc.start()
    try:
        make(10)
        before, _ = tracemalloc.get_traced_memory()
        make(1000)
        assert tracemalloc.get_traced_memory()[0] - before < 200_000
    finally:
        tracemalloc.stop()


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    def __str__(self):
        return "something else"


class Ratio(float):
    pass


class Raw(bytes):
    pass


class Named(dict):
    pass


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        {"text": "flat", "n": 1},
        {"level": Level.HIGH, "text": Text("safe"), "ratio": Ratio(0.5), "raw": Raw(b"x"), "flag": True, "none": None},
        Named({Text("key"): [Named(n=Level.HIGH), [Text("deep")]], "big": 2**80}),
    ],
)
def test_receiver_gets_a_copy_of_plain_types_whoever_sends(own, kept, content):
    server = MemoryServer()
    layer = MemoryLayer(server)
    channel = layer.new_channel("reply")
    got = []
    if not kept:
        layer.attach(channel, lambda delivery: got.append(delivery.content))
    (layer if own else MemoryLayer(server)).send(channel, content)
    if kept:
        got.append(layer.receive([channel], 0)[1])
    assert got == [content]
    assert got[0] is not content
    assert {type(value) for value in flattened(got[0])} <= PLAIN


PLAIN = {dict, list, str, int, float, bytes, bool, type(None)}


def flattened(value):
    yield value
    if isinstance(value, dict):
        for pair in value.items():
            for item in pair:
                yield from flattened(item)
    elif isinstance(value, list):
        for item in value:
            yield from flattened(item)


def test_receive_may_wait_for_ever_by_an_infinite_timeout():
    layer = MemoryLayer()
    found = []
    thread = threading.Thread(target=lambda: found.append(layer.receive(["queue"], math.inf)), daemon=True)
    thread.start()
    until(lambda: found or not thread.is_alive() or layer.backend.broker.waiting, "the receive to wait")
    layer.send("queue", {"n": 1})
    thread.join(10)
    assert found == [("queue", {"n": 1})]

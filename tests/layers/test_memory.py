"""The memory layer against the conformance suite, and what is its own."""

import gc
import os
import tracemalloc
import weakref

from offload.layers.memory import MemoryLayer, MemoryServer
from offload.testing.conformance import LayerConformance


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

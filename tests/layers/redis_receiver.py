"""Layers that are closed after a test, and channels that keep what they get."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from offload.interfaces import Content, Delivery
from offload.layers.redis import RedisLayer
from tests.redis_server import RedisServer

PATIENCE = 10.0


class Receiver:
    """A reply channel of a layer."""

    def __init__(self, layer: RedisLayer) -> None:
        self._queue: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.channel = layer.new_channel("reply")
        layer.attach(self.channel, self._queue.put)

    def next(self) -> Content:
        return self.next_delivery().content

    def next_delivery(self) -> Delivery:
        try:
            return self._queue.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"nothing was delivered within {PATIENCE} s") from None

    def until(self, content: Content) -> None:
        """Passes over what comes before it."""
        while self.next() != content:
            pass


def joined(layer: RedisLayer, *groups: str) -> Receiver:
    receiver = Receiver(layer)
    for group in groups:
        layer.group_add(group, receiver.channel)
    return receiver


@contextlib.contextmanager
def idle_takers(layer: RedisLayer, number: int, channels: list[str]) -> Iterator[None]:
    """Threads that wait for messages of all of these, and find none."""
    threads = [threading.Thread(target=layer.receive, args=(channels, 2 * PATIENCE)) for _ in range(number)]
    for thread in threads:
        thread.start()
    yield
    for _ in threads:
        layer.send(channels[0], {})
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def threads_of_layers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("offload-redis")]


def duties(server: RedisServer) -> list[str]:
    """Of the layers' connections that a server has."""
    listed = server.run("CLIENT", "LIST")
    assert isinstance(listed, bytes)
    return sorted(item.split("-")[1] for item in listed.decode().split() if item.startswith("name=offload-"))


@pytest.fixture
def redis_layers() -> Iterator[Callable[..., RedisLayer]]:
    made: list[RedisLayer] = []

    def make(*arguments: Any, **settings: Any) -> RedisLayer:
        made.append(RedisLayer(*arguments, **settings))
        return made[-1]

    yield make
    for layer in made:
        layer.close()

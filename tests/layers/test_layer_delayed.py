"""Delayed messages when the layer's server is away at their time, and what becomes of one that may have been sent."""

from __future__ import annotations

from typing import Any

import pytest

from offload.exceptions import ChannelFull, LayerUnavailable, LayerUnreachable
from offload.layers.memory import MemoryBackend, MemoryLayer, MemoryServer
from offload.layers.redis import RedisLayer
from tests.redis_server import RedisServer, redis_server, until
from tests.serving import DEADLINE

__all__ = ["redis_server"]


def test_delayed_message_arrives_when_the_server_is_back(redis_server: RedisServer) -> None:
    layer = RedisLayer(redis_server.url, timeout=0.5)
    try:
        layer.send("later", {"n": 1}, delay=0.3)
        redis_server.freeze()
        until(lambda: not reachable(layer), "Redis to be away")
        redis_server.thaw()
        until(lambda: reachable(layer), "Redis to answer")
        assert layer.receive(["later"], DEADLINE) == ("later", {"n": 1})
        assert layer.receive(["later"], 0) is None
    finally:
        redis_server.thaw()
        layer.flush()
        layer.close()


def reachable(layer: RedisLayer) -> bool:
    try:
        layer.check()
    except LayerUnavailable:
        return False
    return True


class Failing(MemoryLayer):
    """A layer whose next sends fail, each as it is told."""

    def __init__(self, *failures: LayerUnavailable) -> None:
        super().__init__()
        self.failures = list(failures)

    def make_backend(self, owner: Any) -> Any:
        layer = self

        class Backend(MemoryBackend):
            def push(self, *arguments: Any) -> None:
                if layer.failures:
                    raise layer.failures.pop(0)
                super().push(*arguments)

        return Backend(MemoryServer(), owner, True)


def test_message_that_was_certainly_not_sent_is_sent_again() -> None:
    layer = Failing(LayerUnreachable("away"))
    layer.send("later", {"n": 1}, delay=0.01)
    assert layer.receive(["later"], DEADLINE) == ("later", {"n": 1})
    assert layer.statistics()["lost"] == 0
    layer.close()


def test_message_that_may_have_been_sent_is_not_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    layer = Failing(LayerUnavailable("no answer"))
    layer.send("later", {"n": 1}, delay=0.01)
    layer.send("later", {"n": 2}, delay=0.3)
    assert layer.receive(["later"], DEADLINE) == ("later", {"n": 2})
    assert layer.statistics()["lost"] == 1
    assert "a delayed message for later may be lost: no answer" in caplog.messages
    layer.close()


def test_layer_that_keeps_no_delayed_messages_says_so() -> None:
    class Plain(MemoryBackend):
        keep = MemoryBackend.__mro__[1].keep  # type: ignore[attr-defined]

    class PlainLayer(MemoryLayer):
        def make_backend(self, owner: Any) -> Any:
            return Plain(MemoryServer(), owner, True)

    with pytest.raises(NotImplementedError, match=r"^Plain keeps no delayed messages$"):
        PlainLayer().send("later", {}, delay=1.0)


def test_channel_that_is_full_gets_its_delayed_message_later() -> None:
    layer = MemoryLayer(capacity=1)
    layer.send("later", {"n": 1})
    with pytest.raises(ChannelFull):
        layer.send("later", {"n": 2})
    layer.send("later", {"n": 3}, delay=0.01)
    assert layer.receive(["later"], DEADLINE) == ("later", {"n": 1})
    assert layer.receive(["later"], DEADLINE) == ("later", {"n": 3})
    layer.close()

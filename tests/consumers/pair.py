"""Both sides of the dispatch through a layer in one process: an owner of sockets, and a worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from offload import Message, route
from offload.consumers import configuration
from offload.consumers.dispatch.local import Dispatch
from offload.consumers.dispatch.remote_owner import RemoteConsumers, RemoteDispatch
from offload.consumers.dispatch.remote_worker import WorkerTurns
from offload.consumers.routing import CONNECT, DISCONNECT, RECEIVE, Router
from offload.exceptions import LayerUnavailable, LayerUnreachable
from offload.interfaces import Content, Delivery
from offload.layers.backend import Owner
from offload.layers.memory import MemoryBackend, MemoryLayer, MemoryServer
from tests.serving import DEADLINE

PATIENCE, EXPIRY = 1.0, 30.0


class AwayLayer(MemoryLayer):
    """A layer whose server may be away.

    Attributes:
        away: how many further calls find it so, and send nothing.
        in_doubt: how many further messages make it fail so that nobody knows whether they were sent.
        swallows: whether these were not.
        absent: whether who asks finds it away.
        unheard: how many further messages to processes get lost on their way.
        interrupted: how many further senders are interrupted when their message has left.
        gate: what calls wait for, so that the server seems to hang.
        waits: set when a call does.
    """

    away = 0
    in_doubt = 0
    swallows = False
    absent = False
    unheard = 0
    interrupted = 0
    gate: threading.Event | None = None

    def __init__(self, server: MemoryServer, **settings: Any) -> None:
        super().__init__(server, **settings)
        self.waits = threading.Event()

    def make_backend(self, owner: Owner) -> AwayBackend:
        return AwayBackend(self, self._server, owner)

    def look(self) -> None:
        """Every send does so first."""
        if self.gate is not None:
            self.waits.set()
            self.gate.wait(DEADLINE)
        if self.away:
            self.away -= 1
            raise LayerUnreachable("layer 'memory' is away")


class AwayBackend(MemoryBackend):
    """Of such a layer."""

    def __init__(self, layer: AwayLayer, server: MemoryServer, owner: Owner) -> None:
        super().__init__(server, owner, is_private=False)
        self._layer = layer

    def check(self) -> None:
        if self._layer.absent:
            raise LayerUnreachable("layer 'memory' is away")

    def push(self, channel: str, payload: bytes, expiry: float, capacity: int) -> None:
        layer = self._layer
        layer.look()
        if layer.in_doubt:
            layer.in_doubt -= 1
            if not layer.swallows:
                super().push(channel, payload, expiry, capacity)
            raise LayerUnavailable("layer 'memory' has failed")
        super().push(channel, payload, expiry, capacity)
        if layer.interrupted:
            layer.interrupted -= 1
            raise KeyboardInterrupt

    def publish(self, topic: str, payload: bytes) -> int:
        self._layer.look()
        if self._layer.unheard:
            self._layer.unheard -= 1
            return 0
        return super().publish(topic, payload)


class Pair:
    """An owner of sockets and a worker, each with a layer object on the same server."""

    def __init__(self, **settings: Any) -> None:
        self.server = server = MemoryServer()
        self.owner = AwayLayer(server, **{"expiry": EXPIRY, **settings})
        self.worker = AwayLayer(server, **{"expiry": EXPIRY, **settings})
        configuration.configure(self.worker)
        self.ran: list[str] = []
        self.act: Callable[[Message], None] = lambda message: None
        entries = [route(channel, self.consume) for channel in (CONNECT, RECEIVE, DISCONNECT)]
        self.dispatch = RemoteDispatch(Router(entries), self.owner, PATIENCE)
        self.turns = WorkerTurns(Dispatch(Router(entries), self.worker), self.worker)
        self.name = self.owner.new_channel("websocket.send")
        self.replies: list[Content] = []
        self.owner.attach(self.name, self._reply)
        bound = self.dispatch.bind(self.content())
        assert bound is not None
        self.consumers: RemoteConsumers = bound

    def consume(self, message: Message) -> None:
        self.ran.append(message.channel_name)
        self.act(message)

    def _reply(self, delivery: Delivery) -> None:
        self.replies.append(delivery.content)

    def content(self, **more: Any) -> Content:
        return {"reply_channel": self.name, "path": "/", "order": 0, **more}

    def work(self, channel: str, timeout: float = DEADLINE) -> None:
        """As a worker does: take one message, and run its consumer."""
        taken = self.worker.receive([channel], timeout)
        assert taken is not None, f"nothing on {channel}"
        self.turns.run(*taken)

    def beside(self, function: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=function)
        thread.start()
        return thread

    def settled(self) -> bool:
        return not self.dispatch.postponed and not self.dispatch.turns


def connect(pair: Pair) -> None:
    worker = pair.beside(lambda: pair.work(CONNECT))
    pair.consumers.connect(pair.content())
    worker.join(DEADLINE)

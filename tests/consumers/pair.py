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
from offload.layers.memory import MemoryLayer, MemoryServer
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

    def _look(self) -> None:
        if self.gate is not None:
            self.waits.set()
            self.gate.wait(DEADLINE)
        if self.away:
            self.away -= 1
            raise LayerUnreachable("layer 'memory' is away")

    def _check(self) -> None:
        if self.absent:
            raise LayerUnreachable("layer 'memory' is away")

    def _send(self, channel: str, payload: bytes) -> None:
        self._look()
        if self.in_doubt:
            self.in_doubt -= 1
            if not self.swallows:
                super()._send(channel, payload)
            raise LayerUnavailable("layer 'memory' has failed")
        super()._send(channel, payload)
        if self.interrupted:
            self.interrupted -= 1
            raise KeyboardInterrupt

    def _send_to_process(self, process: str, channel: str, payload: bytes) -> None:
        self._look()
        if self.unheard:
            self.unheard -= 1
            return
        super()._send_to_process(process, channel, payload)


class Pair:
    """An owner of sockets and a worker, each with a layer object on the same server."""

    def __init__(self, **settings: Any) -> None:
        server = MemoryServer()
        self.owner = AwayLayer(server, **{"expiry": EXPIRY, **settings})
        self.worker = AwayLayer(server, **{"expiry": EXPIRY, **settings})
        configuration.configure(self.worker)
        self.ran: list[str] = []
        self.act: Callable[[Message], None] = lambda message: None
        entries = [route(channel, self._consume) for channel in (CONNECT, RECEIVE, DISCONNECT)]
        self.dispatch = RemoteDispatch(Router(entries), self.owner, PATIENCE)
        self.turns = WorkerTurns(Dispatch(Router(entries), self.worker), self.worker)
        self.name = self.owner.new_channel("websocket.send")
        self.replies: list[Content] = []
        self.owner.attach(self.name, self._reply)
        bound = self.dispatch.bind(self.content())
        assert bound is not None
        self.consumers: RemoteConsumers = bound

    def _consume(self, message: Message) -> None:
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
        return not self.dispatch.postponed and not self.dispatch._turns


def connect(pair: Pair) -> None:
    worker = pair.beside(lambda: pair.work(CONNECT))
    pair.consumers.connect(pair.content())
    worker.join(DEADLINE)

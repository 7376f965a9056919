"""What the tests of ``--dispatch layer`` serve: a routing by names, its consumers, and processes of both kinds."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection

from offload.interfaces import Layer
from offload.layers.addresses.urls import layer_from_url
from offload.layers.ipc import IPCLayer
from tests.serving import DEADLINE, ROOT, Server
from tests.websocket.sockets import open_socket

ROUTES = """
from offload import include, route, route_class

inner = [
    route("websocket.connect", "consumers.enter", path=r"^/(?P<room>\\w+)$"),
    route("websocket.receive", "consumers.say", path=r"^/(?P<room>\\w+)$"),
    route("websocket.disconnect", "consumers.leave", path=r"^/(?P<room>\\w+)$"),
]
channel_routing = [
    include(inner, path="^/room"),
    route("websocket.connect", "consumers.decide", path=r"^/decide/(?P<how>[\\w-]+)$"),
    route("websocket.receive", "consumers.number", path="^/number$"),
    route_class("consumers.Shout", path="^/shout$"),
    route("websocket.receive", "consumers.wait", path="^/wait$"),
    route("websocket.receive", "consumers.run_long", path="^/long$"),
    route("websocket.receive", "consumers.record", path="^/record$"),
    route("websocket.disconnect", "consumers.record", path="^/record$"),
    route("websocket.receive", "consumers.note", path="^/note$"),
    route("websocket.disconnect", "consumers.note", path="^/note$"),
    route("websocket.receive", "consumers.hold", path="^/hold$"),
    route("websocket.disconnect", "consumers.note", path="^/hold$"),
    route("websocket.disconnect", "consumers.hold", path="^/linger$"),
    route("websocket.connect", "consumers.hold", path="^/slow$"),
    route("websocket.disconnect", "consumers.note", path="^/slow$"),
    route("websocket.receive", "consumers.later", path="^/later$"),
    route("websocket.connect", "consumers.count_up", path="^/count$"),
    route("websocket.receive", "consumers.count_up", path="^/count$"),
    route("websocket.receive", "consumers.tell_latency", path="^/latency$"),
    route("websocket.disconnect", "consumers.gone", path="^/(?:decide/|number|wait|long|later|count|latency)"),
    route("jobs", "consumers.job"),
]
"""

CONSUMERS = """
import json, os, random, select, sys, time

from offload import Channel, ConsumeLater, DenyConnection, Group
from offload.consumers import WebsocketConsumer
from offload.consumers.sessions import channel_session

with open("imports", "a") as file:
    file.write(f"{os.getpid()}\\n")

def enter(message, room):
    Group(f"room-{room}").add(message.reply_channel)

def say(message, room):
    Group(f"room-{room}").send({"text": message["text"]})

def leave(message, room):
    Group(f"room-{room}").discard(message.reply_channel)
    Group(f"room-{room}").send({"text": f"left with {message['code']}"})
    gone(message)

def gone(message):
    assert sorted(message) == ["code", "order", "path", "reply_channel"], sorted(message)
    Channel("gone").send({"path": message["path"], "code": message["code"]})

def decide(message, how):
    Channel("asked").send({"how": how})
    reply = message.reply_channel
    if how == "deny":
        raise DenyConnection
    elif how == "fail":
        raise ValueError("as wanted")
    elif how == "close":
        reply.send({"close": True})
    elif how == "refuse":
        reply.send({"accept": False})
    elif how == "misspeak":
        reply.send({"text": 5})
    elif how == "subprotocol":
        reply.send({"accept": True, "subprotocol": "v2.json"})
    elif how == "text":
        reply.send({"text": "one"})
        Group("two").add(reply)
        Group("two").send({"text": "two"})
        reply.send({"text": "three"})
    elif how == "others":
        # What others say waits, and decides nothing.
        Group("others").add(reply)
        Group("others").send({"close": 4002})
        Group("others").send({"text": "too late"})
    elif how == "accept-and-fail":
        reply.send({"accept": True})
        raise ValueError("as wanted")

def number(message):
    for _ in range(random.randrange(4)):
        message.channel_layer.receive(["nothing"], 0)
    message.reply_channel.send({"text": f"{os.getpid()} {message['order']} {message['text']}"})

class Shout(WebsocketConsumer):
    def connect(self, message):
        message.reply_channel.send({"accept": True})
    def receive(self, text=None, bytes=None):
        self.send(text=text.upper())
    def disconnect(self, message):
        gone(message)

def wait(message):
    if message["text"] != "wait":
        message.reply_channel.send({"text": message["text"]})
        return
    Channel("waiting").send({"pid": os.getpid()})
    message.channel_layer.receive(["go"], timeout=60)
    message.reply_channel.send({"text": "went"})

def run_long(message):
    # Longer than it takes until the owner is told that it runs.
    time.sleep(4)
    wait(message)

def record(message):
    Channel("record").send({"who": str(message.reply_channel), "what": message.channel.name})

def note(message):
    # In a file, which is there whatever becomes of the layer.
    with open("notes", "a") as file:
        print(message.reply_channel, message.channel.name.rpartition(".")[2], message.get("text"), file=file)

def hold(message):
    # As one that computes, and needs no layer for it.
    open("held", "w").close()
    released = os.open("released", os.O_RDONLY | os.O_NONBLOCK)
    select.select([released], [], [], 60)
    os.close(released)
    note(message)

tries = {}

def later(message):
    key = message["text"]
    tries[key] = tries.get(key, 0) + 1
    if key == "later" and tries[key] < 3:
        raise ConsumeLater
    message.reply_channel.send({"text": f"{key} after {tries[key]}"})

@channel_session
def count_up(message):
    message.channel_session["count"] = message.channel_session.get("count", 0) + 1
    message.reply_channel.send({"text": f"{message.reply_channel} {message.channel_session['count']}"})

def tell_latency(message):
    message.reply_channel.send({"text": json.dumps(message.latency)})

def job(message):
    message.reply_channel.send({"text": f"done by {os.getpid()}"})
"""

APPLICATION = """
from routes import channel_routing

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the application, at " + environ["PATH_INFO"].encode()]
"""


class Site:
    """Processes of one project, on one layer.

    Args:
        directory: the project's.
        stack: ends the processes.
        layer: the layer's address; without it the processes share a hub.
        query: settings of that layer.
    """

    def __init__(self, directory: Path, stack: contextlib.ExitStack, layer: str | None = None, query: str = "") -> None:
        for name, text in (("routes", ROUTES), ("consumers", CONSUMERS), ("served", APPLICATION)):
            (directory / f"{name}.py").write_text(text)
        self.directory = directory
        os.mkfifo(directory / "released")
        self._stack = stack
        self._socket = directory / "run" / "hub.sock"
        self._layer = layer
        self.url = (layer or f"ipc://{self._socket}") + query

    def serve(self, *options: str, app: str = "routes", workers: int = 1) -> Server:
        """Start a server that holds sockets."""
        return self._start(app, "--dispatch", "layer", *options, workers=workers)

    def work(self, *options: str, workers: int = 1) -> Server:
        """Start workers."""
        return self._start("worker", "routes", *options, workers=workers)

    def _start(self, *arguments: str, workers: int) -> Server:
        self._socket.parent.mkdir(mode=0o700, exist_ok=True)
        server = Server(
            *arguments, "--layer", self.url, workers=workers, cwd=self.directory,
            env={"PYTHONPATH": f"{self.directory}:{ROOT}"},
        )  # fmt: skip
        self._stack.callback(server.stop)
        return server

    def release(self) -> None:
        """Let the consumers end that hold, and those that will."""
        fifo = os.open(self.directory / "released", os.O_RDWR)
        # Held open, since a pipe without ends forgets; nobody reads what is in it.
        self._stack.callback(os.close, fifo)
        os.write(fifo, b"x")

    def layer(self) -> Layer:
        """The layer, for the test's own process."""
        layer = IPCLayer(str(self._socket)) if self._layer is None else layer_from_url(self._layer)
        self._stack.callback(layer.close)
        return layer

    def open(self, server: Server, path: str, **more: object) -> ClientConnection:
        """A WebSocket."""
        return self._stack.enter_context(open_socket(server, path, **more))


def take(layer: Layer, channel: str, count: int = 1, timeout: float = DEADLINE) -> list[dict[str, Any]]:
    """The next messages of a channel."""
    found = []
    for _ in range(count):
        message = layer.receive([channel], timeout)
        assert message is not None, f"only {found} came on {channel}"
        found.append(message[1])
    return found


def text(client: ClientConnection) -> str:
    """The client's next message."""
    return str(client.recv(DEADLINE))

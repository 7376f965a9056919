"""Where programs meet, for tests: a real Redis or a real hub, who listens there, and programs that send there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offload.interfaces import Delivery, Layer
from offload.layers.addresses.urls import layer_from_url
from tests.layers.hubs import HubProcess
from tests.redis_server import running_redis
from tests.serving import ROOT

PATIENCE = 60.0
GROUP = "news"

# Put before a program: counts the connections that the process makes, and tells at the end what it has open.
PRELUDE = """
import json, os, sys, threading, time
from offload import Channel, Group, configure

url = os.environ["URL"]
connects = []

def note(event, arguments):
    if event == "socket.connect":
        address = arguments[1] if isinstance(arguments[1], str) else "{}:{}".format(*arguments[1])
        connects.extend([address] if address in url else [])

sys.addaudithook(note)

def open_now():
    return {"descriptors": len(os.listdir("/proc/self/fd")), "threads": threading.active_count()}

def tell(**more):
    print(json.dumps({"connects": len(connects), **open_now(), **more}))
"""


class Place:
    """A server that a layer's address names."""

    def __init__(self, url: str) -> None:
        self.url = url

    def connections(self) -> int:
        """Connections at this moment, without the one that asks."""
        raise NotImplementedError

    @contextlib.contextmanager
    def layer(self) -> Iterator[Layer]:
        """The layer, in this process."""
        layer = layer_from_url(self.url)
        try:
            yield layer
        finally:
            layer.close()

    @contextlib.contextmanager
    def listener(self, group: str = GROUP) -> Iterator[Listener]:
        """A member of a group that keeps what it gets."""
        with self.layer() as layer:
            yield Listener(layer, group)

    @contextlib.contextmanager
    def peak(self) -> Iterator[list[int]]:
        """The most connections that were seen at a time, as the one item of a list."""
        most = [self.connections()]
        over = threading.Event()
        failures: list[BaseException] = []

        def look() -> None:
            try:
                while not over.wait(0.002):
                    most[0] = max(most[0], self.connections())
            except BaseException as error:  # noqa: BLE001 - raised below, where the test sees it
                failures.append(error)

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield most
        finally:
            over.set()
            watcher.join(PATIENCE)
        if failures:
            raise failures[0]


class RedisPlace(Place):
    def __init__(self, server: Any) -> None:
        super().__init__(server.url)
        self.server = server

    def connections(self) -> int:
        return int(self.server.info("clients")["connected_clients"]) - 1


class HubPlace(Place):
    def __init__(self, path: str) -> None:
        super().__init__(f"ipc://{path}")
        self._asking: Any = layer_from_url(self.url)

    def connections(self) -> int:
        return int(self._asking.hub_statistics()["clients"]) - 1

    def close(self) -> None:
        self._asking.close()


class Listener:
    """Keeps what a group's member, or the channel itself, gets."""

    def __init__(self, layer: Layer, group: str) -> None:
        self.channel = layer.new_channel("listener")
        self.got: list[dict[str, Any]] = []
        self._heard = threading.Condition()
        layer.attach(self.channel, self._take)
        layer.group_add(group, self.channel)

    def _take(self, delivery: Delivery) -> None:
        with self._heard:
            self.got.append(delivery.content)
            self._heard.notify_all()

    def wait_for(self, number: int) -> list[dict[str, Any]]:
        """Everything, as soon as there are so many."""
        with self._heard:
            self._heard.wait_for(lambda: len(self.got) >= number, PATIENCE)
            assert len(self.got) == number
            return list(self.got)


@contextlib.contextmanager
def place(kind: str, directory: Path) -> Iterator[Place]:
    """A server of its own: ``redis`` or ``ipc``."""
    if kind == "redis":
        with running_redis(directory) as server:
            yield RedisPlace(server)
        return
    directory = directory / "run"
    directory.mkdir(mode=0o700)
    hub = HubProcess(directory / "hub.sock")
    try:
        found = HubPlace(hub.started().path)
        yield found
        found.close()
    finally:
        hub.close()


def run_program(text: str, url: str, *arguments: str, strict: bool = True) -> dict[str, Any]:
    """Run a program to its end; what it told. It must end well and silently, and when strict without any warning."""
    done = subprocess.run(
        [sys.executable, *(["-X", "dev", "-W", "error"] if strict else []), "-c", PRELUDE + text, *arguments],
        cwd=ROOT,
        env={**os.environ, "URL": url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told

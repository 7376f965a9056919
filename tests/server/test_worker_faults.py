"""Workers when the layer, a message or a consumer is not as it should be."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect

from offload.consumers.dispatch.local import LATER_PAUSE
from offload.interfaces import Content
from offload.layers.ipc import IPCLayer
from tests.serving import DEADLINE, ROOT, Server

APP = """
import itertools
import json
import os
import time
from greenlet import getcurrent
from offload import ConsumeLater, Group, configure, route
from offload.layers.ipc import IPCLayer

faults = itertools.count(1)
takers = []
attempts = []

class Faulty(IPCLayer):
    def receive(self, channels, timeout=None):
        if getcurrent() not in takers:
            takers.append(getcurrent())
        if next(faults) <= int(os.environ.get("FAULTS", "0")):
            raise RuntimeError(f"a fault of taker {takers.index(getcurrent())} that nobody thought of")
        return super().receive(channels, timeout)

configure(Faulty)

def application(environ, start_response): ...

def connect(message):
    Group("room").add(message.reply_channel)

def later(message):
    attempts.append((time.monotonic(), message.content))
    if len(attempts) < 3:
        raise ConsumeLater
    times, contents = zip(*attempts)
    attempts.clear()
    gaps = [after - before for before, after in zip(times, times[1:])]
    Group("room").send({"text": json.dumps({"gaps": gaps, "contents": contents})})

def never(message):
    raise ConsumeLater

channel_routing = [
    route("websocket.connect", connect),
    route("later", later),
    route("never", never),
]
"""


class Site:
    """A server with one client in the room, a worker, and a layer to send by."""

    def __init__(self, project: Path, stack: contextlib.ExitStack, **environ: str) -> None:
        env = {"PYTHONPATH": f"{project}:{ROOT}", "OFFLOAD_RUNTIME_DIR": str(project / "run"), **environ}
        server = Server("shop", cwd=project, env=env)
        stack.callback(server.stop)
        self.client: ClientConnection = stack.enter_context(connect(server.url("/", "ws")))
        self.worker = Server("worker", "shop", cwd=project, env=env)
        stack.callback(self.worker.stop)
        self.layer = IPCLayer(str(next((project / "run").glob("*.sock"))))
        stack.callback(self.layer.close)

    def send_later(self, content: Content) -> tuple[list[float], list[Content]]:
        """Have a message consumed that is put back twice; the times between its turns, and what each turn saw."""
        self.layer.send("later", content)
        seen = json.loads(self.client.recv(DEADLINE))
        return seen["gaps"], seen["contents"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


@pytest.fixture
def site(project: Path) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        yield Site(project, stack)


def test_takers_survive_what_nobody_thought_of(project: Path) -> None:
    with contextlib.ExitStack() as stack:
        # Three takers of WebSockets, and one who waits at the named channels; each of them meets two.
        site = Site(project, stack, FAULTS="8", OFFLOAD_TAKERS="3")
        fault = (
            r"no messages can be taken\nTraceback (?s:.)*?\nRuntimeError: a fault of taker (\d) that nobody thought of"
        )
        found = {site.worker.wait_for(fault, times=times)[1] for times in range(1, 9)}
        assert found == {"0", "1", "2", "3"}
        assert site.send_later({"a": 1})[1] == [{"a": 1}] * 3


def test_a_message_waits_longer_each_time_before_it_is_put_back(site: Site) -> None:
    (first, second), _ = site.send_later({})
    assert first >= LATER_PAUSE
    assert second >= 2 * LATER_PAUSE


@pytest.mark.parametrize("tries", ["many", None, 2.5, [1], {"a": 1}, b"9"])
def test_a_malformed_count_of_tries_counts_as_none(site: Site, tries: object) -> None:
    assert site.send_later({"a": 1, "__tries__": tries})[1] == [{"a": 1}] * 3


def test_a_message_whose_tries_are_used_up_is_dropped_and_logged(site: Site) -> None:
    site.layer.send("never", {"__tries__": 9})
    site.worker.wait_for(r"shop\.never asked 10 times for a message on never later; it is dropped")

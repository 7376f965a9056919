"""Named channels: their order, their concurrency, and consumers inside of server processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offload.layers.ipc import IPCLayer
from offload.layers.redis import RedisLayer
from tests.redis_server import redis_server as redis_server
from tests.serving import DEADLINE, ROOT, Server

APP = """
from offload import Channel, route

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

running = {}

def work(message):
    running[message.channel_name] = running.get(message.channel_name, 0) + 1
    if message["steps"] is None:
        Channel("begun").send({})
        message.channel_layer.receive(["go"], 20)
    else:
        for _ in range(message["steps"]):
            message.channel_layer.receive(["nothing"], 0)
    seen = running[message.channel_name]
    running[message.channel_name] -= 1
    Channel("done").send({"number": message["number"], "running": seen, "channel": message.channel_name})

channel_routing = [route(["one", "two"], work)]
"""


class Site:
    """A worker, or a server with workers inside, and a layer to talk to it."""

    def __init__(self, project: Path, layer: IPCLayer | RedisLayer, address: str, *arguments: str) -> None:
        (project / "shop.py").write_text(APP)
        env = {"PYTHONPATH": f"{project}:{ROOT}", "OFFLOAD_RUNTIME_DIR": str(project / "run")}
        self.server = Server(*arguments, "shop", "--layer", address, cwd=project, env=env)
        self.layer = layer

    def send(self, channel: str, *steps: int | None) -> None:
        """Give work: each asks the layer so many times for something, or None until it is let go on."""
        for number, each in enumerate(steps):
            self.layer.send(channel, {"number": number, "steps": each})

    def begun(self) -> None:
        """Wait until a work waits to be let go on."""
        assert self.layer.receive(["begun"], timeout=DEADLINE) is not None

    def go(self) -> None:
        """Let one work go on."""
        self.layer.send("go", {})

    def done(self, count: int) -> list[dict[str, Any]]:
        found = []
        for _ in range(count):
            taken = self.layer.receive(["done"], timeout=DEADLINE)
            assert taken is not None
            found.append(taken[1])
        return found


@pytest.fixture(params=["ipc", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[IPCLayer | RedisLayer, str]]:
    capacity = {"one": 10_000, "two": 10_000, "done": 10_000}
    if request.param == "redis":
        url = request.getfixturevalue("redis_server").url
        layer = RedisLayer(url, channel_capacity=capacity)
        yield layer, f"{url}?capacity=10000"
        layer.close()
        return
    (tmp_path / "run").mkdir(mode=0o700)
    path = f"{tmp_path}/run/hub.sock"
    hub = IPCLayer(path, channel_capacity=capacity)
    yield hub, f"ipc://{path}?capacity=10000"
    hub.close()


def test_one_worker_keeps_the_order_of_a_channel(place: tuple[IPCLayer | RedisLayer, str], tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        site = Site(tmp_path, *place, "worker")
        stack.callback(site.server.stop)
        site.send("one", *[9, 0, 1, 0, 0] * 60)
        site.send("two", *[0] * 300)
        done = site.done(600)
        assert {each["running"] for each in done} == {1}
        for channel in ("one", "two"):
            assert [each["number"] for each in done if each["channel"] == channel] == [*range(300)]


def test_concurrency_is_what_is_asked_for(place: tuple[IPCLayer | RedisLayer, str], tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        site = Site(tmp_path, *place, "worker", "--concurrency", "5")
        stack.callback(site.server.stop)
        site.send("one", *[None] * 20)
        for _ in range(5):
            site.begun()
        running = []
        for _ in range(20):
            site.go()
            running += [each["running"] for each in site.done(1)]
        assert max(running) == 5


def test_a_slow_channel_holds_up_no_other(place: tuple[IPCLayer | RedisLayer, str], tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        site = Site(tmp_path, *place, "worker")
        stack.callback(site.server.stop)
        site.send("one", None)
        site.begun()
        site.send("two", *[0] * 50)
        assert [(each["channel"], each["number"]) for each in site.done(50)] == [("two", n) for n in range(50)]
        # Freed in the middle of a wait for the other one, it is waited at at once.
        site.go()
        site.done(1)
        site.send("one", 0)
        site.done(1)


def test_a_server_may_run_them_inside(place: tuple[IPCLayer | RedisLayer, str], tmp_path: Path) -> None:
    site = Site(tmp_path, *place, "--workers-inside", "1")
    try:
        site.send("one", *[1] * 100)
        assert [each["number"] for each in site.done(100)] == [*range(100)]
        assert "are consumed by" not in site.server.log
        site.send("one", None)
        site.begun()
        site.server.process.terminate()
        site.server.wait_for("stopping: SIGTERM")
        site.go()
        site.server.process.wait(DEADLINE)
    finally:
        site.server.stop()
    if isinstance(site.layer, RedisLayer):
        # Taken when the stop came, it is not lost.
        assert site.layer.receive(["one", "done"], timeout=DEADLINE) is not None


def test_a_server_says_who_consumes_named_channels(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    address = f"ipc://{tmp_path}/run/hub.sock"
    layer = IPCLayer(f"{tmp_path}/run/hub.sock")
    site = Site(tmp_path, layer, address)
    try:
        site.server.wait_for(
            r"messages on one, two are consumed by: offload worker shop; or here, with --workers-inside 1\n"
        )
    finally:
        site.server.stop()
        layer.close()

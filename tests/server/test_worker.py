"""Workers: ``offload worker`` takes named channels' messages from the layer and runs their consumers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from offload.layers.ipc import IPCLayer
from tests.serving import DEADLINE, ROOT, Server

APP = """
import os
from offload import Channel, ConsumeLater, Group, route

def application(environ, start_response): ...

def connect(message):
    Group("room").add(message.reply_channel)

def receive(message):
    Channel("jobs").send({"text": message["text"], "reply_channel": message.reply_channel})

def job(message):
    message.reply_channel.send({"text": f"{os.getpid()}: {message['text']}"})

def fail(message):
    raise RuntimeError("this one fails")

tries = []

def later(message):
    tries.append(message.content)
    if len(tries) < 3:
        raise ConsumeLater
    Group("room").send({"text": f"tried {len(tries)} times with {sorted(message.content)}"})

def wait(message):
    Group("room").send({"text": "begun"})
    message.channel_layer.receive(["go"], timeout=20)
    Group("room").send({"text": "finished"})

channel_routing = [
    route("websocket.connect", connect),
    route("websocket.receive", receive),
    route("jobs", job),
    route("other.fail", fail),
    route("other.later", later),
    route("other.wait", wait),
]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


class Site:
    """A server and workers of one project, on one hub."""

    def __init__(self, project: Path, stack: contextlib.ExitStack) -> None:
        self.project = project
        self.stack = stack
        self.env = {"PYTHONPATH": f"{project}:{ROOT}", "OFFLOAD_RUNTIME_DIR": str(project / "run")}
        self.server = self.start("shop")

    def start(self, *arguments: str, workers: int = 1) -> Server:
        server = Server(*arguments, workers=workers, cwd=self.project, env=self.env)
        self.stack.callback(server.stop)
        return server

    def layer(self) -> IPCLayer:
        path = next((self.project / "run").glob("*.sock"))
        layer = IPCLayer(str(path))
        self.stack.callback(layer.close)
        return layer


@pytest.fixture
def site(project: Path) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        yield Site(project, stack)


def test_a_worker_runs_a_named_channels_consumer_and_answers_the_client(site: Site) -> None:
    worker = site.start("worker", "shop", "--only-channels", "jobs")
    with connect(site.server.url("/", "ws")) as websocket:
        websocket.send("hello")
        assert websocket.recv(DEADLINE) == f"{worker.pids[0]}: hello"
    worker.wait_for("serving jobs")


def test_worker_says_that_it_is_ready_before_it_takes_a_message(site: Site) -> None:
    (site.project / "ready.py").write_text(
        "import logging\nfrom offload import configure, route\nfrom shop import application, job\n"
        "configure(worker_ready=lambda: logging.getLogger('offload.server').info('ready for jobs'))\n"
        "channel_routing = [route('jobs', job)]\n"
    )
    worker = site.start("worker", "ready")
    worker.wait_for("serving jobs")
    assert worker.log.index("ready for jobs") < worker.log.index("serving jobs")


def test_only_and_exclude_choose_the_channels(site: Site) -> None:
    worker = site.start("worker", "shop", "--only-channels", "other.*", "--exclude-channels", "*.fail,*.wait")
    worker.wait_for("serving other.later")


def test_no_channel_to_serve_is_an_error(site: Site) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "offload", "worker", "shop", "--only-channels", "nothing.*"],
        cwd=site.project, env={**os.environ, **site.env}, capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert result.returncode == 3
    assert (
        "offload: error: there is no channel to serve (routed: jobs, other.fail, other.later, other.wait, "
        "websocket.connect, websocket.receive, websocket.disconnect; "
        "--only-channels: nothing.*; --exclude-channels: none)"
    ) in result.stderr


def test_a_failing_consumer_is_logged_and_the_worker_goes_on(site: Site) -> None:
    worker = site.start("worker", "shop")
    layer = site.layer()
    layer.send("other.fail", {})
    worker.wait_for("RuntimeError: this one fails")
    with connect(site.server.url("/", "ws")) as websocket:
        websocket.send("still here")
        assert str(websocket.recv(DEADLINE)).endswith(": still here")


def test_consume_later_puts_the_message_back(site: Site) -> None:
    site.start("worker", "shop")
    with connect(site.server.url("/", "ws")) as websocket:
        site.layer().send("other.later", {"a": 1})
        # The consumer sees its own content, without what counts the tries.
        assert websocket.recv(DEADLINE) == "tried 3 times with ['a']"


def test_sigterm_finishes_what_runs(site: Site) -> None:
    worker = site.start("worker", "shop")
    layer = site.layer()
    with connect(site.server.url("/", "ws")) as websocket:
        layer.send("other.wait", {})
        assert websocket.recv(DEADLINE) == "begun"
        worker.signal(signal.SIGTERM)
        worker.wait_for("stopping: SIGTERM")
        layer.send("go", {})
        assert websocket.recv(DEADLINE) == "finished"
    assert worker.wait() == 0


def test_several_workers_share_the_messages(site: Site) -> None:
    worker = site.start("worker", "shop", workers=2)
    with connect(site.server.url("/", "ws")) as websocket:
        for number in range(40):
            websocket.send(str(number))
        answers = [str(websocket.recv(DEADLINE)).split(": ") for _ in range(40)]
    assert sorted(int(text) for _, text in answers) == list(range(40))
    assert {int(pid) for pid, _ in answers} <= set(worker.pids)


def test_a_killed_worker_is_replaced(site: Site) -> None:
    worker = site.start("worker", "shop")
    os.kill(worker.pids[0], signal.SIGKILL)
    worker.wait_for(r"worker \d+ is ready", times=2)
    with connect(site.server.url("/", "ws")) as websocket:
        websocket.send("again")
        assert websocket.recv(DEADLINE) == f"{worker.pids[1]}: again"


def test_a_message_waits_for_a_worker_that_starts_later(site: Site) -> None:
    with connect(site.server.url("/", "ws")) as websocket:
        websocket.send("early")
        site.start("worker", "shop")
        assert str(websocket.recv(DEADLINE)).endswith(": early")

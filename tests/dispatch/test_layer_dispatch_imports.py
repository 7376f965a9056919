"""``--dispatch layer``: what a server process has imported, as its own interpreter tells."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

from tests.dispatch.site import text
from tests.redis_server import until
from tests.serving import ROOT, Server, serving
from tests.websocket.raw import refusal
from tests.websocket.sockets import open_socket, upgrade

ROUTING = """
import json, os, signal, sys

from offload import include, route, route_class

def tell(*_):
    with open("telling", "w") as file:
        json.dump(sorted(sys.modules), file)
    os.rename("telling", f"modules-{os.getpid()}")

signal.signal(signal.SIGUSR2, tell)

channel_routing = [
    route("websocket.receive", "project.consumers.say", path="^/function$"),
    route_class("project.classes.Ticker", path="^/class$"),
    include("project.blog.routing.channel_routing", path="^/blog"),
    route("jobs", "project.jobs.run"),
]
"""

BLOG_ROUTING = """
from offload import route, route_class

channel_routing = [
    route("websocket.receive", "project.blog.consumers.say", path="^/function$"),
    route_class("project.blog.consumers.Ticker", path="^/class$"),
]
"""

CONSUMERS = """
import django

from offload.consumers import WebsocketConsumer

def say(message):
    message.reply_channel.send({"text": "function"})

class Ticker(WebsocketConsumer):
    def receive(self, text=None, bytes=None):
        self.send(text="class")

def run(message):
    pass
"""

FILES = {
    "__init__": "",
    "routing": ROUTING,
    "consumers": CONSUMERS,
    "classes": CONSUMERS,
    "jobs": CONSUMERS,
    "blog/__init__": "",
    "blog/routing": BLOG_ROUTING,
    "blog/consumers": CONSUMERS,
}


def modules(directory: Path, pid: int) -> set[str]:
    """What a process has imported."""
    told = directory / f"modules-{pid}"
    os.kill(pid, signal.SIGUSR2)
    until(told.exists, f"what {pid} tells")
    return set(json.loads(told.read_text()))


def roots(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_a_server_process_imports_routing_and_neither_consumers_nor_django(tmp_path: Path) -> None:
    for name, content in FILES.items():
        path = tmp_path / "project" / f"{name}.py"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content)
    (tmp_path / "run").mkdir(mode=0o700)
    layer = ("--layer", f"ipc://{tmp_path}/run/hub.sock")
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with contextlib.ExitStack() as stack:
        server = Server("project.routing", "--dispatch", "layer", *layer, workers=2, cwd=tmp_path, env=env)
        stack.callback(server.stop)
        worker = Server("worker", "project.routing", *layer, cwd=tmp_path, env=env)
        stack.callback(worker.stop)
        for _ in range(4):
            for path in ("/function", "/class", "/blog/function", "/blog/class"):
                client = stack.enter_context(open_socket(server, path))
                client.send("hello")
                assert text(client) == path.rpartition("/")[2]
        for pid in server.pids:
            names = modules(tmp_path, pid)
            assert {name for name in names if name.startswith("project")} == {
                "project", "project.routing", "project.blog", "project.blog.routing",
            }  # fmt: skip
            assert not roots(names) & {"django", "django_offload"}
            assert "offload.consumers.dispatch.remote_owner" in names
        (pid,) = worker.pids
        names = modules(tmp_path, pid)
        assert {"project.consumers", "project.classes", "project.blog.consumers", "project.jobs", "django"} <= names


CLASS_ROUTING = """
from offload import route_class
from offload.consumers import WebsocketConsumer

class Live(WebsocketConsumer):
    http_user = True

    def check(self, text):
        return text != "spam"

channel_routing = [route_class(Live, path="^/live$")]
"""


def test_a_server_process_needs_nothing_of_what_the_classes_in_its_routing_ask_for(tmp_path: Path) -> None:
    (tmp_path / "routing.py").write_text(CLASS_ROUTING)
    (tmp_path / "run").mkdir(mode=0o700)
    layer = ("--layer", f"ipc://{tmp_path}/run/hub.sock")
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    more = ("--dispatch", "layer", "--dispatch-timeout", "2")
    with serving("routing", *more, *layer, cwd=tmp_path, env=env) as server:
        status, _ = refusal(server, upgrade("/live"))
        # It is routed, and there is no worker.
        assert status == 503

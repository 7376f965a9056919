"""Celery tasks that report to clients: a real worker, which knows the layer's address and no more."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.anywhere.celery_worker import CONCURRENCY, CeleryWorker
from tests.redis_server import RedisServer, running_redis
from tests.serving import DEADLINE, ROOT, Server

PAGE = ROOT / "docs" / "howto" / "send-from-anywhere.md"
SITE = """
from offload import Channel, Group, route
from tasks import convert

def application(environ, start_response): ...

def enter(message):
    Group("board").add(message.reply_channel)

def order(message):
    # A Channel is its name: it goes into the task as it is.
    convert.delay(message.reply_channel, message["text"])

channel_routing = [route("websocket.connect", enter), route("websocket.receive", order)]
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("project")
    # As the documentation has it, and so that it can be told which of the worker's processes did the work.
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tasks,) = [block for block in blocks if "@app.task" in block]
    assert tasks.count("is done") == 1
    (directory / "tasks.py").write_text(tasks.replace("is done", "is done by {os.getpid()}"))
    (directory / "shop.py").write_text(SITE)
    return directory


@pytest.fixture(scope="module", params=["redis", "ipc"])
def site(request: pytest.FixtureRequest, project: Path, redis: RedisServer) -> Iterator[tuple[Server, CeleryWorker]]:
    broker = redis.url.rpartition("/")[0]
    env = {
        "PYTHONPATH": f"{project}:{ROOT}",
        "OFFLOAD_RUNTIME_DIR": str(project / "run"),
        "LAYER": f"{broker}/0" if request.param == "redis" else "ipc:",
        "BROKER": f"{broker}/1",
    }
    with contextlib.ExitStack() as stack:
        server = Server("shop", "--layer", env["LAYER"], workers=2, cwd=project, env=env)
        stack.callback(server.stop)
        worker = stack.enter_context(CeleryWorker("-A", "tasks", "worker", cwd=project, env=env))
        yield server, worker


def heard(client: ClientConnection, number: int) -> list[str]:
    return [str(client.recv(DEADLINE)) for _ in range(number)]


def test_a_task_reports_to_the_client_that_ordered_it_and_to_a_group(site: tuple[Server, CeleryWorker]) -> None:
    server, worker = site
    with connect(server.url("/", "ws")) as orders, connect(server.url("/", "ws")) as looks_on:
        orders.send("film")
        mine = heard(orders, 4)
        assert mine[:3] == ["film: 0 %", "film: 50 %", "film: 100 %"]
        assert mine[3].startswith("film is done by ")
        # The other one hears of the end, and of nothing else.
        assert heard(looks_on, 1) == mine[3:]
    worker.wait_for(r"Task tasks\.convert\[.*succeeded")


def test_many_tasks_need_one_connection_for_each_process_of_the_worker(
    site: tuple[Server, CeleryWorker], redis: RedisServer
) -> None:
    server, _ = site
    orders = 100
    with connect(server.url("/", "ws")) as client:
        for number in range(orders):
            client.send(f"film-{number}")
        texts = heard(client, 4 * orders)
    for number in range(orders):
        # Different tasks run side by side, but each one's reports come in their order.
        assert [text for text in texts if text.startswith(f"film-{number}: ")] == [
            f"film-{number}: {percent} %" for percent in (0, 50, 100)
        ]
    done_by = {text.rpartition(" ")[2] for text in texts if " is done by " in text}
    assert 1 <= len(done_by) <= CONCURRENCY
    if server.environ["LAYER"].startswith("redis"):
        listed = redis.run("CLIENT", "LIST")
        assert isinstance(listed, bytes)
        names = [field for line in listed.decode().splitlines() for field in line.split() if field.startswith("name=")]
        for pid in done_by:
            mine = [name for name in names if name.startswith("name=offload-") and name.endswith(f"-{pid}")]
            assert len(mine) == 1, json.dumps(names)


def test_a_client_that_left_does_not_fail_the_task(site: tuple[Server, CeleryWorker]) -> None:
    server, worker = site
    with connect(server.url("/", "ws")) as stays:
        with connect(server.url("/", "ws")) as leaves:
            leaves.send("slides")
        (end,) = heard(stays, 1)
        assert end.startswith("slides is done by ")
    assert "Traceback" not in worker.log

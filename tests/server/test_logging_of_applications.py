"""An application whose own logging disables all others': what offload has to say is said all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.serving import DEADLINE, serving

APPLICATION = """
import logging.config
logging.config.dictConfig(
    {"version": 1, "handlers": {"none": {"class": "logging.NullHandler"}}, "root": {"handlers": ["none"]}}
)
from offload import Channel, route

def fail(message):
    message.reply_channel.send({"text": "about to fail"})
    raise ZeroDivisionError("of a consumer")

def hand_on(message):
    Channel("jobs").send({"reply_channel": message.reply_channel})

channel_routing = [
    route("websocket.receive", fail, path="^/here"),
    route("websocket.receive", hand_on, path="^/there"),
    route("jobs", fail),
]
def application(environ, start_response): ...
"""


@pytest.fixture
def site(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "quiet_site.py").write_text(APPLICATION)
    return {"cwd": tmp_path, "env": {"OFFLOAD_RUNTIME_DIR": str(tmp_path / "run")}}


def test_server_tells_of_a_consumer_that_failed(site: dict[str, object]) -> None:
    with serving("quiet_site", **site) as server, connect(server.url("/here", "ws")) as client:  # type: ignore[arg-type]
        client.send("x")
        assert client.recv(DEADLINE) == "about to fail"
        server.wait_for("ZeroDivisionError: of a consumer")


def test_worker_tells_of_a_consumer_that_failed(site: dict[str, object]) -> None:
    with serving("quiet_site", **site) as server, serving("worker", "quiet_site", **site) as worker:  # type: ignore[arg-type]
        with connect(server.url("/there", "ws")) as client:
            client.send("x")
            assert client.recv(DEADLINE) == "about to fail"
        worker.wait_for("ZeroDivisionError: of a consumer")

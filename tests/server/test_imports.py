"""What a server imports at its start: gevent's plugins, and of its own code what its settings and routes need."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

from tests.serving import DEADLINE, ROOT, Server, serving

APPLICATION = """
import importlib.metadata, json, sys

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    told = {"modules": sorted(sys.modules), "entry_points": importlib.metadata.entry_points.__module__}
    return [json.dumps(told).encode()]
"""
OF_SOME_SERVERS = {
    "geventwebsocket",
    "logging.config",
    "msgpack",
    "offload.consumers.dispatch.remote_owner",
    "offload.observe.access_log",
    "offload.http.channel_exchange",
    "offload.layers.front",
    "offload.layers.ipc",
    "offload.layers.memory",
    "offload.observe.statsd",
    "redis",
}


def _ask(server: Server) -> dict[str, Any]:
    with urllib.request.urlopen(server.url(), timeout=DEADLINE) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def test_a_server_without_layer_and_access_log_has_none_of_their_code(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(APPLICATION)
    with serving("plain", "--pythonpath", str(tmp_path)) as server:
        told = _ask(server)
    assert not OF_SOME_SERVERS & set(told["modules"])


def test_plugins_of_gevent_are_called_though_entry_points_are_read_once(tmp_path: Path) -> None:
    called = tmp_path / "called"
    (tmp_path / "plain.py").write_text(APPLICATION)
    (tmp_path / "plugin.py").write_text(
        f"def tell(event):\n    with open({str(called)!r}, 'a') as file:\n"
        "        print(type(event).__name__, file=file)\n"
    )
    package = tmp_path / "plugin-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[gevent.plugins.monkey.will_patch_all]\nwill = plugin:tell\n"
        "[gevent.plugins.monkey.did_patch_all]\ndid = plugin:tell\n"
    )
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    with serving("plain", env={"PYTHONPATH": path}) as server:
        told = _ask(server)
    assert called.read_text().splitlines() == ["GeventWillPatchAllEvent", "GeventDidPatchAllEvent"]
    assert told["entry_points"] == "importlib.metadata"

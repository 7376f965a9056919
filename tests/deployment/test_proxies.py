"""The files for HAProxy and Caddy, in the real programs in front of offload."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.deployment.programs import fetch, program, running, shipped
from tests.redis_server import free_port
from tests.serving import DEADLINE, Server, serving

LARGE = 20 << 20


@contextlib.contextmanager
def haproxy(server: Server, port: int, directory: Path) -> Iterator[None]:
    command = [program("haproxy", "haproxy"), "-f", str(directory / "haproxy.cfg")]
    (directory / "haproxy.cfg").write_text(
        shipped("haproxy/haproxy.cfg", {"127.0.0.1:8000": f"127.0.0.1:{server.port}", ":80": f"127.0.0.1:{port}"})
    )
    checked = subprocess.run([*command, "-c"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "[WARNING]" not in checked.stderr, checked.stderr
    with running(command, lambda: socket.create_connection(("127.0.0.1", port)).close()):
        yield


@contextlib.contextmanager
def caddy(server: Server, port: int, directory: Path) -> Iterator[None]:
    file = directory / "Caddyfile"
    file.write_text(
        "{\n\tadmin off\n}\n"
        + shipped(
            "caddy/Caddyfile",
            {"\nexample.com {": f"\nhttp://127.0.0.1:{port} {{", "127.0.0.1:8000": f"127.0.0.1:{server.port}"},
        )
    )
    home = {**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
    command = [program("caddy", "caddy"), "run", "--config", str(file), "--adapter", "caddyfile"]
    with running(command, lambda: socket.create_connection(("127.0.0.1", port)).close(), env=home):
        yield


@pytest.mark.parametrize("proxy", [haproxy, caddy], ids=lambda proxy: proxy.__name__)
def test_a_proxy_passes_on_requests_websockets_uploads_and_who_the_client_is(proxy, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    host = f"127.0.0.1:{port}"
    with serving("tests.deployment.site", "--keep-alive", "150") as server, proxy(server, port, tmp_path):
        assert json.loads(fetch(f"http://{host}/")[0]) == ["127.0.0.1", host, "http"]
        assert json.loads(fetch(f"http://{host}/upload", bytes(LARGE))[0]) == LARGE
        with connect(f"ws://{host}/ws/room/", origin=f"http://{host}") as member:  # type: ignore[arg-type]
            fetch(f"http://{host}/say?hello")
            assert member.recv(DEADLINE) == "hello"
        with connect(f"ws://{host}/ws/client/", additional_headers={"X-Forwarded-For": "192.0.2.7"}) as client:
            assert json.loads(client.recv(DEADLINE)) == ["127.0.0.1", "ws"]

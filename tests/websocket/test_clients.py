"""Real clients: Chromium, `websockets`, `websocket-client` and Node's `ws` get back what they send.

Each echoes text and binary messages from nothing to 1 MiB, with and without compression, by a consumer and by the
application's own socket.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket as websocket_client
from selenium import webdriver

from tests.browser import chromium, missing
from tests.serving import ROOT, Server, serving
from tests.websocket.sockets import open_socket, payloads

SIZES = [0, 1, 125, 126, 4096, 65535, 65536, 1 << 20]
CLIENTS = Path(__file__).parent / "clients"
AGREED = "permessage-deflate"
SECONDS = 60


@pytest.fixture(scope="module", params=["compressed", "plain"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    compression = "auto" if request.param == "compressed" else "off"
    with serving(
        "tests.websocket.apps.echo", "--layer", "memory://", "--ws-compression", compression, cwd=ROOT
    ) as server:  # fmt: skip
        server.compresses = request.param == "compressed"  # type: ignore[attr-defined]
        yield server
        assert "ERROR" not in server.log


@pytest.fixture(params=["/routed/", "/socket/"])
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("offer", ["deflate", None])
def test_websockets(server: Any, path: str, offer: str | None) -> None:
    with open_socket(server, path, compression=offer) as client:
        extensions = client.response.headers.get("Sec-WebSocket-Extensions", "") if client.response else ""
        assert (AGREED in extensions) == (server.compresses and offer is not None)
        for message in payloads(SIZES):
            client.send(message)
            assert client.recv() == message
        client.ping("beat").wait(SECONDS)
        client.close(4321, "done")
        assert client.close_code == 4321


def test_websocket_client(server: Any, path: str) -> None:
    client = websocket_client.create_connection(server.url(path, "ws"), timeout=SECONDS)
    try:
        for message in payloads(SIZES):
            if isinstance(message, str):
                client.send(message)
            else:
                client.send_binary(message)
            assert client.recv() == message
        client.send_close(4321, b"done")
        opcode, data = client.recv_data(control_frame=True)
        assert (opcode, int.from_bytes(data[:2], "big")) == (websocket_client.ABNF.OPCODE_CLOSE, 4321)
    finally:
        client.shutdown()


@pytest.fixture(scope="session")
def node() -> str:
    """Node, with the packages of ``clients/package.json`` beside it."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        missing("needs Node and npm; run: apt-get install nodejs npm")
    assert node is not None
    assert npm is not None
    wanted = json.loads((CLIENTS / "package.json").read_text())["dependencies"]["ws"]
    installed = CLIENTS / "node_modules" / "ws" / "package.json"
    if not installed.exists() or json.loads(installed.read_text())["version"] != wanted:
        done = subprocess.run(
            [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"],
            cwd=CLIENTS,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode != 0:
            missing(f"npm install failed in {CLIENTS}: {done.stderr.strip()}")
    return node


@pytest.mark.parametrize("offer", ["compressed", "plain"])
def test_node_ws(server: Any, path: str, offer: str, node: str) -> None:
    done = subprocess.run(
        [node, "echo.js", server.url(path, "ws"), offer, *map(str, SIZES)],
        cwd=CLIENTS,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (AGREED in result["extensions"]) == (server.compresses and offer == "compressed")
    assert (result["code"], result["reason"]) in ((4321, "done"), (4321, ""))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as chrome:
        chrome.set_script_timeout(SECONDS)
        yield chrome


def test_chromium(server: Any, path: str, browser: webdriver.Chrome) -> None:
    browser.get(server.url("/page"))
    result = browser.execute_async_script((CLIENTS / "browser.js").read_text(), server.url(path, "ws"), SIZES)
    assert result.get("error") is None
    # A browser always offers.
    assert (AGREED in result["extensions"]) == server.compresses
    assert result["echoed"] == 3 * len(SIZES)
    assert (result["code"], result["wasClean"]) == (4321, True)


def test_chromium_is_refused_from_another_origin(server: Server, browser: webdriver.Chrome) -> None:
    browser.get(server.url("/page").replace("127.0.0.1", "localhost"))
    for path in ("/routed/", "/socket/"):
        result = browser.execute_async_script(
            (CLIENTS / "browser.js").read_text(), server.url(path, "ws"), SIZES
        )  # fmt: skip
        assert result["error"] == "closed with 1006 after 0 messages"
    server.wait_for(r"refused a WebSocket at '/socket/' from origin 'http://localhost:\d+'")

"""What an open WebSocket has in the layer does not expire under it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.redis_server import redis_server as redis_server
from tests.serving import DEADLINE, ROOT, Server
from tests.websocket.sockets import open_socket

APP = """
from offload import Channel, Group, route
from offload.consumers.sessions import channel_session

def application(environ, start_response): ...

@channel_session
def enter(message):
    message.channel_session["name"] = "ada"
    Group("room").add(message.reply_channel)
    Group("left").add(message.reply_channel)
    Group("left").discard(message.reply_channel)

@channel_session
def act(message):
    if message["text"] == "name":
        message.reply_channel.send({"text": message.channel_session.get("name", "forgotten")})
    else:
        Group(message["text"]).send({"text": "hello"})

channel_routing = [route("websocket.connect", enter), route("websocket.receive", act)]
"""


@pytest.mark.parametrize("place", ["memory", "ipc", "redis", "workers"])
def test_memberships_and_session_outlive_their_expiry(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "run").mkdir(mode=0o700)
    base = {"memory": "memory://", "redis": ""}.get(place, f"ipc://{tmp_path}/run/hub.sock")
    address = f"{base or request.getfixturevalue('redis_server').url}?group_expiry=0.6"
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    flags = ["--dispatch", "layer"] if place == "workers" else []
    with contextlib.ExitStack() as stack:
        server = Server("app", "--layer", address, *flags, cwd=tmp_path, env=env)
        stack.callback(server.stop)
        if place == "workers":
            stack.callback(Server("worker", "app", "--layer", address, cwd=tmp_path, env=env).stop)
        client = stack.enter_context(open_socket(server, "/"))
        with pytest.raises(TimeoutError):
            client.recv(2)
        client.send("room")
        assert client.recv(DEADLINE) == "hello"
        client.send("name")
        assert client.recv(DEADLINE) == "ada"
        client.send("left")
        client.send("name")
        assert client.recv(DEADLINE) == "ada"

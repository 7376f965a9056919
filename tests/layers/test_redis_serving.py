"""Server processes that share several Redis servers: a chat across processes, and from a shell."""

import contextlib
import subprocess
import sys

import pytest
from websockets.sync.client import connect

from tests.redis_server import RedisCluster, SentinelSet, running_redis
from tests.serving import DEADLINE, ROOT, serving

CHAT = """
from offload import Group, route

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"chat"]

def ws_connect(message, room):
    Group(f"chat-{room}").add(message.reply_channel)

def ws_receive(message, room):
    Group(f"chat-{room}").send({"text": message["text"]})

channel_routing = [
    route("websocket.connect", ws_connect, path=r"^/(?P<room>\\w+)$"),
    route("websocket.receive", ws_receive, path=r"^/(?P<room>\\w+)$"),
]
"""


@contextlib.contextmanager
def shards(directory):
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running_redis(directory / str(number))) for number in range(3)]
        yield ",".join(server.url for server in servers)


@contextlib.contextmanager
def several(kind, directory):
    servers = kind(directory)
    try:
        yield servers.url
    finally:
        servers.kill()


@pytest.mark.parametrize("kind", [None, SentinelSet, RedisCluster], ids=["shards", "sentinel", "cluster"])
def test_chat_crosses_processes_and_a_shell_joins_in(kind, tmp_path):
    (tmp_path / "chat.py").write_text(CHAT)
    home = tmp_path / "redis"
    home.mkdir()
    redis = shards(home) if kind is None else several(kind, home)
    with (
        redis as url,
        serving("chat", "--layer", url, workers=2, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}) as server,
        contextlib.ExitStack() as clients,
    ):
        for room in ("one", "two", "three"):
            members = [clients.enter_context(connect(server.url(f"/{room}", "ws"))) for _ in range(4)]
            members[0].send(f"hello {room}")
            assert [member.recv(DEADLINE) for member in members] == [f"hello {room}"] * 4
            subprocess.run(
                [sys.executable, "-m", "offload", "group-send", "--layer", url, f"chat-{room}", '{"text": "shell"}'],
                cwd=tmp_path,
                env=server.environ,
                check=True,
                timeout=DEADLINE,
            )
            assert [member.recv(DEADLINE) for member in members] == ["shell"] * 4

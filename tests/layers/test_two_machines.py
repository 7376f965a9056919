"""Two servers on two machines that share one Redis on a third: what one side does reaches the clients of the other.

The machines are network namespaces, which reach Redis and not each other.
"""

import contextlib
import json
import subprocess
import sys

import pytest
from websockets.sync.client import connect

from tests.namespaces import MIDDLE, connect_inside, machines, run_inside
from tests.redis_server import PATIENCE, RedisServer
from tests.serving import DEADLINE, ROOT, Server

APP = """
import json, os

from offload import Channel, Group, route
from offload.consumers.sessions import channel_session, session_for_reply_channel

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"chat"]

def tell(message, **content):
    message.reply_channel.send({"text": json.dumps({**content, "process": os.getpid()})})

def ws_connect(message):
    Group("room").add(message.reply_channel)
    tell(message, name=message.reply_channel.name)

@channel_session
def ws_receive(message):
    does, *arguments = json.loads(message["text"])
    if does == "say":
        Group(arguments[0]).send({"text": arguments[1]})
    elif does == "whisper":
        Channel(arguments[0]).send({"text": arguments[1]})
    elif does == "add":
        # Another machine's client, perhaps; in force when this returns.
        Group(arguments[0]).add(arguments[1])
        Group(arguments[0]).send({"text": arguments[2]})
    elif does == "discard":
        Group(arguments[0]).discard(arguments[1])
        Group(arguments[0]).send({"text": "nobody hears this"})
        tell(message, done=True)
    elif does == "remember":
        message.channel_session["word"] = arguments[0]
        message.channel_session.save()
        tell(message, done=True)
    elif does == "recall":
        tell(message, word=session_for_reply_channel(arguments[0]).get("word"))

channel_routing = [route("websocket.connect", ws_connect), route("websocket.receive", ws_receive)]
"""


class Client:
    """A browser on one of the machines."""

    def __init__(self, namespace: str, server: Server) -> None:
        sock = connect_inside(namespace, ("127.0.0.1", server.port), DEADLINE)
        self._opening = connect(server.url("/", "ws"), sock=sock)

    def __enter__(self) -> "Client":
        self._connection = self._opening.__enter__()
        hello = self.hear()
        self.name, self.process = hello["name"], hello["process"]
        return self

    def __exit__(self, *error: object) -> None:
        self._opening.__exit__(*error)

    def do(self, *what: str) -> None:
        self._connection.send(json.dumps(what))

    def next(self) -> str:
        return self._connection.recv(DEADLINE)

    def hear(self) -> dict:
        return json.loads(self.next())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The two machines' namespaces and servers, and the layer's address."""
    directory = tmp_path_factory.mktemp("site")
    (directory / "chat.py").write_text(APP)
    with machines(2) as (middle, (left, right)), contextlib.ExitStack() as stack:
        redis = run_inside(
            middle,
            lambda: RedisServer(tmp_path_factory.mktemp("redis"), bind=("127.0.0.1", MIDDLE), protected_mode="no"),
        )
        stack.callback(redis.kill)
        url = f"redis://{MIDDLE}:{redis.port}/0"
        servers = []
        for name in (left, right):
            server = Server(
                "chat",
                *("--layer", url, "--bind", "127.0.0.1:8000"),
                workers=2,
                cwd=directory,
                env={"PYTHONPATH": f"{directory}:{ROOT}"},
                namespace=name,
            )
            stack.callback(server.stop)
            servers.append(server)
        yield (left, right), servers, url


@pytest.fixture
def clients(world):
    """Clients on both machines and on each of their processes: lefts, rights."""
    names, servers, _ = world
    with contextlib.ExitStack() as stack:
        sides = []
        for name, server in zip(names, servers, strict=True):
            side = []
            while len({client.process for client in side}) < 2 or len(side) < 4:
                assert len(side) < 50, "one process takes all connections"
                side.append(stack.enter_context(Client(name, server)))
            sides.append(side)
        yield sides


def test_machines_reach_redis_and_not_each_other(world):
    (left, _), (first, second), url = world
    port = int(url.rpartition(":")[2].partition("/")[0])
    connect_inside(left, (MIDDLE, port), PATIENCE).close()
    with pytest.raises(OSError, match="unreachable"):
        connect_inside(left, ("192.0.2.3", 8000), PATIENCE)
    assert not set(first.pids) & set(second.pids)


def test_group_crosses(clients):
    for side in clients:
        for client in side:
            client.do("say", "room", f"hello from {client.name}")
            for other in (*clients[0], *clients[1]):
                assert other.next() == f"hello from {client.name}"


def test_reply_channel_crosses_and_reaches_nobody_else(clients):
    (left, *_), rights = clients
    for right in rights:
        left.do("whisper", right.name, f"for {right.name}")
        assert right.next() == f"for {right.name}"
        right.do("whisper", left.name, f"from {right.name}")
        assert left.next() == f"from {right.name}"
    # What anybody else had got would come before this.
    left.do("say", "room", "end")
    for client in (*clients[0], *rights):
        assert client.next() == "end"


def test_membership_is_given_and_taken_by_the_other_machine(clients):
    (left, *_), rights = clients
    for number, right in enumerate(rights):
        left.do("add", f"late-{number}", right.name, f"welcome {number}")
        assert right.next() == f"welcome {number}"
        left.do("discard", f"late-{number}", right.name)
        assert left.hear()["done"] is True
        left.do("whisper", right.name, "end")
        assert right.next() == "end"


def test_channel_session_is_read_on_the_other_machine(clients):
    (left, *_), rights = clients
    left.do("remember", "plover")
    assert left.hear()["done"] is True
    for right in rights:
        right.do("recall", left.name)
        assert right.hear()["word"] == "plover"


def test_shell_on_either_machine_reaches_all(world, clients):
    names, servers, url = world
    for name, server in zip(names, servers, strict=True):
        command = [sys.executable, "-m", "offload", "group-send", "--layer", url, "room", json.dumps({"text": name})]
        subprocess.run(["ip", "netns", "exec", name, *command], env=server.environ, check=True, timeout=DEADLINE)
        for client in (*clients[0], *clients[1]):
            assert client.next() == name


def test_server_that_stops_takes_its_members_along(world, clients):
    """The last test here: it ends the second machine's server."""
    names, (_, second), url = world
    subscribers = ["ip", "netns", "exec", names[0], "redis-cli", "-h", MIDDLE, "-p", url.rpartition(":")[2][:-2]]

    def listening() -> str:
        done = subprocess.run(
            [*subscribers, "PUBSUB", "NUMSUB", "group:room"], capture_output=True, text=True, check=True
        )
        return done.stdout.split()[-1]

    assert listening() == "4"
    assert second.stop() == 0, second.log
    assert listening() == "2"
    clients[0][0].do("say", "room", "still here")
    for client in clients[0]:
        assert client.next() == "still here"

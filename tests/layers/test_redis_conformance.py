"""The Redis layer against the conformance suite: on one server, three shards, Sentinel and a Cluster; on other versions
and on Valkey; once more under gevent.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from offload.layers.redis import RedisLayer
from offload.testing.conformance import LayerConformance
from tests.redis_server import (
    OTHER_PROGRAMS,
    RedisCluster,
    SentinelSet,
    require_other_program,
    running_redis,
    shared_redis_server,  # noqa: F401  # a fixture
)


class TestRedisLayer(LayerConformance):
    @pytest.fixture(autouse=True)
    def _on(self, shared_redis_server):  # noqa: F811
        self.server = shared_redis_server

    def make_layer(self, **settings):
        return RedisLayer([self.server.url], **{"timeout": 1.0, **settings})

    def stop_server(self):
        self.server.kill()

    def start_server(self):
        self.server.start()

    def freeze_server(self):
        self.server.freeze()

    def thaw_server(self):
        self.server.thaw()


class TestRedisLayerOverUnixSocket(LayerConformance):
    @pytest.fixture(autouse=True)
    def _on(self, unix_redis_server):
        self.url = unix_redis_server.url

    def make_layer(self, **settings):
        return RedisLayer([self.url], db=1, **settings)


class TestRedisLayerOnThreeShards(LayerConformance):
    @pytest.fixture(autouse=True)
    def _on(self, three_redis_servers):
        self.hosts = [server.url for server in three_redis_servers]

    def make_layer(self, **settings):
        self.hosts = [*self.hosts[1:], self.hosts[0]]  # the order says nothing
        return RedisLayer(self.hosts, **settings)


class TestRedisLayerBehindSentinel(LayerConformance):
    @pytest.fixture(autouse=True)
    def _on(self, sentinel_set):
        self.url = sentinel_set.url

    def make_layer(self, **settings):
        return RedisLayer(self.url, **settings)


class TestRedisLayerOnCluster(LayerConformance):
    @pytest.fixture(autouse=True)
    def _on(self, redis_cluster):
        self.url = redis_cluster.url

    def make_layer(self, **settings):
        return RedisLayer(self.url, **settings)


class TestRedisLayerOnOtherVersions(LayerConformance):
    @pytest.fixture(autouse=True)
    def _on(self, other_redis_server):
        self.url = other_redis_server.url

    def make_layer(self, **settings):
        return RedisLayer(self.url, **settings)


class TestRedisLayerOnClusterOfOtherVersions(LayerConformance):
    @pytest.fixture(autouse=True)
    def _on(self, other_redis_cluster):
        self.url = other_redis_cluster.url

    def make_layer(self, **settings):
        return RedisLayer(self.url, **{"timeout": 15, **settings})


@pytest.fixture(scope="module", params=OTHER_PROGRAMS)
def other_redis_server(request, tmp_path_factory):
    with running_redis(tmp_path_factory.mktemp("other"), program=require_other_program(request.param)) as server:
        yield server


@pytest.fixture(scope="module", params=OTHER_PROGRAMS)
def other_redis_cluster(request, tmp_path_factory):
    program = require_other_program(request.param)
    cluster = RedisCluster(tmp_path_factory.mktemp("other-cluster"), program=program)
    yield cluster
    cluster.kill()


@pytest.fixture(scope="module")
def three_redis_servers(tmp_path_factory):
    with contextlib.ExitStack() as servers:
        yield [servers.enter_context(running_redis(tmp_path_factory.mktemp("shard"))) for _ in range(3)]


@pytest.fixture(scope="module")
def sentinel_set(tmp_path_factory):
    servers = SentinelSet(tmp_path_factory.mktemp("sentinel"))
    yield servers
    servers.kill()


@pytest.fixture(scope="module")
def redis_cluster(tmp_path_factory):
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.kill()


@pytest.fixture(scope="module")
def unix_redis_server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("redis-unix")
    with running_redis(directory, path=directory / "redis.sock") as server:
        yield server


# The tests that tell threads from greenlets, once more where threads are greenlets.
@pytest.mark.parametrize(
    "tests",
    [
        [
            "test_redis_conformance.py::TestRedisLayer",
            "test_redis_conformance.py::TestRedisLayerOnThreeShards",
            "test_redis_conformance.py::TestRedisLayerOnCluster",
        ],
        ["test_redis.py"],
        ["test_redis_faults.py"],
    ],
    ids=["conformance", "layer", "faults"],
)
def test_redis_layer_is_right_under_gevent(tests):
    here = Path(__file__)
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    )  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", program, "-q", "-p", "no:cacheprovider", *(str(here.with_name(name)) for name in tests)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout

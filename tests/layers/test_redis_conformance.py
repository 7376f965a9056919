"""The Redis layer against the conformance suite: over TCP, over a Unix socket, and once more under gevent."""

import subprocess
import sys

import pytest

from offload.layers.redis import RedisLayer
from offload.testing.conformance import LayerConformance
from tests.redis_server import running_redis, shared_redis_server  # noqa: F401  # a fixture


class TestRedisLayer(LayerConformance):
    @pytest.fixture(autouse=True)
    def _on(self, shared_redis_server):  # noqa: F811
        self.url = shared_redis_server.url

    def make_layer(self, **settings):
        return RedisLayer([self.url], **settings)


class TestRedisLayerOverUnixSocket(LayerConformance):
    @pytest.fixture(autouse=True)
    def _on(self, unix_redis_server):
        self.url = unix_redis_server.url

    def make_layer(self, **settings):
        return RedisLayer([self.url], db=1, **settings)


@pytest.fixture(scope="module")
def unix_redis_server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("redis-unix")
    with running_redis(directory, path=directory / "redis.sock") as server:
        yield server


def test_redis_layer_conforms_under_gevent():
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from gevent import monkey; monkey.patch_all()\n"
            "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))",
            "-q",
            "-p",
            "no:cacheprovider",
            f"{__file__}::TestRedisLayer",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout

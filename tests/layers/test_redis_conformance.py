"""The Redis layer against the conformance suite: over TCP, over a Unix socket, and once more under gevent."""

import subprocess
import sys
from pathlib import Path

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


# The tests that tell threads from greenlets, once more where threads are greenlets.
@pytest.mark.parametrize(
    "tests", ["test_redis_conformance.py::TestRedisLayer", "test_redis.py", "test_redis_faults.py"]
)
def test_redis_layer_is_right_under_gevent(tests):
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    )  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", program, "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name(tests))],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout

"""The IPC layer and a real hub process against the conformance suite: in real threads, and under gevent."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from offload.layers.ipc import IPCLayer
from offload.testing.conformance import LayerConformance
from tests.layers.hubs import CountedByTheHub, HubProcess

ROOT = Path(__file__).parents[2]
UNDER_GEVENT = "OFFLOAD_TEST_UNDER_GEVENT"

PATCHED_PYTEST = """
from gevent import monkey; monkey.patch_all()
import sys, pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


class TestIPCLayer(CountedByTheHub, LayerConformance):
    @classmethod
    def setup_class(cls):
        cls.directory = tempfile.mkdtemp()
        cls.hub = HubProcess(os.path.join(cls.directory, "hub.sock"))
        cls.hub.started()

    @classmethod
    def teardown_class(cls):
        assert cls.hub.stop() == 0
        cls.hub.close()
        shutil.rmtree(cls.directory)

    def make_layer(self, **settings):
        return IPCLayer(self.hub.path, **{"timeout": 1.0, **settings})

    def stop_server(self):
        self.hub.kill()
        self.hub.close()

    def start_server(self):
        type(self).hub = HubProcess(self.hub.path).started()

    def freeze_server(self):
        self.hub.freeze()

    def thaw_server(self):
        self.hub.thaw()

    def teardown_method(self):
        super().teardown_method()
        # Nothing is left of layers that were closed, and nobody's lock waits.
        with_one = IPCLayer(self.hub.path)
        assert with_one.hub_statistics()["in_hand"] == 0
        with_one.close()


@pytest.mark.skipif(UNDER_GEVENT in os.environ, reason="runs the others")
def test_ipc_layer_conforms_under_gevent():
    done = subprocess.run(
        [sys.executable, "-c", PATCHED_PYTEST, "-q", "-p", "no:cacheprovider", __file__],
        cwd=ROOT,
        env={**os.environ, UNDER_GEVENT: "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

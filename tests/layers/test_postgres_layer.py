"""The example of a layer that somebody else wrote, on a real PostgreSQL, against the conformance suite."""

import shutil
import tempfile
from pathlib import Path

import pytest

from offload.testing.conformance import LayerConformance
from tests.postgres_server import PostgresServer, require_postgres

pytest.importorskip("psycopg")


@pytest.fixture(scope="module")
def postgres():
    require_postgres()
    # Not pytest's own directory, into which only its user may look.
    directory = Path(tempfile.mkdtemp(prefix="offload-postgres-"))
    server = PostgresServer(directory)
    yield server
    server.kill()
    shutil.rmtree(directory)


class TestPostgresLayer(LayerConformance):
    patience = 20.0

    @pytest.fixture(autouse=True)
    def _on(self, postgres, request):
        self.server = postgres
        # Waited for only where a server is away: a busy machine may take long to start connections.
        self.timeout = 2.0 if "server" in request.node.name else 15.0

    def make_layer(self, **settings):
        from examples.postgres_layer import PostgresLayer

        return PostgresLayer(self.server.url, **{"timeout": self.timeout, **settings})

    def stop_server(self):
        self.server.kill()

    def start_server(self):
        self.server.start()

    def freeze_server(self):
        self.server.freeze()

    def thaw_server(self):
        self.server.thaw()

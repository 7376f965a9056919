"""One server for the tests that need no options of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving import Server

APPLICATION = "tests.http.app:application"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The test application, under ``wsgiref.validate``."""
    server = Server(APPLICATION, "--log-level", "debug")
    yield server
    assert server.stop() == 0, server.log
    # The validator raises AssertionError for whatever is against PEP 3333, in the application or in the server.
    assert "AssertionError: Iterator" not in server.log
    assert "wsgiref/validate.py" not in server.log, server.log

"""One server for the tests that need no options of their own."""

from __future__ import annotations

import re
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
    # What the validator raises for whatever is against PEP 3333, in the application or in the server.
    assert not re.search(r"validate\.py\", line \d+, in assert_", server.log), server.log

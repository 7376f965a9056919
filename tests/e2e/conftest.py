"""A headless Chromium, and the chat served by two server processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium import webdriver

from tests.browser import chromium
from tests.serving import ROOT, Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """``make demo``: two server processes in the chat's directory, on the layer that it has by default."""
    env = {"SECRET_KEY": "for tests only", "DEMO": "1", "WEB_CONCURRENCY": "2"}
    server = Server("project.wsgi", workers=2, cwd=ROOT / "examples" / "chat", env=env)
    yield server
    assert server.stop() == 0, server.log


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome

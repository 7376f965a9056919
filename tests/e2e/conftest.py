"""A headless Chromium, and the chat served by two server processes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.serving import ROOT, Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """``offload project.wsgi -w 2`` in the chat's directory, on the layer that it has by default."""
    server = Server("project.wsgi", workers=2, cwd=ROOT / "examples" / "chat", env={"SECRET_KEY": "for tests only"})
    yield server
    assert server.stop() == 0, server.log


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        message = "needs Chromium and its driver; run: apt-get install chromium chromium-driver"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, Service(driver, log_output=subprocess.DEVNULL))
    try:
        yield chrome
    finally:
        chrome.quit()

"""The progress example in a real browser: a task in a worker, or in Celery, and a page that is reloaded meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.anywhere.celery_worker import CeleryWorker
from tests.redis_server import RedisServer, running_redis
from tests.serving import DEADLINE, ROOT, Server

EXAMPLE = ROOT / "examples" / "progress"
LONG, SHORT = 1_000_000_000, 10_000_000
RESULTS = {LONG: "50,847,534", SHORT: "664,579"}
SECONDS = 60.0
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}

# Collects every value that the bar has had since; the script is run in the page.
WATCH = """
const bar = document.getElementById("bar");
window.seen = [bar.value];
new MutationObserver(() => window.seen.push(bar.value)).observe(bar, { attributes: true });
"""


def command(beginning: str) -> list[str]:
    """The arguments of a command that the README tells, on a free port."""
    (line,) = set(re.findall(rf"^    ({beginning}.*)$", (EXAMPLE / "README.md").read_text(), re.MULTILINE))
    return [argument.replace(":8000", ":0") for argument in shlex.split(line)[1:]]


class Site:
    """The example's server, on two processes, and its pages."""

    def __init__(self, browser: webdriver.Chrome, directory: Path, **more: str) -> None:
        self.browser = browser
        self.env = {
            "PYTHONPATH": str(ROOT),
            "SECRET_KEY": "for tests only",
            "STATE_DIR": str(directory / "state"),
            "OFFLOAD_RUNTIME_DIR": str(directory / "run"),
            **more,
        }
        arguments = command("offload project")
        assert arguments[-2:] == ["-w", "2"]
        self.servers: list[Server] = []
        self.server = self.run(*arguments[:-2], workers=2)

    def run(self, *arguments: str, workers: int = 1) -> Server:
        server = Server(*arguments, workers=workers, cwd=EXAMPLE, env=self.env)
        self.servers.append(server)
        return server

    def worker(self) -> Server:
        return self.run(*command("offload worker"))

    def stop(self) -> None:
        for server in reversed(self.servers):
            assert server.stop() == 0, server.log

    # The page

    def open(self) -> None:
        self.browser.get(self.server.url())
        self.until(lambda: "connected" in self.data(), "not connected")

    def start(self, limit: int) -> None:
        Select(self.find("#limit")).select_by_value(str(limit))
        self.find("#start button").click()

    def find(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def data(self) -> dict[str, str]:
        data = self.browser.execute_script("return {...document.body?.dataset}")
        assert isinstance(data, dict)
        return data

    def words(self) -> str:
        return str(self.find("#state").text)

    def value(self) -> int:
        return int(self.browser.execute_script("return document.getElementById('bar')?.value ?? 0"))

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        wait = WebDriverWait(self.browser, SECONDS, 0.05, [StaleElementReferenceException])
        try:
            return wait.until(lambda _: condition())
        except TimeoutException:
            raise AssertionError(f"{what}; the page shows: {self.find('main').text!r}") from None

    def sees(self, state: str) -> None:
        self.until(lambda: self.data().get("state") == state, f"not {state}")

    def sees_result(self, limit: int) -> None:
        self.sees("done")
        assert self.words() == f"There are {RESULTS[limit]} primes below {limit:,}."
        assert self.value() == 100


@contextlib.contextmanager
def standing_still(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def window(browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """A window of a visitor who has not been here before."""
    original = browser.current_window_handle
    browser.switch_to.new_window("window")
    browser.get_log("browser")
    yield browser
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    browser.delete_all_cookies()
    for handle in browser.window_handles:
        if handle != original:
            browser.switch_to.window(handle)
            browser.close()
    browser.switch_to.window(original)
    expected = ("WebSocket connection to", "503 (Service Unavailable)")
    assert [entry for entry in severe if not any(words in entry["message"] for words in expected)] == []


@pytest.fixture
def site(window: webdriver.Chrome, tmp_path: Path) -> Iterator[Site]:
    site = Site(window, tmp_path)
    yield site
    site.stop()


def test_the_bar_moves_and_goes_on_after_a_reload_half_way(site: Site) -> None:
    site.open()
    assert site.words() == "No task yet."
    site.start(LONG)
    site.sees("waiting")
    assert site.words() == "Waiting for a worker to count the primes below 1,000,000,000…"

    worker = site.worker()
    site.until(lambda: site.value() >= 5, "the bar does not move")
    # Nobody sends while the worker stands still: a new page is told at once what the old one knew.
    with standing_still(worker.pids[0]):
        before = site.value()
        site.browser.refresh()
        site.sees("running")
        frozen = site.value()
        assert before <= frozen < 100
        assert not site.find("#start").is_displayed()
        site.browser.execute_script(WATCH)
    site.sees_result(LONG)
    seen = site.browser.execute_script("return window.seen")
    assert seen[0] == frozen
    assert sorted(seen) == seen
    assert set(seen) == set(range(frozen, 101))

    # And who comes later, or in another window, finds the result.
    site.browser.switch_to.new_window("tab")
    site.open()
    site.sees_result(LONG)


def test_all_pages_of_a_visitor_hear_of_the_task_and_no_other_visitor(site: Site) -> None:
    site.open()
    first = site.browser.current_window_handle
    site.browser.switch_to.new_window("tab")
    site.open()
    mine = {"Cookie": f"sessionid={site.browser.get_cookie('sessionid')['value']}"}
    site.browser.delete_all_cookies()
    site.browser.switch_to.new_window("tab")
    site.open()
    other = {"Cookie": f"sessionid={site.browser.get_cookie('sessionid')['value']}"}
    address = site.server.url("/", "ws")
    with (
        connect(address, additional_headers=mine) as same,
        connect(address, additional_headers=other) as stranger,
    ):
        assert same.recv(DEADLINE) == stranger.recv(DEADLINE) == '{"task": null, "state": "none"}'
        site.browser.delete_all_cookies()
        site.browser.add_cookie({"name": "sessionid", "value": mine["Cookie"].partition("=")[2]})
        site.browser.get(site.server.url())
        site.worker()
        site.start(SHORT)
        site.sees_result(SHORT)
        site.browser.switch_to.window(first)
        site.sees_result(SHORT)
        done = [str(same.recv(DEADLINE)) for _ in range(101)]
        assert '"state": "done"' in done[-1]
        # The stranger's own order is the first that he hears of.
        site.browser.delete_all_cookies()
        site.browser.add_cookie({"name": "sessionid", "value": other["Cookie"].partition("=")[2]})
        site.browser.get(site.server.url())
        site.until(lambda: site.words() == "No task yet.", "another visitor's task is shown")
        site.start(SHORT)
        first_news = str(stranger.recv(DEADLINE))
        task = re.findall('"task": "[^"]+"', done[0])
        assert task
        assert task[0] not in first_news

    with pytest.raises(InvalidStatus, match="403"), connect(address):
        pass


def test_a_cancelled_task_ends_in_the_worker(site: Site) -> None:
    worker = site.worker()
    site.open()
    site.start(LONG)
    site.until(lambda: site.value() >= 1, "the bar does not move")
    site.find("#cancel button").click()
    site.sees("cancelled")
    assert site.words() == "Cancelled."

    site.start(SHORT)
    site.sees_result(SHORT)
    # A worker finishes what runs before it leaves: the cancelled one would take it seconds.
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert "cut off" not in worker.log


def test_an_order_that_nobody_takes_is_refused_in_words(window: webdriver.Chrome, tmp_path: Path) -> None:
    site = Site(window, tmp_path, OFFLOAD_LAYER="ipc:?capacity=1")
    try:
        site.open()
        site.start(SHORT)
        site.sees("waiting")
        site.find("#cancel button").click()
        site.sees("cancelled")
        site.start(SHORT)
        problem = site.until(lambda: site.find("[role=alert]").text, "no word of the problem")
        assert problem == "The workers have too much to do, or cannot be reached. Please try again later."
    finally:
        site.stop()


def test_the_page_fits_a_phone_and_has_names_for_all(site: Site, tmp_path: Path) -> None:
    site.open()
    browser = site.browser
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        site.start(LONG)
        site.sees("waiting")
        assert browser.save_screenshot(str(tmp_path / "page.png"))
        width, available, unnamed, foreign = browser.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth,"
            " Array.from(document.querySelectorAll('select')).filter((i) => !i.labels.length).length,"
            " performance.getEntriesByType('resource').filter((e) => !e.name.startsWith(location.origin)).length]"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= available == PHONE["width"]
    assert unnamed == foreign == 0
    assert site.find("progress").accessible_name == "Progress"
    assert site.find("#connection").text == "Connected"
    assert site.words() != ""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        yield server


def test_celery_does_the_work_as_well(window: webdriver.Chrome, tmp_path: Path, redis: RedisServer) -> None:
    address = redis.url.rpartition("/")[0]
    site = Site(
        window,
        tmp_path,
        OFFLOAD_LAYER=f"{address}/0",
        CELERY_BROKER_URL=f"{address}/1",
        CACHE_URL=f"{address}/2",
    )
    try:
        site.open()
        site.start(LONG)
        site.sees("waiting")
        with CeleryWorker(*command("celery"), cwd=EXAMPLE, env=site.env) as worker:
            site.until(lambda: site.value() >= 5, "the bar does not move")
            site.browser.refresh()
            site.sees("running")
            assert site.value() >= 5
            site.find("#cancel button").click()
            site.sees("cancelled")
            site.start(SHORT)
            site.sees_result(SHORT)
            assert "succeeded" in worker.wait_for(r"Task project\.celery\.count.*succeeded").group()
    finally:
        site.stop()

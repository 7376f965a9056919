"""The chat in a real browser, on two server processes and the IPC layer."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.redis_server import free_port
from tests.serving import ROOT, Server, serving

SECONDS = 15.0
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}


@dataclass
class Page:
    """One window of the browser, in a room."""

    browser: webdriver.Chrome
    handle: str

    def until(self, condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
        self.show()
        wait = WebDriverWait(self.browser, seconds, 0.05, [StaleElementReferenceException])
        return wait.until(lambda _: condition(), f"{what}; this window shows: {self.text()!r}")

    def show(self) -> None:
        self.browser.switch_to.window(self.handle)

    def find(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self) -> str:
        return str(self.find("body").text)

    def enter(self, address: str, name: str, room: str) -> None:
        """Through the door, as visitors do."""
        self.show()
        self.browser.get(address)
        for field, value in (("#name", name), ("#room", room)):
            self.find(field).clear()
            self.find(field).send_keys(value)
        self.find("#room").send_keys(Keys.ENTER)
        self.process()

    def process(self) -> int:
        """The server process at the other end, once connected."""
        shown = self.until(
            lambda: self.browser.execute_script(
                "return document.querySelector('#state')?.dataset.state === 'open'"
                " ? document.querySelector('#process').value : ''"
            ),
            "not connected",
        )
        return int(shown)

    def say(self, text: str) -> None:
        self.show()
        self.find("#text").send_keys(text + Keys.ENTER)

    def messages(self) -> list[tuple[str, str]]:
        """Author and text of all messages shown; the author of a notice is empty."""
        found = self.browser.execute_script(
            "return Array.from(document.querySelectorAll('#messages li'), (item) => "
            "[item.querySelector('b')?.textContent ?? '', item.querySelector('p').textContent])"
        )
        return [(author, text) for author, text in found]

    def sees(self, author: str, text: str) -> None:
        self.until(lambda: (author, text) in self.messages(), f"no {text!r} by {author!r}")


@pytest.fixture
def pages(browser: webdriver.Chrome, server: Server, request: pytest.FixtureRequest) -> Iterator[tuple[Page, Page]]:
    """Two windows in one room, on different server processes."""
    room = request.node.name.replace("[", "-").replace("]", "")[:50]
    windows = []
    original = browser.current_window_handle
    for name in ("Ada", "Grace"):
        browser.switch_to.new_window("window")
        page = Page(browser, browser.current_window_handle)
        page.enter(server.url(), name, room)
        windows.append(page)
    first, second = windows
    there = first.process()

    def differs() -> bool:
        if second.process() == there:
            browser.refresh()
            return False
        return True

    second.until(differs, "both windows stay on one server process", 60)
    yield first, second
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    for page in windows:
        page.show()
        browser.close()
    browser.switch_to.window(original)
    expected = ("WebSocket connection to",)  # the browser's own words when a connection is lost
    assert [entry for entry in severe if not any(words in entry["message"] for words in expected)] == []


def room_of(page: Page) -> str:
    page.show()
    return str(page.find("h1").text).removeprefix("#")


def test_what_is_typed_in_one_page_appears_in_the_other_on_another_process(pages: tuple[Page, Page]) -> None:
    first, second = pages

    first.say("Hello, Grace!")
    second.sees("Ada", "Hello, Grace!")
    second.say("Hello, Ada!")

    for page in pages:
        page.sees("Ada", "Hello, Grace!")
        page.sees("Grace", "Hello, Ada!")
        assert page.messages() == [("Ada", "Hello, Grace!"), ("Grace", "Hello, Ada!")]
    first.show()
    assert first.find("#messages .mine p").text == "Hello, Grace!"


@pytest.mark.parametrize(
    ("text", "author", "shown"),
    [
        (json.dumps({"name": "admin", "text": "hello"}), "admin", "hello"),
        ("hello", "", "hello"),
        ("5", "", "5"),
        ("null", "", "null"),
        ('{"half": ', "", '{"half": '),
    ],
    ids=["message", "text", "number", "null", "broken"],
)
def test_what_manage_py_sends_to_the_group_appears_in_both_pages(
    pages: tuple[Page, Page], server: Server, text: str, author: str, shown: str
) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "group_send", f"chat-{room_of(pages[0])}", json.dumps({"text": text})],
        cwd=ROOT / "examples" / "chat",
        env=server.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for page in pages:
        page.sees(author, shown)


def test_the_tour_tells_what_to_try_with_commands_that_work(pages: tuple[Page, Page], server: Server) -> None:
    first, _ = pages
    first.show()
    assert first.find("footer").text.startswith(f"Server process {first.process()}, one of 2")
    assert first.find("#tour a").get_attribute("href") == server.url(f"/chat/{room_of(first)}/")

    first.browser.execute_script("document.querySelector('#tour').open = true")
    first.browser.set_permissions("clipboard-read", "granted")
    first.browser.set_permissions("clipboard-write", "granted")
    first.find("[data-copies=send-command]").click()
    first.until(lambda: first.find("[data-copies=send-command]").text == "Copied", "not copied")
    copied = first.browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    done = subprocess.run(["sh", "-c", copied], env=server.environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for page in pages:
        page.sees("", "hello from the shell")
    first.show()
    assert first.find("#kill-command").text == f"kill -9 {first.process()}"


def test_what_is_sent_while_the_server_is_away_waits_and_arrives_once(browser: webdriver.Chrome) -> None:
    started = {"cwd": ROOT / "examples" / "chat", "env": {"SECRET_KEY": "for tests only"}}
    bind = ("--bind", f"127.0.0.1:{free_port()}", "--drain-timeout", "0")
    page = Page(browser, browser.current_window_handle)
    with serving("project.wsgi", *bind, **started) as server:
        page.enter(server.url(), "Ada", "patience")
    page.until(lambda: "Disconnected; trying again in " in page.find("#state").text, "not told")
    page.say("Are you there?")
    page.until(lambda: page.find("#messages .waiting time").text == "waits for the connection", "not told")

    # The longer the pauses, the longer there is something to count.
    page.until(lambda: re.search(r"in [2-9] s|in \d\d s", page.find("#state").text), "no long pause")
    seconds = {int(page.find("#state").text.split()[-2])}
    page.until(
        lambda: seconds.add(int((page.find("#state").text.split() or [0, 0])[-2])) or len(seconds) > 1, "no count"
    )
    with serving("project.wsgi", *bind, **started):
        # By script: the button may go just now, when the page tries again by itself.
        browser.execute_script("document.querySelector('#retry').click()")
        page.process()
        page.sees("Ada", "Are you there?")
        assert [text for _, text in page.messages()].count("Are you there?") == 1
        assert page.browser.execute_script("return document.querySelectorAll('#messages .waiting').length") == 0


def test_rooms_are_apart(pages: tuple[Page, Page], server: Server) -> None:
    first, second = pages
    second.enter(server.url(), "Grace", "elsewhere")

    first.say("Is anybody here?")
    first.sees("Ada", "Is anybody here?")
    second.say("Is anybody there?")
    second.sees("Grace", "Is anybody there?")

    assert second.messages() == [("Grace", "Is anybody there?")]


def test_what_others_write_is_text_and_not_html(pages: tuple[Page, Page]) -> None:
    first, second = pages
    wicked = '<img src="x" onerror="document.title = 1"> & <b>bold</b>'

    first.say(wicked)

    second.sees("Ada", wicked)
    assert second.browser.execute_script("return document.querySelectorAll('#messages img, #messages p b').length") == 0


def test_pages_come_back_after_their_server_process_died(pages: tuple[Page, Page]) -> None:
    first, second = pages
    died = second.process()

    os.kill(died, signal.SIGKILL)
    second.sees("", "Connected again. What was said in between is not shown.")

    assert second.process() != died
    first.say("Are you back?")
    second.sees("Ada", "Are you back?")
    second.say("I am.")
    first.sees("Grace", "I am.")


def test_pages_fit_a_phone(pages: tuple[Page, Page], server: Server, tmp_path: Path) -> None:
    first, second = pages
    second.show()
    browser = second.browser
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    second.say("https://example.org/" + "very" * 40 + "long")
    second.say("And a message of ordinary words, as long as people write them on their way to work.")
    first.say("M" * 200)
    second.sees("Ada", "M" * 200)

    size, send = second.browser.execute_script(
        "return [[document.documentElement.scrollWidth, document.documentElement.clientWidth,"
        " document.documentElement.scrollHeight, innerHeight], document.querySelector('#composer button')"
        ".getBoundingClientRect().toJSON()]"
    )
    assert browser.save_screenshot(str(tmp_path / "room.png"))
    assert size[0] <= size[1] == PHONE["width"]
    assert size[2] <= size[3]
    assert send["right"] <= PHONE["width"]
    assert send["bottom"] <= PHONE["height"]

    browser.get(server.url())
    width, available = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert width <= available == PHONE["width"]


def test_pages_work_by_keyboard_and_tell_screen_readers(pages: tuple[Page, Page], server: Server) -> None:
    first, _ = pages
    first.show()
    unlabelled = "return Array.from(document.querySelectorAll('input')).filter((i) => !i.labels.length).length"

    assert first.browser.execute_script(unlabelled) == 0
    assert first.find("[role=status]").text == "Connected"
    assert first.find("[role=log]").get_attribute("aria-label") == "Messages"
    assert first.browser.switch_to.active_element.get_attribute("id") == "text"
    order = []
    first.browser.execute_script("document.querySelector('a.back').focus()")
    for _ in range(4):
        webdriver.ActionChains(first.browser).send_keys(Keys.TAB).perform()
        active = first.browser.switch_to.active_element
        order.append(active.get_attribute("id") or active.tag_name)
    assert order == ["summary", "log", "name", "text"]

    first.browser.get(server.url())
    assert first.browser.execute_script(unlabelled) == 0

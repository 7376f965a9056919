"""The Django tutorial, step by step: every file and command of the page, with two users in Chromium."""

from __future__ import annotations

import contextlib
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser import chromium
from tests.docs.walk import Reader, running, steps
from tests.redis_server import free_port
from tests.serving import DEADLINE, ROOT

PAGE = ROOT / "docs" / "tutorial" / "django.md"


class Visitor:
    """A user in a browser of his own."""

    def __init__(self, browser: webdriver.Chrome, address: str, name: str) -> None:
        self.browser = browser
        browser.get(f"http://{address}/room/lobby/")
        self.type("[name=username]", name)
        self.type("[name=password]", "correct-horse" + Keys.ENTER)

    def type(self, selector: str, text: str) -> None:
        self.browser.find_element(By.CSS_SELECTOR, selector).send_keys(text)

    def is_connected(self, wanted: bool) -> None:
        """Wait until the page may send, or may not."""
        button = self.browser.find_element(By.ID, "send")
        WebDriverWait(self.browser, DEADLINE, 0.05).until(lambda _: button.is_enabled() == wanted)

    def sees(self, text: str) -> None:
        shown = lambda _: text in self.browser.find_element(By.TAG_NAME, "body").text  # noqa: E731
        wait = WebDriverWait(self.browser, DEADLINE, 0.05, [Exception])
        wait.until(shown, f"no {text!r} in {self.browser.page_source}")


def test_every_step_of_the_page_leads_to_a_chat_with_users(tmp_path: Path, wheels: Path) -> None:
    site, address = tmp_path / "site", f"127.0.0.1:{free_port()}"
    site.mkdir()
    reader = Reader(site, wheels, {"OFFLOAD_BIND": address, "OFFLOAD_RUNTIME_DIR": str(tmp_path / "run")})
    with (
        chromium(tmp_path / "one") as first,
        chromium(tmp_path / "two") as second,
        contextlib.ExitStack() as servers,
    ):
        for step in steps(PAGE):
            command = step.commands[0] if step.commands else ""
            if step.file:
                reader.write(step)
            elif command == "python manage.py runserver":
                servers.enter_context(running(reader, f"{command} {address}"))
                ada, grace = Visitor(first, address, "ada"), Visitor(second, address, "grace")
                for visitor in (ada, grace):
                    visitor.sees("Here: ada, grace")
                ada.type("#text", "hello, grace" + Keys.ENTER)
                grace.sees("ada: hello, grace")
            elif "group_send" in command:
                reader.run(*step.commands)
                ada.sees("shell: hello")
                grace.sees("shell: hello")
            elif command == "python manage.py test":
                assert "Ran 3 tests" in reader.run(*step.commands)
            elif command.startswith("offload "):
                servers.close()
                for visitor in (ada, grace):
                    visitor.is_connected(False)
                with running(reader, command):
                    # Nobody loads a page anew: the open ones come back by themselves, to whichever process.
                    for visitor in (ada, grace):
                        visitor.is_connected(True)
                    ada.sees("Here: ada, grace")
                    grace.type("#text", "hello again" + Keys.ENTER)
                    ada.sees("grace: hello again")
            else:
                reader.run(*step.commands)

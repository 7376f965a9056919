"""The Flask tutorial, step by step: every file and command of the page, in Chromium."""

from __future__ import annotations

import contextlib
from pathlib import Path

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser import chromium
from tests.docs.walk import Reader, running, steps
from tests.redis_server import free_port
from tests.serving import DEADLINE, ROOT

PAGE = ROOT / "docs" / "tutorial" / "flask.md"


def test_every_step_of_the_page_leads_to_a_notification(tmp_path: Path, wheels: Path) -> None:
    site, address = tmp_path / "site", f"127.0.0.1:{free_port()}"
    site.mkdir()
    reader = Reader(site, wheels, {"OFFLOAD_BIND": address, "OFFLOAD_RUNTIME_DIR": str(tmp_path / "run")})
    with chromium(tmp_path / "profile") as browser, contextlib.ExitStack() as servers:

        def sees(text: str) -> None:
            shown = lambda _: text in browser.find_element(By.TAG_NAME, "body").text  # noqa: E731
            WebDriverWait(browser, DEADLINE, 0.05, [Exception]).until(shown, f"no {text!r} in {browser.page_source}")

        for step in steps(PAGE):
            command = step.commands[0] if step.commands else ""
            if step.file:
                reader.write(step)
            elif command.startswith("offload site_app"):
                servers.enter_context(running(reader, command))
                browser.get(f"http://{address}/")
                browser.find_element(By.NAME, "user").send_keys("ada" + Keys.ENTER)
                sees("Hello, ada")
                sees("News: live")
                first = browser.current_window_handle
                browser.switch_to.new_window("window")
                browser.get(f"http://{address}/")
                sees("Hello, ada")
                sees("News: live")
                second = browser.current_window_handle
                browser.find_element(By.CSS_SELECTOR, "button").click()
                browser.switch_to.window(first)
                sees("Your export is ready.")
                browser.switch_to.window(second)
                sees("Hello, ada")
                sees("News: live")
            else:
                reader.run(*step.commands)
                if command.startswith("offload group-send"):
                    for window in (first, second):
                        browser.switch_to.window(window)
                        sees("Your invoice is ready, too.")

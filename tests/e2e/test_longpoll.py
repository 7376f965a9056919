"""The long-polling example, on Redis with two server processes: by requests, and in a browser."""

from __future__ import annotations

import contextlib
import json
import select
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser import chromium
from tests.e2e.test_echo import holder_of_socket
from tests.http.client import Client
from tests.redis_server import RedisServer, redis_server
from tests.serving import DEADLINE, Server, serving

__all__ = ["redis_server"]


@pytest.fixture
def wall(redis_server: RedisServer) -> Iterator[Server]:
    with serving("examples.longpoll.app", "--layer", redis_server.url, workers=2) as server:
        yield server


def test_what_is_said_reaches_those_who_wait_on_both_processes(wall: Server) -> None:
    with contextlib.ExitStack() as stack:
        clients: list[Client] = []
        while {holder_of_socket(wall, client.sock) for client in clients} != set(wall.pids):
            clients.append(stack.enter_context(Client(wall)))
        for _ in range(2):
            for client in clients:
                client.send("GET /messages HTTP/1.1\r\nHost: test\r\n\r\n")
            unanswered = list(clients)
            while unanswered:
                # Some may not wait yet when this is said; they hear the next one.
                say(wall, "hello there")
                ready, _, _ = select.select([client.sock for client in unanswered], [], [], 0.1)
                for client in [client for client in unanswered if client.sock in ready]:
                    assert json.loads(client.read().body) == {"text": "hello there"}
                    unanswered.remove(client)


def say(wall: Server, text: str) -> None:
    with Client(wall) as client:
        fields = "Content-Type: application/x-www-form-urlencoded\r\n"
        assert client.get("/messages", "POST", fields, urlencode({"text": text}).encode()).status == 204


def test_page_shows_what_is_said(wall: Server, tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        browser.get(wall.url("/"))
        field = browser.find_element(By.NAME, "text")

        def shows(text: str) -> bool:
            return text in [item.text for item in browser.find_elements(By.TAG_NAME, "li")]

        def typed(text: str) -> bool:
            # Again where the page did not wait yet.
            field.send_keys(f"{text}\n")
            return shows(text)

        for text in ("first", "second"):
            WebDriverWait(browser, DEADLINE).until(lambda _, text=text: typed(text))

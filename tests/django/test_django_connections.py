"""Database connections of a real server: none is kept by a greenlet that waits for its next task."""

from __future__ import annotations

import os
import threading
import urllib.request
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.redis_server import until
from tests.serving import DEADLINE, Server, read_all, reset, serving

SITE = """
import os
from django.conf import settings
settings.configure(
    SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF="site_of_ages", INSTALLED_APPS=["django_offload"],
    DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE"], "CONN_MAX_AGE": 600,
    }},
    CHANNEL_LAYERS={"default": {"BACKEND": "offload.layers.memory.MemoryLayer", "ROUTING": "site_of_ages.routes"}},
)
import threading
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
from django.db import connection
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from gevent import GreenletExit, Timeout
from offload import route

def count():
    with connection.cursor() as cursor:
        cursor.execute("select 1")
        return cursor.fetchone()[0]

all_here = threading.Barrier(int(os.environ["CLIENTS"]))

def count_together():
    found = count()
    all_here.wait(20)  # so that each needs a greenlet of its own
    return found

def ended_by(request, ending):
    count_together()
    if ending == "timeout":
        with Timeout(0.01):
            threading.Event().wait(60)
    if ending == "streamed-timeout":
        return StreamingHttpResponse(streamed(Timeout))
    if ending == "client-left":
        return StreamingHttpResponse(streamed(None))
    raise {"exception": ValueError, "exit": SystemExit, "kill": GreenletExit}[ending]

def streamed(ending):
    while True:
        yield b"x" * 65536
        count()
        if ending is not None:
            raise ending

urlpatterns = [path("", lambda request: HttpResponse(str(count_together()))), path("<ending>", ended_by)]

def receive(message):
    message.reply_channel.send({"text": str(count_together())})

routes = [route("websocket.receive", receive, path="^/ws")]
"""


def _held(server: Server, database: Path) -> int:
    """How many descriptors of the database the server process has."""
    directory = Path(f"/proc/{server.pids[0]}/fd")
    found = 0
    for entry in directory.iterdir():
        try:
            found += os.readlink(entry) == str(database)
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


def test_idle_greenlets_keep_no_connection(tmp_path: Path) -> None:
    (tmp_path / "site_of_ages.py").write_text(SITE)
    database = tmp_path / "database"
    with serving("site_of_ages", cwd=tmp_path, env={"DATABASE": str(database), "CLIENTS": "10"}) as server:

        def ask() -> None:
            with connect(server.url("/ws", "ws")) as client:
                client.send("x")
                answers.append(client.recv(DEADLINE))
            with urllib.request.urlopen(server.url("/"), timeout=DEADLINE) as response:
                answers.append(response.read().decode())

        answers: list[object] = []
        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert answers == ["1"] * 20
        # Each is closed after its answer has left.
        until(lambda: _held(server, database) == 0, "the connections to be closed")


ENDINGS = ["exception", "exit", "kill", "timeout", "streamed-timeout", "client-left"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_request_keeps_no_connection_however_it_ends(ending: str, tmp_path: Path) -> None:
    (tmp_path / "site_of_ages.py").write_text(SITE)
    database = tmp_path / "database"
    with serving("site_of_ages", cwd=tmp_path, env={"DATABASE": str(database), "CLIENTS": "5"}) as server:
        clients = [server.connect() for _ in range(5)]
        for client in clients:
            client.sendall(f"GET /{ending} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        for client in clients:
            assert client.recv(12) == (b"HTTP/1.1 200" if ending in ENDINGS[-2:] else b"HTTP/1.1 500")
            if ending != "client-left":
                read_all(client)
            reset(client)
        until(lambda: _held(server, database) == 0, "the connections to be closed")

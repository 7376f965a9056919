"""Database connections of a real server: none is kept by a greenlet that waits for its next task."""

from __future__ import annotations

import os
import threading
import urllib.request
from pathlib import Path

from websockets.sync.client import connect

from tests.redis_server import until
from tests.serving import DEADLINE, Server, serving

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
import time
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
from django.db import connection
from django.http import HttpResponse
from django.urls import path
from offload import route

def count():
    with connection.cursor() as cursor:
        cursor.execute("select 1")
        time.sleep(0.05)  # so that others need greenlets of their own
        return cursor.fetchone()[0]

urlpatterns = [path("", lambda request: HttpResponse(str(count())))]
routes = [route("websocket.receive", lambda message: message.reply_channel.send({"text": str(count())}), path="^/ws")]
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
    with serving("site_of_ages", cwd=tmp_path, env={"DATABASE": str(database)}) as server:

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

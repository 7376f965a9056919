"""ORM work of many sockets on PostgreSQL: how many connections it takes, and that nobody sees what is another's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import django
import pytest
from websockets.sync.client import ClientConnection

from tests.postgres_server import PostgresServer
from tests.redis_server import until
from tests.serving import DEADLINE, ROOT, Server
from tests.websocket.sockets import open_socket

psycopg = pytest.importorskip("psycopg")

SITE = """
import json
import os
import sys

if os.environ["DRIVER"] == "psycopg2":
    # Django prefers the newer one.
    sys.modules["psycopg"] = None

from django.conf import settings
settings.configure(
    SECRET_KEY="x", ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF="site_of_many", USE_TZ=True,
    INSTALLED_APPS=[
        "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django_offload",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.locale.LocaleMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "PORT": os.environ["PGPORT"],
        "NAME": "postgres", "USER": "postgres", "OPTIONS": json.loads(os.environ["OPTIONS"]),
    }},
    CHANNEL_LAYERS={"default": {"BACKEND": "offload.layers.memory.MemoryLayer", "ROUTING": "site_of_many.routes"}},
)
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone, translation
from django_offload.decorators import channel_session_user, channel_session_user_from_http
from offload import route

urlpatterns = []

@channel_session_user_from_http
def enter(message):
    request = message.http_request
    message.channel_session["language"] = translation.get_language()
    message.reply_channel.send({"text": json.dumps([request.user.username, translation.get_language()])})

@channel_session_user
def work(message):
    before = [translation.get_language(), timezone.get_current_timezone_name()]
    translation.activate(message.channel_session["language"])
    timezone.activate(message["text"])
    seen = set()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("select set_config('offload.user', %s, true)", [message.user.username])
        User.objects.filter(pk=message.user.pk).update(last_name=message["text"])
        for _ in range(3):
            cursor.execute("select pg_sleep(0.01), current_setting('offload.user')")
            seen.add(cursor.fetchone()[1])
            seen.add(User.objects.get(pk=message.user.pk).username)
            seen.add(message.user.username)
        own = User.objects.get(pk=message.user.pk).last_name
        if message["text"].endswith("Tokyo"):
            transaction.set_rollback(True)
    after = User.objects.get(pk=message.user.pk).last_name
    message.reply_channel.send({"text": json.dumps([
        before, sorted(seen), own, after, translation.get_language(), timezone.get_current_timezone_name(),
    ])})

routes = [route("websocket.connect", enter), route("websocket.receive", work)]
"""

PREPARE = """
import site_of_many
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
call_command("migrate", verbosity=0)
User.objects.all().delete()
users = User.objects.bulk_create([User(username=f"user{number}", password="!") for number in range(200)])
for user in users:
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    print(session.session_key)
"""

SOCKETS = 200
LANGUAGES = ["de", "fr", "es", "en"]
ZONES = ["Asia/Tokyo", "Europe/Paris", "America/Lima"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    # What pytest's own directories lie in does not let other users pass.
    with tempfile.TemporaryDirectory(prefix="offload-test-") as directory:
        server = PostgresServer(Path(directory))
        yield server
        server.kill()


def test_many_sockets_share_few_connections_and_nothing_else(
    postgres: PostgresServer, tmp_path: Path, driver: Driver
) -> None:
    (tmp_path / "site_of_many.py").write_text(SITE)
    env = {
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "PGPORT": str(postgres.port),
        "DRIVER": driver.name,
        "OPTIONS": json.dumps(driver.options),
    }
    keys = subprocess.run(
        [sys.executable, "-c", PREPARE],
        cwd=tmp_path, env={**os.environ, **env}, check=True, capture_output=True, text=True, timeout=DEADLINE,
    ).stdout.split()  # fmt: skip
    watcher = psycopg.connect(postgres.url, autocommit=True)
    with contextlib.ExitStack() as stack:
        stack.callback(watcher.close)
        others = _connections(watcher)
        server = Server("site_of_many", *driver.flags, cwd=tmp_path, env=env)
        stack.callback(server.stop)

        def enter(number: int) -> ClientConnection:
            headers = {"Cookie": f"sessionid={keys[number]}", "Accept-Language": LANGUAGES[number % 4]}
            client = stack.enter_context(open_socket(server, "/", additional_headers=headers))
            assert json.loads(client.recv(DEADLINE)) == [f"user{number}", LANGUAGES[number % 4]]
            return client

        with ThreadPoolExecutor(20) as threads:
            clients = list(threads.map(enter, range(SOCKETS)))
        most = 0
        for turn in range(2):
            for number, client in enumerate(clients):
                client.send(ZONES[(number + turn) % 3])
            for number, client in enumerate(clients):
                zone = ZONES[(number + turn) % 3]
                most = max(most, _connections(watcher) - others)
                before, seen, own, after, language, current = json.loads(client.recv(DEADLINE))
                # Nothing of what another consumer has set is there, nor what an earlier one has.
                assert before == ["en-us", "America/Chicago"]
                assert seen == [f"user{number}"]
                assert (own, language, current) == (zone, LANGUAGES[number % 4], zone)
                assert after == (ZONES[(number + turn - 1) % 3] if turn and zone == "Asia/Tokyo" else
                                 "" if zone == "Asia/Tokyo" else zone)  # fmt: skip
        # With a driver that blocks, one consumer at a time would have one.
        assert 1 < most <= driver.limit
        for client in clients:
            client.close()
        until(lambda: _connections(watcher) == others, "the connections to be closed")


def _connections(watcher: Any) -> int:
    [count] = watcher.execute("select count(*) from pg_stat_activity where backend_type = 'client backend'").fetchone()
    return int(count)


class Driver:
    """How a site reaches the database, and how many connections that may take."""

    def __init__(self, name: str, limit: int, options: dict[str, Any], *flags: str) -> None:
        self.name = name
        self.limit = limit
        self.options = options
        self.flags = flags


DRIVERS = [
    Driver("psycopg2", 25, {}, "--pool-size", "25"),
    Driver("psycopg", 25, {}, "--pool-size", "25"),
]
if django.VERSION >= (5, 1):
    DRIVERS.append(Driver("psycopg", 10, {"pool": {"min_size": 0, "max_size": 10, "max_idle": 0.5, "timeout": 20}}))


@pytest.fixture(params=DRIVERS, ids=["psycopg2", "psycopg", "pool"][: len(DRIVERS)])
def driver(request: pytest.FixtureRequest) -> Driver:
    if request.param.name == "psycopg2":
        pytest.importorskip("psycopg2")
    found: Driver = request.param
    return found

"""`offload.User`, and what ends the connections of users."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User as Account
from django.test import TestCase, override_settings
from websockets.exceptions import ConnectionClosed

from django_offload.decorators import channel_session_user_from_http, http_session, login_required
from django_offload.testing import WebSocketClient, apply_routes
from offload import User, route
from offload.layers.words.names import check_group
from tests.serving import DEADLINE, ROOT, Server
from tests.websocket.sockets import open_socket

DJANGOS = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
EVERYTHING = ["logout", "password_change", "deactivation", "session_expiry"]


@channel_session_user_from_http
def open_to_all(message: Any) -> None:
    pass


@login_required
def members(message: Any) -> None:
    pass


@http_session
def by_session(message: Any) -> None:
    message.reply_channel.send({"text": str(message.http_session and message.http_session.get("colour"))})


ROUTES = [
    route("websocket.connect", open_to_all, path="^/open$"),
    route("websocket.connect", members, path="^/members$"),
    route("websocket.connect", by_session, path="^/session$"),
]


@pytest.fixture(autouse=True)
def _routed(db: None, channel_layers: None) -> Any:
    with apply_routes(ROUTES), override_settings(MIDDLEWARE=DJANGOS):
        yield


def connected(user: Account | None, path: str = "/open") -> WebSocketClient:
    client = WebSocketClient()
    if user is not None:
        client.force_login(user)
    assert client.connect(path)
    return client


@pytest.mark.parametrize("key", [7, "ada@example.org", "x" * 500, "é", "", "a b"])
def test_a_user_may_have_any_key(key: object) -> None:
    client, other = connected(None), connected(None)
    check_group(User(key).group.name)
    User(key).add(client.reply_channel)
    User(key).send({"text": "hello"})
    assert (client.receive(), other.receive()) == ("hello", None)
    User(key).discard(client.reply_channel)
    User(key).send({"text": "hello"})
    assert client.receive() is None
    assert User(str(key)).group.name == User(key).group.name


def test_a_user_can_be_disconnected() -> None:
    one, two, other = connected(None), connected(None), connected(None)
    for client in (one, two):
        User(7).add(client.reply_channel)
    User(7).disconnect()
    assert [client.close_code for client in (one, two, other)] == [4001, 4001, None]
    User(8).add(other.reply_channel)
    User(8).disconnect(code=4009)
    assert other.close_code == 4009


def test_users_join_by_themselves_where_that_is_set(user: Account) -> None:
    before = connected(user)
    with override_settings(OFFLOAD_USERS=True):
        one, two, stranger = connected(user), connected(user), connected(None)
    User(user.pk).send({"text": "hello"})
    assert [client.receive() for client in (before, one, two, stranger)] == [None, "hello", "hello", None]


def test_a_logout_closes_what_needs_a_login(user: Account) -> None:
    here, elsewhere, free = connected(user, "/members"), connected(user, "/members"), connected(user)
    here.http.logout()
    assert [client.close_code for client in (here, elsewhere, free)] == [4001, None, None]


def test_a_logout_closes_all_of_its_session_where_that_is_set(user: Account) -> None:
    with override_settings(OFFLOAD_USERS=True, OFFLOAD_DISCONNECT_AT=["logout"]):
        here, elsewhere, stranger = connected(user), connected(user), connected(None)
        here.http.logout()
    assert [client.close_code for client in (here, elsewhere, stranger)] == [4001, None, None]


@pytest.mark.parametrize("end", ["password_change", "deactivation", "deletion"])
def test_what_ends_a_users_logins_closes_all_of_his_connections(end: str, user: Account) -> None:
    def bring_about() -> None:
        with TestCase.captureOnCommitCallbacks(execute=True):
            if end == "password_change":
                user.set_password("another engine")
                user.save()
            elif end == "deactivation":
                user.is_active = False
                user.save(update_fields=["is_active"])
            else:
                user.delete()

    other = Account.objects.create_user("grace")
    with override_settings(OFFLOAD_USERS=True, OFFLOAD_DISCONNECT_AT=EVERYTHING):
        one, two, third = connected(user), connected(user), connected(other)
        with TestCase.captureOnCommitCallbacks(execute=True):
            user.first_name = "Ada"
            user.save()
        assert one.close_code is None
        bring_about()
    assert [client.close_code for client in (one, two, third)] == [4001, 4001, None]


def test_none_of_that_happens_by_itself(user: Account) -> None:
    with override_settings(OFFLOAD_USERS=True):
        client = connected(user)
        with TestCase.captureOnCommitCallbacks(execute=True):
            user.set_password("another engine")
            user.is_active = False
            user.save()
        client.http.logout()
    assert client.close_code is None


@pytest.mark.parametrize("middleware", [[], DJANGOS])
def test_a_session_key_in_the_query_counts_where_that_is_set(middleware: list[str]) -> None:
    client = WebSocketClient()
    session = client.session
    session["colour"] = "red"
    session.save()
    key = session.session_key
    with override_settings(MIDDLEWARE=middleware):
        stranger = WebSocketClient()
        assert stranger.connect(f"/session?session_key={key}")
        assert stranger.receive() == "None"
        with override_settings(OFFLOAD_SESSION_KEY_IN_QUERY=True):
            stranger = WebSocketClient()
            assert stranger.connect(f"/session?session_key={key}")
            assert stranger.receive() == "red"


SITE = """
import os
from django.conf import settings
settings.configure(
    SECRET_KEY="x", ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF="site_of_users",
    INSTALLED_APPS=[
        "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django_offload",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.abspath("db")}},
    CACHES={"default": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": "cache"}},
    SESSION_ENGINE="django.contrib.sessions.backends." + os.environ.get("SESSIONS", "db"), SESSION_FILE_PATH=".",
    SESSION_COOKIE_AGE=int(os.environ.get("AGE", 1000)),
    CHANNEL_LAYERS={"default": {"URL": "ipc://" + os.path.abspath("run/hub.sock"), "ROUTING": "site_of_users.routes"}},
    OFFLOAD_USERS=True, OFFLOAD_DISCONNECT_AT=["logout", "session_expiry"],
)
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
from django.contrib.auth import logout
from django.http import HttpResponse
from django.urls import path
from offload import route

def leave(request):
    logout(request)
    return HttpResponse()

urlpatterns = [path("logout", leave)]
routes = [route("websocket.receive", lambda message: message.reply_channel.send({"text": message["text"]}))]
"""

PREPARE = """
import sys
import site_of_users
from datetime import timedelta
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
call_command("migrate", verbosity=0)
user = User.objects.create_user("ada")
for seconds in (1000, 1000, 3):
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.set_expiry(seconds)
    session.create()
    print(session.session_key)
print(user.pk)
"""

FROM_A_SCRIPT = """
import sys
from offload import User, configure
configure(sys.argv[1])
User(int(sys.argv[2])).send({"text": "from a script"})
"""


def test_users_are_reached_from_anywhere_and_leave_with_their_session(tmp_path: Path) -> None:
    (tmp_path / "site_of_users.py").write_text(SITE)
    (tmp_path / "run").mkdir(mode=0o700)
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}

    def python(code: str, *arguments: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path, env={**os.environ, **env}, check=True, capture_output=True, text=True, timeout=DEADLINE,
        ).stdout.split()  # fmt: skip

    server = Server("site_of_users", workers=2, cwd=tmp_path, env=env)
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        one, two, brief, pk = python(PREPARE)

        def opened(key: str) -> Any:
            return stack.enter_context(open_socket(server, "/", additional_headers={"Cookie": f"sessionid={key}"}))

        first, second = [opened(one) for _ in range(4)], [opened(two) for _ in range(4)]
        short = opened(brief)
        python(FROM_A_SCRIPT, f"ipc://{tmp_path}/run/hub.sock", pk)
        for client in (*first, *second, short):
            assert client.recv(DEADLINE) == "from a script"
        # Nobody talks to it; the process that holds it looks at its session.
        with pytest.raises(ConnectionClosed) as closed:
            short.recv(DEADLINE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4001
        server.ask(f"GET /logout HTTP/1.0\r\nHost: 127.0.0.1\r\nCookie: sessionid={one}\r\n\r\n".encode())
        for client in first:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(DEADLINE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4001
        for client in second:
            client.send("still here")
            assert client.recv(DEADLINE) == "still here"


EXPIRING = """
import site_of_users
import os
import time
from datetime import timedelta
from importlib import import_module
from unittest import mock
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.core.management import call_command
from django.utils import timezone
call_command("migrate", verbosity=0)
user = User.objects.create_user("ada")

def session(age, passed):
    made = import_module(settings.SESSION_ENGINE).SessionStore()
    made[SESSION_KEY] = str(user.pk)
    made[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    made[HASH_SESSION_KEY] = user.get_session_auth_hash()
    made.set_expiry(age)
    with mock.patch("django.core.signing.time.time", return_value=time.time() - passed):
        made.save()
    if passed and os.environ["SESSIONS"] == "file":
        os.utime("sessionid" + made.session_key, (time.time() - passed,) * 2)
    elif passed:
        Session.objects.filter(pk=made.session_key).update(expire_date=timezone.now() + timedelta(seconds=age - passed))
        cache.clear()
    print(made.session_key)

# Of the backends that know it, this one was used so long ago.
session(1000, 996) if settings.SESSION_COOKIE_AGE == 1000 else session(None, 0)
session(1000, 0)
"""


@pytest.mark.parametrize("sessions", ["db", "cached_db", "cache", "file", "signed_cookies"])
def test_a_session_ends_its_connections_when_it_expires(sessions: str, tmp_path: Path) -> None:
    (tmp_path / "site_of_users.py").write_text(SITE)
    (tmp_path / "run").mkdir(mode=0o700)
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "SESSIONS": sessions}
    if sessions == "cache":
        env["AGE"] = "5"
    server = Server("site_of_users", cwd=tmp_path, env=env)
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        brief, lasting = subprocess.run(
            [sys.executable, "-c", EXPIRING],
            cwd=tmp_path, env={**os.environ, **env}, check=True, capture_output=True, text=True, timeout=DEADLINE,
        ).stdout.split()  # fmt: skip
        one, other = (
            stack.enter_context(open_socket(server, "/", additional_headers={"Cookie": f"sessionid={key}"}))
            for key in (brief, lasting)
        )
        with pytest.raises(ConnectionClosed) as closed:
            one.recv(DEADLINE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4001
        other.send("still here")
        assert other.recv(DEADLINE) == "still here"


IN_A_CHILD = """
import os, sys, threading
import site_of_users
from types import SimpleNamespace
from django.contrib.sessions.backends.cache import SessionStore
from django_offload.users import join
from offload.consumers.configuration import configure, layer_for

configure("memory://")
ended = threading.Event()
session = SessionStore()
session.set_expiry(1)
session.save()
request = SimpleNamespace(user=SimpleNamespace(pk=7, is_authenticated=True), session=session)

def follow():
    channel = layer_for().new_channel("websocket.send")
    layer_for().attach(channel, lambda delivery: ended.set())
    join(request, channel)

follow()
if (child := os.fork()) == 0:
    follow()
    os._exit(0 if ended.wait(20) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), ended.wait(20))
"""


def test_a_forked_process_follows_sessions_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "site_of_users.py").write_text(SITE)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", IN_A_CHILD],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "SESSIONS": "cache"},
        check=True, capture_output=True, text=True, timeout=3 * DEADLINE,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("0 True\n", "")

"""The handshake passes through the project's MIDDLEWARE, in the server and in workers (``--dispatch layer``)."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import subprocess
import sys
from collections.abc import Iterator

import django
import pytest
from websockets.sync.client import ClientConnection

from tests.serving import DEADLINE, ROOT, Server
from tests.websocket.sockets import open_socket

SETTINGS = """
from http.client import HTTPMessage
from pathlib import Path

SECRET_KEY = "for tests only"
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
ROOT_URLCONF = "project.urls"
LOGIN_URL = "/login/"
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django.contrib.messages",
    "django_offload",
]
MIDDLEWARE = [
    "project.middleware.Outermost",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "project.middleware.LoginRequired",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "project.middleware.tenant",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(__file__).parent.parent / "db"}}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "offload.layers.ipc.IPCLayer",
        "CONFIG": {"path": str(Path(__file__).parent.parent / "run" / "hub.sock")},
        "ROUTING": "project.routing.channel_routing",
    },
}
"""

MIDDLEWARE = """
from django.http import HttpResponse, StreamingHttpResponse
from django.utils import timezone

try:
    from django.contrib.auth.middleware import LoginRequiredMiddleware as LoginRequired
except ImportError:  # before Django 5.1
    from django.shortcuts import redirect

    class LoginRequired:
        def __init__(self, get_response):
            self.get_response = get_response

        def __call__(self, request):
            return self.get_response(request)

        def process_view(self, request, view, arguments, keywords):
            if getattr(view, "login_required", True) and not request.user.is_authenticated:
                return redirect(f"/login/?next={request.path}")

class Outermost:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        if "maintenance" in request.GET:
            response = HttpResponse("back at noon", status=503, headers={"Retry-After": "3600"})
        elif "streamed" in request.GET:
            response = StreamingHttpResponse([b"one ", b"two"], status=410)
        elif "broken" in request.GET:
            raise ValueError("the middleware is broken")
        else:
            response = self.get_response(request)
        if "late" in request.GET:
            return HttpResponse("too late", status=402)
        response["X-Seen"] = "yes"
        return response

def tenant(get_response):
    def with_tenant(request):
        request.tenant = request.get_host().partition(":")[0]
        with timezone.override("Asia/Tokyo"):
            return get_response(request)
    return with_tenant
"""

ROUTING = """
from offload import route, route_class

channel_routing = [
    route("websocket.connect", "project.consumers.show", path="^/show/(?P<room>[a-z]+)$"),
    route("websocket.connect", "project.consumers.accept_first", path="^/accept-first$"),
    route("websocket.connect", "project.consumers.greet_later", path="^/greet-later$"),
    route("websocket.connect", "project.consumers.log_in", path="^/log-in$"),
    route("websocket.connect", "project.consumers.refuse", path="^/refuse/(?P<how>[a-z]+)$"),
    route("websocket.connect", "project.consumers.untouched", path="^/untouched$"),
    route("websocket.receive", "project.consumers.echo", path="^/receive-only$"),
    route_class("project.consumers.Members", path="^/members$"),
    route_class("project.consumers.Open", path="^/open$"),
]
"""

CONSUMERS = """
import json

from django.contrib import auth
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import Http404
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation
from django.utils.decorators import method_decorator

from django_offload.decorators import http_session
from offload import DenyConnection
from offload.consumers import WebsocketConsumer

def login_not_required(consumer):
    consumer.login_required = False
    return consumer

@login_not_required
def show(message, room):
    request = message.http_request
    request.session["visits"] = request.session.get("visits", 0) + 1
    message.reply_channel.send({"text": json.dumps([
        room, request.method, request.path, request.GET.get("a"), request.user.username, request.tenant,
        request.LANGUAGE_CODE, translation.get_language(), timezone.get_current_timezone_name(),
        request.session["visits"], request.resolver_match.kwargs, request.build_absolute_uri(),
    ])})

@login_not_required
def accept_first(message):
    message.http_request.session["colour"] = "red"
    message.reply_channel.send({"accept": True, "subprotocol": "v1"})
    message.reply_channel.send({"text": "first"})

@login_not_required
def greet_later(message):
    message.reply_channel.send({"text": "later"}, delay=0.2)

@login_not_required
@http_session
def log_in(message):
    auth.login(message.http_request, User.objects.get(username="ada"))

@login_not_required
def refuse(message, how):
    raise {"deny": DenyConnection, "denied": PermissionDenied, "missing": Http404, "fail": ValueError}[how]

@login_not_required
def untouched(message):
    with CaptureQueriesContext(connection) as queries:
        message.http_request.user, message.http_request.session
    message.reply_channel.send({"text": str(len(queries))})

def echo(message):
    message.reply_channel.send({"text": str(message.http_request)})

class Members(WebsocketConsumer):
    def connect(self, message):
        self.send(f"hello, {message.http_request.user.username}")

class Open(WebsocketConsumer):
    @method_decorator(login_not_required)
    def dispatch(self, message, **kwargs):
        return super().dispatch(message, **kwargs)

    def connect(self, message):
        pass
"""

PREPARE = """
import django
django.setup()
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
call_command("migrate", verbosity=0)
user = User.objects.create_user("ada")
session = SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.create()
print(session.session_key)
"""


class Site:
    """A running project, and the session key of a user who is logged in."""

    def __init__(self, server: Server, key: str) -> None:
        self.server = server
        self.key = key

    def open(
        self, path: str, key: str = "", subprotocols: list[str] | None = None, **headers: str
    ) -> contextlib.AbstractContextManager[ClientConnection]:
        if key:
            headers["Cookie"] = f"sessionid={key}"
        return open_socket(self.server, path, additional_headers=headers, subprotocols=subprotocols)

    def refusal(self, path: str) -> tuple[int, http.client.HTTPMessage, str]:
        """The answer to a handshake, as it is; clients of WebSockets follow redirects."""
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=DEADLINE)
        with contextlib.closing(connection):
            key = base64.b64encode(bytes(16)).decode()
            fields = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
            connection.request("GET", path, headers={"Upgrade": "websocket", "Connection": "Upgrade", **fields})
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()


@pytest.fixture(scope="module", params=["local", "layer"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    project = directory / "project"
    project.mkdir()
    (directory / "run").mkdir(mode=0o700)
    files = {"settings": SETTINGS, "middleware": MIDDLEWARE, "routing": ROUTING, "consumers": CONSUMERS}
    files["urls"] = "urlpatterns = []\n"
    files["wsgi"] = "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"
    for name, content in {"__init__": "", **files}.items():
        (project / f"{name}.py").write_text(content)
    env = {"PYTHONPATH": f"{directory}:{ROOT}"}
    django_env = {**env, "DJANGO_SETTINGS_MODULE": "project.settings"}
    key = subprocess.run(
        [sys.executable, "-c", PREPARE],
        cwd=directory, env={**os.environ, **django_env}, check=True, capture_output=True, text=True, timeout=DEADLINE,
    ).stdout.strip()  # fmt: skip
    with contextlib.ExitStack() as stack:
        if request.param == "layer":
            layer = f"ipc://{directory}/run/hub.sock"
            server = Server("project.routing", "--dispatch", "layer", "--layer", layer, cwd=directory, env=env)
            stack.callback(server.stop)
            stack.callback(Server("worker", "project.wsgi", cwd=directory, env=django_env).stop)
        else:
            server = Server("project.wsgi", cwd=directory, env=django_env)
            stack.callback(server.stop)
        yield Site(server, key)


def test_the_request_has_what_the_middleware_gives(site: Site) -> None:
    with site.open("/show/tea?a=1", site.key, **{"Accept-Language": "de"}) as client:
        host = f"{site.server.host}:{site.server.port}"
        assert client.recv(DEADLINE) == (
            '["tea", "GET", "/show/tea", "1", "ada", "127.0.0.1", "de", "de", "Asia/Tokyo", 1, {"room": "tea"}, '
            f'"http://{host}/show/tea?a=1"]'
        )


def test_the_cookie_of_a_new_session_travels_in_the_101(site: Site) -> None:
    with site.open("/show/tea") as client:
        assert client.response is not None
        cookie = client.response.headers["Set-Cookie"]
        assert cookie.startswith("sessionid=")
        assert "HttpOnly" in cookie
        assert ', 1, {"room"' in str(client.recv(DEADLINE))
    with site.open("/show/tea", cookie[len("sessionid=") :].partition(";")[0]) as client:
        assert ', 2, {"room"' in str(client.recv(DEADLINE))


def test_the_cookie_travels_with_an_acceptance_by_hand(site: Site) -> None:
    with site.open("/accept-first", subprotocols=["v1"]) as client:
        assert client.response is not None
        assert client.response.headers["Set-Cookie"].startswith("sessionid=")
        assert client.subprotocol == "v1"
        assert client.recv(DEADLINE) == "first"


def test_a_delayed_message_decides_nothing(site: Site) -> None:
    with site.open("/greet-later") as client:
        assert client.response is not None
        assert client.response.headers["X-Seen"] == "yes"
        assert client.recv(DEADLINE) == "later"
    assert site.refusal("/greet-later?late")[::2] == (402, "too late")


def test_other_fields_travel_in_the_101_but_none_of_a_body(site: Site) -> None:
    with site.open("/open") as client:
        assert client.response is not None
        headers = client.response.headers
        assert headers["X-Seen"] == "yes"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Content-Length" not in headers
        assert "Content-Type" not in headers
        assert "Set-Cookie" not in headers


def test_a_login_in_the_connect_consumer_logs_the_browser_in(site: Site) -> None:
    with site.open("/log-in") as client:
        assert client.response is not None
        cookies = client.response.headers.get_all("Set-Cookie")
    [key] = [cookie[len("sessionid=") :].partition(";")[0] for cookie in cookies if cookie.startswith("sessionid=")]
    with site.open("/members", key) as client:
        assert client.recv(DEADLINE) == "hello, ada"


def test_login_required_middleware_refuses_with_its_redirect(site: Site) -> None:
    status, headers, _ = site.refusal("/members")
    assert (status, headers["Location"]) == (302, "/login/?next=/members")
    with site.open("/members", site.key) as client:
        assert client.recv(DEADLINE) == "hello, ada"


def test_middleware_guards_a_path_without_a_connect_consumer(site: Site) -> None:
    assert site.refusal("/receive-only")[0] == 302
    with site.open("/receive-only", site.key) as client:
        client.send("x")
        assert client.recv(DEADLINE) == "None"


def test_a_middlewares_answer_reaches_the_client_whole(site: Site) -> None:
    status, headers, body = site.refusal("/open?maintenance")
    assert (status, body) == (503, "back at noon")
    assert headers["Retry-After"] == "3600"
    assert headers["X-Seen"] == "yes"
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Connection"] == "close"
    assert site.refusal("/open?streamed")[::2] == (410, "one two")


def test_middleware_that_fails_refuses_with_500(site: Site) -> None:
    assert site.refusal("/open?broken")[0] == 500


def test_an_answer_after_the_consumer_refuses_too(site: Site) -> None:
    assert site.refusal("/open?late")[::2] == (402, "too late")


@pytest.mark.parametrize(("how", "status"), [("deny", 403), ("denied", 403), ("missing", 404), ("fail", 500)])
def test_what_the_consumer_raises_is_a_status(site: Site, how: str, status: int) -> None:
    assert site.refusal(f"/refuse/{how}")[0] == status


def test_nothing_is_read_from_the_database_before_a_consumer_asks(site: Site) -> None:
    with site.open("/untouched", site.key) as client:
        assert client.recv(DEADLINE) == "0"


def test_login_not_required_is_djangos_own_mark() -> None:
    if django.VERSION < (5, 1):
        pytest.skip("Django 5.1 brought login_not_required")
    from django.contrib.auth.decorators import login_not_required

    assert login_not_required(lambda: None).login_required is False  # type: ignore[attr-defined]

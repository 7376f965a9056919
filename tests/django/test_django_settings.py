"""From Django's settings to a configured offload: layers, routings, Origins, connections, checks."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import User
from django.core.cache import caches
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection, connections, transaction
from django.http import HttpResponse
from django.test import Client as RequestClient
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views import View
from testsite.tools import Client

from django_offload import checks, conf
from django_offload.connections import give_back
from django_offload.decorators import login_required
from django_offload.origins import origin_is_allowed
from django_offload.views import accept_websocket, require_websocket
from offload import route, route_class
from offload.consumers import WebsocketConsumer, configuration
from offload.consumers.configuration import layer_for, router_for
from offload.exceptions import ConfigurationError
from offload.layers.ipc import default_path
from offload.layers.memory import MemoryLayer
from tests.serving import ROOT

MEMORY = "offload.layers.memory.MemoryLayer"


# Layers and routings


def test_channel_layers_are_built_from_the_settings_when_first_used() -> None:
    layers = {"default": {"BACKEND": MEMORY}, "images": {"BACKEND": MEMORY, "CONFIG": {"capacity": 7}}}

    with override_settings(CHANNEL_LAYERS=layers):
        images = layer_for("images")

        assert isinstance(images, MemoryLayer)
        assert images.capacity == 7
        assert layer_for("images") is images
        assert layer_for() is not images


def test_channel_layers_may_be_addresses() -> None:
    with override_settings(CHANNEL_LAYERS={"default": {"URL": "memory://?capacity=7"}}):
        assert layer_for().capacity == 7


def test_routing_is_a_dotted_path_or_a_list() -> None:
    def consumer(message: Any) -> None: ...

    layers = {
        "default": {"BACKEND": MEMORY, "ROUTING": "testsite.routing.channel_routing"},
        "images": {"BACKEND": MEMORY, "ROUTING": [route("images.resize", consumer)]},
        "silent": {"BACKEND": MEMORY},
    }

    with override_settings(CHANNEL_LAYERS=layers):
        assert router_for().channels == {"websocket.receive"}
        assert router_for("images").channels == {"images.resize"}
        assert router_for("silent").channels == set()


def test_default_routing_lies_beside_the_root_urls() -> None:
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": MEMORY}}):
        assert router_for().channels == {"websocket.receive"}


@pytest.mark.parametrize(
    ("urlconf", "routing"),
    [
        ("testsite.urls", "testsite.routing.channel_routing"),
        ("testsite.inner.urls", None),
        ("no_such_project.urls", None),
        ("urls_at_the_top", None),
        (None, None),
    ],
)
def test_beside_root_urls_is_looked_for_in_their_package(urlconf: str | None, routing: str | None) -> None:
    with override_settings(ROOT_URLCONF=urlconf):
        assert conf.beside_root_urls() == routing


WRONG = [
    (
        ["redis"],
        "CHANNEL_LAYERS is <list>, not a dict; "
        'write CHANNEL_LAYERS = {"default": {"BACKEND": "offload.layers.ipc.IPCLayer"}}',
    ),
    (
        {"default": "redis://127.0.0.1"},
        "CHANNEL_LAYERS['default'] is 'redis://127.0.0.1', not a dict; "
        'write {"BACKEND": "offload.layers.ipc.IPCLayer"}',
    ),
    (
        {"default": {"BACKEND": MEMORY, "ROUTES": []}},
        "CHANNEL_LAYERS['default'] has the unknown key 'ROUTES'; did you mean 'ROUTING'?",
    ),
    (
        {"default": {"BACKEND": MEMORY, "TIMEOUT": 3}},
        "CHANNEL_LAYERS['default'] has the unknown key 'TIMEOUT'; known are BACKEND, CONFIG, ROUTING, TEST_CONFIG, URL",
    ),
    (
        {"default": {"ROUTING": "testsite.routing.channel_routing"}},
        "CHANNEL_LAYERS['default'] has no BACKEND; use one of offload.layers.ipc.IPCLayer, "
        "offload.layers.redis.RedisLayer, offload.layers.memory.MemoryLayer",
    ),
    (
        {"default": {"BACKEND": 5}},
        "CHANNEL_LAYERS['default'] has the BACKEND 5, not a dotted path; use one of offload.layers.ipc.IPCLayer, "
        "offload.layers.redis.RedisLayer, offload.layers.memory.MemoryLayer",
    ),
    (
        {"default": {"BACKEND": MEMORY, "CONFIG": [1]}},
        "CHANNEL_LAYERS['default'] has the CONFIG <list>, not a dict of the backend's keyword arguments",
    ),
    (
        {"default": {"BACKEND": MEMORY, "ROUTING": 5}},
        "CHANNEL_LAYERS['default'] has the ROUTING 5; "
        'write the dotted path "project.routing.channel_routing", or a list',
    ),
    (
        {"default": {"URL": "memory://", "CONFIG": {}}},
        "CHANNEL_LAYERS['default'] has both a URL and a BACKEND or CONFIG; keep one of the two",
    ),
    (
        {"default": {"URL": 6379}},
        "CHANNEL_LAYERS['default'] has the URL 6379; write an address such as 'redis://127.0.0.1:6379/0'",
    ),
]
WRONG += [
    (
        {"default": {"BACKEND": backend}},
        f"CHANNEL_LAYERS['default'] has the BACKEND {backend!r} of Channels; write 'offload.layers.{successor}'",
    )
    for backend, successor in [
        ("asgi_redis.RedisChannelLayer", "redis.RedisLayer"),
        ("asgi_redis.core.RedisChannelLayer", "redis.RedisLayer"),
        ("channels_redis.core.RedisChannelLayer", "redis.RedisLayer"),
        ("asgi_ipc.IPCChannelLayer", "ipc.IPCLayer"),
        ("asgiref.inmemory.ChannelLayer", "memory.MemoryLayer"),
        ("channels.layers.InMemoryChannelLayer", "memory.MemoryLayer"),
    ]
]
WRONG += [
    (
        {"default": {"BACKEND": "offload.layers.redis.RedisLayer", "CONFIG": {"symmetric_encryption_keys": ["x"]}}},
        "CHANNEL_LAYERS['default'] has 'symmetric_encryption_keys' of Channels in its CONFIG; write 'encryption_keys'",
    ),
    (
        {"default": {"BACKEND": MEMORY, "TEST_CONFIG": 5}},
        "CHANNEL_LAYERS['default'] has the TEST_CONFIG 5, not a dict of the backend's keyword arguments",
    ),
]
UNFIT = [
    (
        {"default": {"BACKEND": "offload.layers.memory.MemoryLyer"}},
        "the BACKEND of CHANNEL_LAYERS['default'] is 'offload.layers.memory.MemoryLyer', "
        "but module 'offload.layers.memory' has no 'MemoryLyer'; did you mean 'MemoryLayer'?",
    ),
    (
        {"default": {"BACKEND": "no_such.layers.Layer"}},
        "the BACKEND of CHANNEL_LAYERS['default'] is 'no_such.layers.Layer', but there is no module 'no_such'",
    ),
    (
        {"default": {"BACKEND": "collections.OrderedDict"}},
        "the BACKEND of CHANNEL_LAYERS['default'] is 'collections.OrderedDict', which is no layer of offload; use one "
        "of offload.layers.ipc.IPCLayer, offload.layers.redis.RedisLayer, offload.layers.memory.MemoryLayer",
    ),
    (
        {"default": {"BACKEND": MEMORY, "CONFIG": {"capcity": 5}}},
        "layer 'memory' has no setting 'capcity'; did you mean 'capacity'?",
    ),
    (
        {"default": {"URL": "rdis://127.0.0.1"}},
        "layer address 'rdis://127.0.0.1' has the unknown scheme 'rdis'; did you mean 'redis'?",
    ),
]


@pytest.mark.parametrize(("layers", "message"), WRONG + UNFIT)
def test_wrong_channel_layers_are_told_in_one_sentence_when_first_used(layers: Any, message: str) -> None:
    with override_settings(CHANNEL_LAYERS=layers):
        with pytest.raises(ConfigurationError) as caught:
            layer_for()

        assert str(caught.value) == message


@pytest.mark.parametrize("layers", [None, {}])
def test_without_channel_layers_the_default_is_ipc_with_the_routing_beside_the_urls(layers: Any) -> None:
    with override_settings(CHANNEL_LAYERS=layers):
        assert conf.entries() == {"default": {"URL": "ipc:"}}
        assert conf.problems() == {}
        assert router_for().channels == {"websocket.receive"}


@pytest.mark.parametrize(
    "entry",
    [
        {"URL": "ipc:?capacity=7"},
        {"BACKEND": "offload.layers.ipc.IPCLayer", "CONFIG": {"capacity": 7}},
        {"BACKEND": "offload.layers.ipc.IPCLayer", "CONFIG": {"capacity": 7, "path": None}},
    ],
)
@pytest.mark.parametrize("here", [True, False])
def test_ipc_layer_is_the_projects_wherever_a_process_was_started(
    entry: dict[str, Any], here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "testsite.settings")
    monkeypatch.chdir(Path(__file__).parent if here else tmp_path)
    with override_settings(CHANNEL_LAYERS={"default": entry}):
        layer: Any = layer_for()

        assert layer.path == default_path(str(Path(__file__).parent))
        assert layer.capacity == 7


def test_ipc_layer_is_where_the_settings_say(tmp_path: Path) -> None:
    path = str(tmp_path / "hub.sock")
    for entry in ({"URL": f"ipc://{path}"}, {"BACKEND": "offload.layers.ipc.IPCLayer", "CONFIG": {"path": path}}):
        with override_settings(CHANNEL_LAYERS={"default": entry}):
            layer: Any = layer_for()
            assert layer.path == path


def test_setup_neither_imports_routing_nor_builds_a_layer(tmp_path: Path) -> None:
    (tmp_path / "site1").mkdir()
    (tmp_path / "site1" / "__init__.py").touch()
    (tmp_path / "site1" / "settings.py").write_text(
        'SECRET_KEY = "x"\nUSE_TZ = True\nINSTALLED_APPS = ["django_offload"]\nROOT_URLCONF = "site1.urls"\n'
        'CHANNEL_LAYERS = {"default": {"BACKEND": "site1.nowhere.Layer"}}\n'
    )
    (tmp_path / "site1" / "urls.py").touch()
    (tmp_path / "site1" / "routing.py").write_text('raise AssertionError("imported")\n')
    program = """
        import sys, django
        django.setup()
        assert "site1.routing" not in sys.modules and "site1.urls" not in sys.modules
        assert not any(name.partition(".")[0] in ("gevent", "redis") for name in sys.modules)
        from django_offload import conf
        assert str(conf.project_directory()) == sys.argv[1], conf.project_directory()
        from offload.consumers.configuration import router_for
        router_for()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path.resolve())],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "DJANGO_SETTINGS_MODULE": "site1.settings", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stderr.strip().splitlines()[-1] == "AssertionError: imported"


# Origins


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://testserver", True),
        ("https://testserver:8443", True),
        ("https://TESTSERVER", True),
        ("https://testserver.", True),
        ("https://example.org", True),
        ("https://a.b.example.org", True),
        ("https://example.org.evil.io", False),
        ("https://evilexample.org", False),
        ("https://testserver@evil.io", False),
        ("https://evil.io#testserver", False),
        ("http://[::1", False),
        ("http://", False),
        ("testserver", False),
        ("null", False),
        ("", False),
    ],
)
def test_origin_is_allowed_when_its_host_is_in_allowed_hosts(origin: str, allowed: bool) -> None:
    assert origin_is_allowed(origin, "testserver") is allowed


@pytest.mark.parametrize(
    ("debug", "origin", "allowed"),
    [
        (True, "http://localhost:8000", True),
        (True, "http://chat.localhost", True),
        (True, "http://127.0.0.1:8000", True),
        (True, "http://[::1]:8000", True),
        (True, "http://10.0.0.7", False),
        (False, "http://localhost:8000", False),
    ],
)
def test_origin_of_this_machine_is_allowed_under_debug_without_allowed_hosts(
    debug: bool, origin: str, allowed: bool
) -> None:
    with override_settings(DEBUG=debug, ALLOWED_HOSTS=[]):
        assert origin_is_allowed(origin) is allowed


def test_origin_policy_is_configured() -> None:
    policy = configuration.origin_policy()

    assert policy is not None
    assert policy("http://testserver", "testserver")
    assert not policy("http://evil.io", "testserver")


# Connections


def consume(consumer: Any) -> None:
    Client(route("websocket.connect", consumer)).connect()


@pytest.fixture
def closings(monkeypatch: pytest.MonkeyPatch, _database: None) -> list[str]:
    """Each closing of the database connection, which an in-memory database itself ignores."""
    seen: list[str] = []
    wrapper = connections["default"]
    wrapper.ensure_connection()
    monkeypatch.setattr(wrapper, "close", lambda: seen.append("closed"))
    monkeypatch.setattr(wrapper, "close_at", 0.0)
    return seen


def test_connections_past_their_age_are_closed_before_a_consumer(closings: list[str]) -> None:
    consume(lambda message: closings.append("consumer"))

    assert closings == ["closed", "consumer", "closed"]


def test_connections_are_closed_after_a_consumer_whatever_their_age(
    closings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections["default"], "close_at", None)
    consume(lambda message: closings.append("consumer"))

    assert closings == ["consumer", "closed"]


def test_every_connection_is_given_back_where_the_end_of_one_fails(
    closings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = SimpleNamespace(connection=True, in_atomic_block=False, close=lambda: 1 / 0)
    monkeypatch.setattr(connections, "all", lambda **kwargs: [broken, connections["default"], broken])
    monkeypatch.setattr(caches["default"], "close", lambda **kwargs: closings.append("cache closed"))

    with pytest.raises(ZeroDivisionError):
        give_back()

    assert closings == ["closed", "cache closed"]


def test_connections_are_closed_after_a_consumer_that_failed(closings: list[str]) -> None:
    def consumer(message: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume(consumer)

    assert closings == ["closed", "closed"]


def test_connections_in_a_tests_transaction_are_not_closed(closings: list[str]) -> None:
    with transaction.atomic():
        User.objects.create(username="ada")
        consume(lambda message: closings.append(User.objects.get().username))
        transaction.set_rollback(True)

    assert closings == ["ada"]


def test_queries_are_forgotten_before_a_consumer_but_not_while_a_test_counts_them(db: None) -> None:
    with override_settings(DEBUG=True):
        User.objects.count()
        consume(lambda message: None)
        assert connection.queries == []

    with CaptureQueriesContext(connection) as queries:
        User.objects.count()
        consume(lambda message: User.objects.count())
    assert len(queries) == 2


def test_caches_are_given_back_after_a_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(caches["default"], "close", lambda **kwargs: seen.append("closed"))

    consume(lambda message: seen.append("consumer"))

    assert seen == ["consumer", "closed"]


# System checks

CHECKS_PAGE = ROOT / "docs" / "reference" / "django-checks.md"


def test_reference_has_a_row_for_each_check() -> None:
    documented = re.findall(r"^\| `(offload\.\w+)` \|", CHECKS_PAGE.read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(set(re.findall(r'"(offload\.[EWI]\d+)"', Path(checks.__file__).read_text())))


async def asynchronous(request: Any) -> HttpResponse:
    begun = asyncio.Event()

    async def left_behind() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            left.append("cancelled")
            raise

    task = asyncio.create_task(left_behind())
    await begun.wait()
    return HttpResponse("here" if not task.done() else "gone")


left: list[str] = []


def check(*, deploy: bool = False) -> str:
    """What ``manage.py check`` has to say."""
    import io

    out = io.StringIO()
    try:
        call_command("check", tags=["offload"], deploy=deploy, stdout=out, stderr=out)
    except SystemCheckError as error:
        return str(error)
    return out.getvalue()


def test_check_is_content_with_a_good_project() -> None:
    assert check() == "System check identified no issues (0 silenced).\n"


@pytest.mark.parametrize(("layers", "message"), WRONG)
def test_check_tells_malformed_channel_layers(layers: Any, message: str) -> None:
    with override_settings(CHANNEL_LAYERS=layers):
        assert f"?: (offload.E001) {message}\n" in check()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"OFFLOAD_MISSING_LAYER": "warn"}, "OFFLOAD_MISSING_LAYER is 'warn'; write 'raise' or 'log'"),
        ({"OFFLOAD_ACCEPT": True}, "OFFLOAD_ACCEPT is True; write 'implicit' or 'explicit'"),
        ({"OFFLOAD_MISING_LAYER": "log"}, "unknown setting OFFLOAD_MISING_LAYER; did you mean OFFLOAD_MISSING_LAYER?"),
    ],
)
def test_check_tells_wrong_settings(overrides: dict[str, Any], message: str) -> None:
    with override_settings(**overrides):
        assert f"?: (offload.E004) {message}\n" in check()


def accepts_some(message: Any) -> None:
    if message["path"] == "/open":
        message.reply_channel.send({"accept": True})


class AcceptsSome(WebsocketConsumer):
    def connect(self, message: Any, **kwargs: Any) -> None:
        self.message.reply_channel.send({"accept": True, "subprotocol": "v1"})


class AcceptsAll(WebsocketConsumer):
    http_user = True


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (route("websocket.connect", accepts_some), True),
        (route("websocket.connect", login_required(accepts_some)), True),
        (route_class(AcceptsSome), True),
        (route_class(AcceptsAll), False),
        (route("websocket.connect", lambda message: message.reply_channel.send({"text": "accepted"})), False),
    ],
)
def test_check_tells_of_consumers_that_accept_by_hand(entry: Any, told: bool) -> None:
    layers = {"default": {"BACKEND": MEMORY, "ROUTING": [entry]}}
    with override_settings(CHANNEL_LAYERS=layers):
        assert ("offload.W005" in check()) == told
        for mode in ("explicit", "implicit"):
            with override_settings(OFFLOAD_ACCEPT=mode):
                assert "offload.W005" not in check()


@pytest.mark.parametrize(("layers", "message"), UNFIT)
def test_check_tells_layers_that_cannot_be_built(layers: Any, message: str) -> None:
    with override_settings(CHANNEL_LAYERS=layers):
        assert f"?: (offload.E002) {message}\n" in check()


@pytest.mark.parametrize(
    ("routing", "message"),
    [
        (
            "testsite.routing.channel_routes",
            "the routing is 'testsite.routing.channel_routes', "
            "but module 'testsite.routing' has no 'channel_routes'; did you mean 'channel_routing'?",
        ),
        (
            ["websocket.connect"],
            "channel_routing[0] is 'websocket.connect', not a routing entry; "
            "write route(channel, consumer, path=...), route_class(...) or include(...)",
        ),
        (
            [route("websocket.connect", asynchronous)],
            "the consumer of channel_routing[0] is a coroutine function, which does nothing when it is called; "
            "write it with plain def",
        ),
    ],
)
def test_check_tells_routing_that_does_not_work(routing: Any, message: str) -> None:
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": MEMORY, "ROUTING": routing}}):
        assert f"?: (offload.E003) {message}\n" in check()


def test_check_misses_the_default_alias() -> None:
    with override_settings(CHANNEL_LAYERS={"images": {"BACKEND": MEMORY}}):
        assert (
            "?: (offload.E001) CHANNEL_LAYERS has 'images', but no 'default', the one that serves WebSockets; add it\n"
        ) in check()


UNROUTED = {"default": {"BACKEND": MEMORY}}


def test_check_tells_that_nothing_is_routed() -> None:
    with override_settings(CHANNEL_LAYERS=UNROUTED, ROOT_URLCONF="testsite.inner.urls"):
        assert (
            "?: (offload.W006) no consumer is routed: CHANNEL_LAYERS names no ROUTING, and there is no module "
            "'testsite.inner.routing' beside the root urls.py\n"
            "\tHINT: Write channel_routing in testsite.inner.routing. A project that only sends silences this.\n"
        ) in check()
    for layers in (UNROUTED, {**UNROUTED, "images": {"BACKEND": MEMORY, "ROUTING": []}}):
        with override_settings(CHANNEL_LAYERS=layers):
            # testsite.routing is beside testsite.urls.
            assert "offload.W006" not in check()


def raw(request: Any) -> None: ...


@method_decorator(require_websocket, "dispatch")
class Raw(View): ...


@pytest.mark.parametrize("view", [accept_websocket(raw), require_websocket(raw), Raw.as_view()])
def test_check_is_content_with_views_of_raw_websockets(view: Any) -> None:
    class Urls:
        urlpatterns = (path("inner/", include([path("raw", view)])),)

    with override_settings(CHANNEL_LAYERS=UNROUTED, ROOT_URLCONF=Urls):
        assert "offload.W006" not in check()


def test_check_is_content_with_the_middleware_of_raw_websockets() -> None:
    middleware = ["django_offload.middleware.WebSocketMiddleware"]
    with override_settings(CHANNEL_LAYERS=UNROUTED, ROOT_URLCONF="testsite.inner.urls", MIDDLEWARE=middleware):
        assert "offload.W006" not in check()


class OwnAuthentication(AuthenticationMiddleware): ...


def test_check_tells_of_users_without_the_middleware_that_finds_them() -> None:
    no_user = (
        "?: (offload.W007) OFFLOAD_USERS = True joins the connections of request.user, and MIDDLEWARE has no "
        "'django.contrib.auth.middleware.AuthenticationMiddleware'\n"
        "\tHINT: Add it, or silence this where a middleware of your own does the same.\n"
    )
    no_session = (
        "?: (offload.W007) OFFLOAD_DISCONNECT_AT closes the connections of request.session, and MIDDLEWARE has no "
        "'django.contrib.sessions.middleware.SessionMiddleware'\n"
    )
    assert "offload.W007" not in check()
    with override_settings(OFFLOAD_USERS=True):
        assert no_user in check()
        assert no_session not in check()
        with override_settings(MIDDLEWARE=[f"{__name__}.OwnAuthentication"]):
            assert "offload.W007" not in check()
            with override_settings(OFFLOAD_DISCONNECT_AT=["password_change"]):
                assert "offload.W007" not in check()
            with override_settings(OFFLOAD_DISCONNECT_AT=["logout"]):
                assert no_session in check()


class Asynchronous(View):
    async def get(self, request: Any) -> None: ...


def test_check_for_deployment_tells_of_views_that_are_coroutine_functions() -> None:
    class Urls:
        urlpatterns = (
            path("a", asynchronous),
            path("in/", include([path("b", Asynchronous.as_view())])),
            path("c", raw),
        )

    with override_settings(ROOT_URLCONF=Urls):
        assert "offload.I001" not in check()
        assert (
            f"?: (offload.I001) {__name__}.Asynchronous, {__name__}.asynchronous: a coroutine function runs in an "
            "event loop of its own for each request, which cancels the tasks that it leaves behind\n"
            "\tHINT: Write plain def where nothing needs asyncio: a greenlet waits without it.\n"
        ) in check(deploy=True)
    assert "offload.I001" not in check(deploy=True)


def test_event_loop_of_a_view_cancels_what_it_leaves_behind() -> None:
    class Urls:
        urlpatterns = (path("a", asynchronous),)

    with override_settings(ROOT_URLCONF=Urls):
        assert RequestClient().get("/a").content == b"here"
    assert left == ["cancelled"]


def test_check_for_deployment_has_djangos_warning_of_debug() -> None:
    import io

    out = io.StringIO()
    with override_settings(DEBUG=True):
        call_command("check", deploy=True, stderr=out, stdout=out)
    assert "?: (security.W018) You should not have DEBUG set to True in deployment." in out.getvalue()


def test_check_for_deployment_warns_of_the_memory_layer_and_of_any_host() -> None:
    assert "(offload.W001) the channel layer 'default' lives in the memory of one process" in check(deploy=True)
    assert "offload.W002" not in check(deploy=True)
    with override_settings(ALLOWED_HOSTS=["*"]):
        assert (
            "(offload.W002) ALLOWED_HOSTS has '*', so any page on the web may open WebSockets with your users' cookies"
        ) in check(deploy=True)


def test_check_for_deployment_warns_of_connections_that_cannot_persist(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "offload.W003" not in check(deploy=True)
    monkeypatch.setitem(settings.DATABASES["default"], "CONN_MAX_AGE", 60)
    assert "(offload.W003) DATABASES['default'] has CONN_MAX_AGE=60, which does nothing under offload" in check(
        deploy=True
    )


def test_check_for_deployment_warns_of_drivers_that_block(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "offload.W004" not in check(deploy=True)
    monkeypatch.setattr(connections["default"], "Database", SimpleNamespace(__name__="MySQLdb"))
    assert "(offload.W004) DATABASES['default'] is reached by MySQLdb, which waits in C" in check(deploy=True)


@pytest.mark.parametrize("databases", ["", "DATABASES = {}", "DATABASES = {'default': {}}"])
def test_check_for_deployment_is_content_without_a_database(databases: str, tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text(
        f"SECRET_KEY = 'x'; ALLOWED_HOSTS = ['example.com']; INSTALLED_APPS = ['django_offload']\n{databases}\n"
        "CHANNEL_LAYERS = {'default': {'URL': 'ipc:', 'ROUTING': []}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "django", "check", "--deploy", "--tag", "offload", "--settings", "settings"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "System check identified no issues (0 silenced).\n", "")

"""System checks: what in the settings will not work, said before the first client finds out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils.module_loading import import_string

from django_offload import conf
from django_offload.connections import driver_of
from django_offload.settings import is_set, problems, value_of
from django_offload.views import serves_websockets
from offload.consumers.configuration import layer_for, router_for, router_source
from offload.consumers.routing import CONNECT
from offload.consumers.synchronous import name_of
from offload.exceptions import ConfigurationError
from offload.layers.memory import MemoryLayer


def check_settings(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """The ``OFFLOAD_...`` settings are what they may be."""
    return [Error(problem, id="offload.E004") for problem in problems()]


def check_channel_layers(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """``CHANNEL_LAYERS`` is well formed, its backends can be built, and its routings imported. Connects to nothing."""
    malformed = conf.problems()
    found: list[CheckMessage] = [Error(problem, id="offload.E001") for problem in malformed.values()]
    for alias in conf.entries():
        if alias in malformed:
            continue
        try:
            layer_for(alias)
        except ConfigurationError as error:
            found.append(Error(str(error), id="offload.E002"))
        try:
            router_for(alias)
        except (ConfigurationError, ImportError) as error:
            found.append(Error(str(error), id="offload.E003"))
    return found


def check_routing(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Something takes the project's messages: a routing, or views with raw WebSockets."""
    if any(router_source(alias) is not None for alias in conf.entries()) or _has_middleware(_RAW):
        return []
    if any(serves_websockets(view) for _, view in _views()):
        return []
    place = conf.routing_module()
    beside = f", and there is no module {place!r} beside the root urls.py" if place else ""
    return [
        Warning(
            f"no consumer is routed: CHANNEL_LAYERS names no ROUTING{beside}",
            hint=f"Write channel_routing in {place or 'project.routing'}. A project that only sends silences this.",
            id="offload.W006",
        )
    ]


def check_users(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """What the settings about users need is there."""
    if not value_of("USERS"):
        return []  # `check_settings` refuses what needs it
    needed = [_AUTHENTICATION]
    if not {"logout", "session_expiry"}.isdisjoint(value_of("DISCONNECT_AT")):
        needed.append(_SESSION)
    return [
        Warning(
            f"{why}, and MIDDLEWARE has no {path!r}",
            hint="Add it, or silence this where a middleware of your own does the same.",
            id="offload.W007",
        )
        for path, why in needed
        if not _has_middleware(path)
    ]


_RAW = "django_offload.middleware.WebSocketMiddleware"
_AUTHENTICATION = (
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "OFFLOAD_USERS = True joins the connections of request.user",
)
_SESSION = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "OFFLOAD_DISCONNECT_AT closes the connections of request.session",
)


def _has_middleware(path: str) -> bool:
    """Whether the project has this middleware, or one that is derived from it."""
    # By name: these modules import models, which not each project has.
    bases = {base for found in map(import_string, settings.MIDDLEWARE) for base in getattr(found, "__mro__", ())}
    return any(f"{base.__module__}.{base.__qualname__}" == path for base in bases)


def _views() -> Iterator[tuple[str, Callable[..., Any]]]:
    """The views of the root URLconf, with their names."""
    if getattr(settings, "ROOT_URLCONF", None):
        yield from _views_of(get_resolver())


def _views_of(resolver: URLResolver) -> Iterator[tuple[str, Callable[..., Any]]]:
    for entry in resolver.url_patterns:
        if isinstance(entry, URLPattern):
            yield entry.lookup_str, entry.callback
        else:
            yield from _views_of(entry)


def check_async_views(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Views that are coroutine functions: they run, and in a loop of their own."""
    names = sorted({name for name, view in _views() if iscoroutinefunction(view)})
    if not names:
        return []
    return [
        Info(
            f"{', '.join(names)}: a coroutine function runs in an event loop of its own for each request, which "
            "cancels the tasks that it leaves behind",
            hint="Write plain def where nothing needs asyncio: a greenlet waits without it.",
            id="offload.I001",
        )
    ]


def check_acceptance(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Connect consumers that say when they accept, in a project that does not say what silence means."""
    if is_set("ACCEPT"):
        return []
    try:
        consumers = router_for().consumers(CONNECT)
    except (ConfigurationError, ImportError):
        return []  # reported by check_channel_layers
    names = sorted({name_of(consumer) for consumer in consumers if _speaks_of_accepting(consumer)})
    if not names:
        return []
    return [
        Warning(
            f"{', '.join(names)} accepts handshakes by hand; where it only returns, they are accepted, too, and were "
            "refused by Channels 1.1",
            hint='Write OFFLOAD_ACCEPT = "explicit" if silence is to refuse, or "implicit" if it is to accept.',
            id="offload.W005",
        )
    ]


def _speaks_of_accepting(consumer: Any) -> bool:
    """Whether a consumer's own code has the key ``accept``; what offload's classes do by themselves does not count."""
    consumer = inspect.unwrap(consumer)
    functions = [consumer]
    if isinstance(consumer, type):
        functions = [
            value
            for base in consumer.__mro__
            if not base.__module__.startswith("offload.")
            for value in vars(base).values()
        ]
    codes = [code for function in functions if (code := getattr(function, "__code__", None)) is not None]
    return any(_has_constant(code, "accept") for code in codes)


def _has_constant(value: Any, wanted: str) -> bool:
    if isinstance(value, CodeType):
        value = value.co_consts
    return value == wanted or (isinstance(value, tuple) and any(_has_constant(part, wanted) for part in value))


def check_deployment(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """What works on one's desk only."""
    found: list[CheckMessage] = []
    malformed = conf.problems()
    for alias in conf.entries():
        if alias not in malformed:
            try:
                layer = layer_for(alias)
            except ConfigurationError:
                continue  # reported by check_channel_layers
            if isinstance(layer, MemoryLayer):
                found.append(
                    Warning(
                        f"the channel layer {alias!r} lives in the memory of one process: other server processes, "
                        "manage.py and scripts do not share its channels and groups",
                        hint=f"Use {conf.BACKENDS[0]} on one machine, {conf.BACKENDS[1]} on several.",
                        id="offload.W001",
                    )
                )
    if "*" in settings.ALLOWED_HOSTS:
        found.append(
            Warning(
                "ALLOWED_HOSTS has '*', so any page on the web may open WebSockets with your users' cookies",
                hint="List the hosts by which browsers know the site.",
                id="offload.W002",
            )
        )
    return found


def check_databases(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """What a database's settings promise, and many greenlets cannot keep. Connects to nothing."""
    found: list[CheckMessage] = []
    for alias, database in settings.DATABASES.items():
        where = f"DATABASES[{alias!r}]"
        age = database.get("CONN_MAX_AGE", 0)
        if age != 0:
            found.append(
                Warning(
                    f"{where} has CONN_MAX_AGE={age!r}, which does nothing under offload: a connection belongs to one "
                    "greenlet, and is closed when the greenlet's request or consumer ends",
                    hint="Let connections be pooled: by 'OPTIONS': {'pool': True} (psycopg 3), or by PgBouncer.",
                    id="offload.W003",
                )
            )
        driver = driver_of(alias)
        if driver in _BLOCKING:
            found.append(
                Warning(
                    f"{where} is reached by {driver}, which waits in C: while one query runs, the whole server "
                    "process waits",
                    hint=_BLOCKING[driver],
                    id="offload.W004",
                )
            )
    return found


_BLOCKING = {
    "MySQLdb": "Use PyMySQL (pymysql.install_as_MySQLdb()), or run offload with more processes (-w).",
    "cx_Oracle": "Run offload with more processes (-w).",
    "oracledb": "Run offload with more processes (-w).",
}

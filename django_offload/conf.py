"""From Django's settings to `offload.configure`.

Layers are described, not built, and routings are named, not imported: `ready()` runs before the project is whole, and
a process may fork after it.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit, urlunsplit

from django.conf import ENVIRONMENT_VARIABLE, settings
from django.core.serializers.json import DjangoJSONEncoder

from django_offload import decorators
from django_offload.connections import before_consumer, give_back
from django_offload.handshake import through_middleware
from django_offload.origins import origin_is_allowed
from django_offload.settings import value_of
from django_offload.signals import send_finished, send_started, send_worker_ready
from offload.consumers.configuration import DEFAULT, configure
from offload.consumers.routing import import_dotted
from offload.exceptions import ConfigurationError
from offload.interfaces import Layer
from offload.layers.addresses.schemes import shown_value
from offload.layers.addresses.urls import layer_from_url
from offload.layers.memory import MemoryLayer

KEYS = ("BACKEND", "CONFIG", "ROUTING", "TEST_CONFIG", "URL")
BACKENDS = ("offload.layers.ipc.IPCLayer", "offload.layers.redis.RedisLayer", "offload.layers.memory.MemoryLayer")
_OF_CHANNELS = {
    "asgi_ipc": BACKENDS[0],
    "asgi_rabbitmq": BACKENDS[1],
    "asgi_redis": BACKENDS[1],
    "asgiref.inmemory": BACKENDS[2],
    "channels.database_layer": BACKENDS[0],
    "channels.layers": BACKENDS[2],
    "channels_rabbitmq": BACKENDS[1],
    "channels_redis": BACKENDS[1],
}
"""Backends of Django Channels' versions, by package, and what stands in their place here."""
_ARGUMENTS_OF_CHANNELS = {
    "symmetric_encryption_keys": "write 'encryption_keys'",
    "connection_kwargs": "write what they say into the hosts' addresses, as in 'rediss://user:password@host:6379/0'",
    "stats_prefix": "leave it out: each process counts for itself",
    "channel_memory": "leave it out: a channel holds 'capacity' messages",
}
_UNREAD = 100_000
"""Messages that a client of a test may leave unread."""


def apply() -> None:
    """Tell offload what the settings say now."""
    apply_layers()
    apply_policies()


def apply_layers() -> None:
    """Describe the layers and routings of the settings."""
    for alias, entry in entries().items():
        configure(functools.partial(build_layer, alias), alias=alias, routing=routing_of(alias, entry))


def apply_policies() -> None:
    """Say what is to be around consumers, requests and handshakes."""
    # A receiver of `consumer_finished` may use the database yet.
    configure(started=before_consumer, finished=send_finished)
    configure(
        origins=origin_is_allowed,
        started=send_started,
        finished=give_back,
        after_request=give_back,
        handshake=through_middleware,
        missing_layer=value_of("MISSING_LAYER"),
        accept=value_of("ACCEPT"),
        worker_ready=send_worker_ready,
        json_encoder=DjangoJSONEncoder,
        decorators={
            "channel_session_user": decorators.channel_session_user,
            "http_user": decorators.channel_session_user_from_http,
            "http_user_and_session": decorators.channel_and_http_session_user_from_http,
        },
    )


def entries() -> dict[str, dict[str, Any]]:
    """The entries of ``CHANNEL_LAYERS`` by alias; without the setting, one for the IPC layer.

    What is malformed is left out here, and found by `problems`; a default entry is always there to complain.
    """
    configured = getattr(settings, "CHANNEL_LAYERS", None) or {DEFAULT: {"URL": "ipc:"}}
    if not isinstance(configured, dict):
        return {DEFAULT: {}}
    found = {str(alias): entry if isinstance(entry, dict) else {} for alias, entry in configured.items()}
    return {DEFAULT: {}, **found}


def problems() -> dict[str, str]:
    """What is malformed in ``CHANNEL_LAYERS``: a sentence with the remedy, for each alias concerned."""
    configured = getattr(settings, "CHANNEL_LAYERS", None)
    if not configured:
        return {}
    if not isinstance(configured, dict):
        return {
            DEFAULT: f"CHANNEL_LAYERS is {shown_value(configured)}, not a dict; "
            f'write CHANNEL_LAYERS = {{"default": {{"BACKEND": "{BACKENDS[0]}"}}}}'
        }
    found = {str(alias): problem for alias, entry in configured.items() if (problem := _problem(alias, entry))}
    if DEFAULT not in configured:
        names = ", ".join(map(shown_value, configured))
        found.setdefault(
            DEFAULT, f"CHANNEL_LAYERS has {names}, but no 'default', the one that serves WebSockets; add it"
        )
    return found


def _problem(alias: object, entry: object) -> str | None:
    where = f"CHANNEL_LAYERS[{shown_value(alias)}]"
    if not isinstance(alias, str):
        return f"CHANNEL_LAYERS has the key {shown_value(alias)}, not a string; an alias is a name such as 'default'"
    if not isinstance(entry, dict):
        return f'{where} is {shown_value(entry)}, not a dict; write {{"BACKEND": "{BACKENDS[0]}"}}'
    for key in entry:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key).upper(), KEYS, 1)
            return f"{where} has the unknown key {shown_value(key)}; " + (
                f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}"
            )
    return _value_problem(where, entry)


def _value_problem(where: str, entry: Mapping[str, Any]) -> str | None:
    if "URL" in entry:
        if "BACKEND" in entry or "CONFIG" in entry:
            return f"{where} has both a URL and a BACKEND or CONFIG; keep one of the two"
        urls = [entry["URL"]] if isinstance(entry["URL"], str) else entry["URL"]
        if not isinstance(urls, (list, tuple)) or not urls or not all(isinstance(url, str) for url in urls):
            found = shown_value(entry["URL"])
            return f"{where} has the URL {found}; write an address such as 'redis://127.0.0.1:6379/0'"
    elif problem := _backend_problem(where, entry):
        return problem
    if problem := _test_problem(where, entry):
        return problem
    routing = entry.get("ROUTING")
    if routing is not None and not isinstance(routing, (str, list, tuple)):
        return (
            f"{where} has the ROUTING {shown_value(routing)}; "
            'write the dotted path "project.routing.channel_routing", or a list'
        )
    return None


def _test_problem(where: str, entry: Mapping[str, Any]) -> str | None:
    test = entry.get("TEST_CONFIG")
    if test is None:
        return None
    if not isinstance(test, dict) or not all(isinstance(key, str) for key in test):
        return f"{where} has the TEST_CONFIG {shown_value(test)}, not a dict of the backend's keyword arguments"
    if "URL" not in test and "BACKEND" not in entry:
        return f'{where} has a TEST_CONFIG without a URL and no BACKEND; write {{"URL": "redis://127.0.0.1:6379/9"}}'
    return None


def _backend_problem(where: str, entry: Mapping[str, Any]) -> str | None:
    backend, config = entry.get("BACKEND"), entry.get("CONFIG", {})
    if not isinstance(backend, str):
        what = f"has the BACKEND {shown_value(backend)}, not a dotted path" if "BACKEND" in entry else "has no BACKEND"
        return f"{where} {what}; use one of {', '.join(BACKENDS)}"
    for package, successor in _OF_CHANNELS.items():
        if f"{backend}.".startswith(f"{package}."):
            return f"{where} has the BACKEND {backend!r} of Channels; write {successor!r}"
    if any(sign in backend for sign in ":/?#@"):
        return f"{where} has an address as its BACKEND; write it as its URL"
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        return f"{where} has the CONFIG {shown_value(config)}, not a dict of the backend's keyword arguments"
    for key, remedy in _ARGUMENTS_OF_CHANNELS.items():
        if key in config:
            return f"{where} has {key!r} of Channels in its CONFIG; {remedy}"
    return None


def is_testing() -> bool:
    """Whether Django's test environment is set up, by its test runner or by pytest-django."""
    # Not imported for this: who tests has imported it.
    utils = sys.modules.get("django.test.utils")
    return hasattr(getattr(utils, "_TestState", None), "saved_data")


def build_layer(alias: str, for_tests: bool = False) -> Layer:
    """The layer of an alias, as the settings say when it is first needed.

    In tests it is in memory, whatever is configured: no test may reach clients. ``TEST_CONFIG`` says otherwise.

    Args:
        alias: of ``CHANNEL_LAYERS``.
        for_tests: whether it is for tests though Django does not know that it tests.

    Raises:
        ConfigurationError: one sentence with the value, what is wrong with it, and the remedy.
    """
    if problem := problems().get(alias):
        raise ConfigurationError(problem)
    entry = entries()[alias]
    if for_tests or is_testing():
        if "TEST_CONFIG" not in entry:
            return _memory_layer(entry.get("CONFIG", {}))
        entry = _test_entry(entry)
    if "URL" in entry:
        return layer_from_url(_at_project(entry["URL"]))
    where = f"CHANNEL_LAYERS[{alias!r}]"
    backend = import_dotted(entry["BACKEND"], f"the BACKEND of {where}")
    if not callable(backend) or (isinstance(backend, type) and not hasattr(backend, "session_load")):
        # Django Channels' own layers have much the same names and dotted paths.
        raise ConfigurationError(
            f"the BACKEND of {where} is {entry['BACKEND']!r}, which is no layer of offload; "
            f"use one of {', '.join(BACKENDS)}"
        )
    config: dict[str, Any] = entry.get("CONFIG", {})
    if getattr(backend, "name", None) == "ipc" and config.get("path") is None:
        config = {**config, "path": project_socket()}
    try:
        inspect.signature(backend).bind(**config)
    except TypeError as error:
        raise ConfigurationError(f"the CONFIG of {where} does not fit {entry['BACKEND']!r}: {error}") from None
    return cast("Layer", backend(**config))


def _test_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of ``CHANNEL_LAYERS`` as tests have it: another ``URL``, or other arguments of its backend."""
    test: Mapping[str, Any] = entry["TEST_CONFIG"]
    if "URL" in test:
        return {"URL": test["URL"]}
    return {"BACKEND": entry.get("BACKEND"), "CONFIG": test}


def _memory_layer(config: Mapping[str, Any]) -> Layer:
    """A layer in memory, with the limits of the configured one."""
    limits = {name: config[name] for name in ("capacity", "expiry", "group_expiry", "max_size") if name in config}
    # Nobody reads ahead of a test client.
    capacities = {"websocket.send.*": _UNREAD, **config.get("channel_capacity", {})}
    return MemoryLayer(channel_capacity=capacities, **limits)


def other_layer(alias: str, layer: Layer) -> str | None:
    """What to tell where servers started from this shell use another default layer than the settings name.

    Args:
        alias, layer: the one that the settings name.

    Raises:
        ConfigurationError: the shell's ``OFFLOAD_LAYER`` is no address.
    """
    address = os.environ.get("OFFLOAD_LAYER")
    if not address or alias != DEFAULT or layer_from_url(_at_project(address)).place == layer.place:
        return None
    return (
        f"OFFLOAD_LAYER names {layer_from_url(_at_project(address)).place}, which servers started from this shell use; "
        f"CHANNEL_LAYERS names {layer.place}, which this command uses"
    )


def project_socket() -> str | None:
    """The socket of this project's hub; None where the IPC layer's own default, by the current directory, is the same.

    The server, ``manage.py`` and cron scripts meet there, wherever each was started.
    """
    from offload.layers.ipc import default_path  # only now: most processes never build this layer

    path = default_path(str(project_directory()))
    return None if path == default_path() else path


def _at_project(url: str | Sequence[str]) -> str | Sequence[str]:
    """The address, with the project's socket where it says ``ipc:`` and no more."""
    if not isinstance(url, str) or url.partition(":")[0].strip().lower() != "ipc":
        return url
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return url  # the layer complains of it
    if parts.netloc or parts.path or (path := project_socket()) is None:
        return url
    return urlunsplit(parts._replace(path=quote(path)))


def routing_of(alias: str, entry: Mapping[str, Any]) -> str | Sequence[Any] | None:
    """The routing of an alias; the default one without ``ROUTING`` has the `beside_root_urls`."""
    routing: str | Sequence[Any] | None = entry.get("ROUTING")
    if routing is None and alias == DEFAULT:
        return beside_root_urls()
    return routing


def routing_module() -> str | None:
    """The module beside the root ``urls.py`` that may have the routing; None without a root URLconf of a name."""
    urlconf = getattr(settings, "ROOT_URLCONF", None)
    if not isinstance(urlconf, str):
        return None
    package = urlconf.rpartition(".")[0]
    return f"{package}.routing" if package else "routing"


def beside_root_urls() -> str | None:
    """``<package>.routing.channel_routing`` for the ``routing.py`` beside the root ``urls.py``; None without one."""
    name = routing_module()
    if name is None:
        return None
    try:
        # Looked for, not imported: its consumers import models, which are not ready yet.
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None  # a wrong ROOT_URLCONF is Django's to report
    return f"{name}.channel_routing" if found is not None else None


def project_directory() -> Path:
    """Where the project lies: what contains the top package of its settings; without a module, here."""
    # Settings that a test overrides no longer say where they came from.
    module = getattr(settings, "SETTINGS_MODULE", None) or os.environ.get(ENVIRONMENT_VARIABLE, "")
    top = sys.modules.get(module.partition(".")[0])
    if top is None:
        return Path.cwd()
    if package := list(getattr(top, "__path__", ())):
        return Path(package[0]).resolve().parent
    return Path(top.__file__).resolve().parent if top.__file__ else Path.cwd()

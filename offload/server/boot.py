"""What every process does that runs the application's code: configure its layers, and say it when that fails.

Imported in the forked child, after gevent has patched the standard library. Layers are imported where one is in use.
"""

from __future__ import annotations

import json
import logging
import ssl
import sys
import traceback
from collections.abc import Callable, Collection
from functools import partial
from types import ModuleType
from typing import Any, Protocol

from gevent.socket import wait_read

from offload.consumers import configuration
from offload.consumers.routing import HTTP_REQUEST, WEBSOCKET_CHANNELS, Router
from offload.exceptions import ConfigurationError, LayerUnavailable
from offload.interfaces import Layer
from offload.server import exit_handlers, logs, system
from offload.server.application import check_routing_name
from offload.server.control import BOOT_FAILED, Control
from offload.server.given import Given, Loaded
from offload.server.hooks import Config
from offload.server.watchdog import Watchdog
from offload.settings import DEFAULT_LAYER, Settings
from offload.transport.pool import Pool, keep_timeouts_in_tasks
from offload.transport.tls import make_context

log = logging.getLogger("offload.server")


class Process(Protocol):
    """A process that the supervisor forks."""

    def boot(self) -> None:
        """Get ready.

        Raises:
            ConfigurationError, LayerUnavailable: in one sentence, what is wrong and what to do.
        """

    def serve(self) -> int:
        """Work until told to stop; the exit status."""


def run(process: Process, given: Given) -> int:
    """Boot, and serve; what goes wrong at boot is told to the supervisor, which knows whom to tell.

    Args:
        process: what is run.
        given: what it was given.

    Returns:
        The exit status.
    """
    hooks, worker = given.hooks, given.worker

    def boot() -> None:
        post_fork, post_init = hooks["post_fork"], hooks["post_worker_init"]
        if post_fork is not None:
            post_fork(hooks.server, worker)
        hooks.of_signals(worker)
        process.boot()
        worker.booted = True
        if post_init is not None:
            post_init(worker)

    try:
        keep_timeouts_in_tasks()
        if not succeeds(boot, given.settings, given.control):
            return BOOT_FAILED
        logs.enable()
        if given.is_spare and not _stand_by(given.control):
            return 0
        system.outlive_parent()
        return process.serve()
    finally:
        hooks.call("worker_exit", hooks.server, worker)
        exit_handlers.run(given.settings.process.kill_seconds)
        system.flush_streams()


def succeeds(act: Callable[[], None], settings: Settings, control: Control) -> bool:
    """Do something that runs the project's code; what goes wrong is told to the supervisor. Returns whether nothing
    does."""
    try:
        act()
    except (ConfigurationError, LayerUnavailable) as error:
        control.tell(failed=str(error))
        return False
    except BaseException as error:  # noqa: BLE001 -- told to the supervisor, which logs it
        # Somebody's own module failed, and only its traceback can say where.
        text = "".join(traceback.format_exception(error))
        # A module whose import fails is not kept; else it was the routing's, or the layer's.
        what = "starting" if settings.app.partition(":")[0] in sys.modules else "importing"
        control.tell(failed=f"{what} {settings.app!r} failed: {type(error).__name__}: {error}", traceback=text)
        return False
    return True


def add_process_statistics(watchdog: Watchdog, pools: Collection[Pool]) -> None:
    """Have `offload.statistics` tell of the loop and the pools."""

    def statistics() -> dict[str, float]:
        return {
            "process.blocked": watchdog.blocked,
            "process.busy": sum(pool.busy for pool in pools),
            "process.waiting": sum(pool.waiting for pool in pools),
            "process.greenlets": sum(pool.greenlets for pool in pools),
        }

    configuration.add_statistics("process", statistics)


def log_statistics() -> None:
    """Write the counters of this process into the log, as JSON."""
    log.info("statistics: %s", json.dumps(configuration.statistics()))


def _stand_by(control: Control) -> bool:
    """Wait, ready, until the supervisor has a place for this process. Returns whether it has."""
    control.tell(standby=True)
    while True:
        wait_read(control.sock.fileno())
        notes, alive = control.hear()
        if any("serve" in note for note in notes):
            return True
        if not alive or notes:
            return False


def declared(
    settings: Settings, module: ModuleType, application: Callable[..., Any] | None, control: Control
) -> Loaded:
    """What is imported, with its layers and routing declared; see `declare_layers`.

    Args:
        settings: the server's.
        module: the application's module, imported.
        application: its WSGI callable, if it has one.
        control: asked for the hub of an IPC layer.
    """
    return Loaded(application, declare_layers(settings, module, partial(_ask_for_hub, control)))


def connect_layers(loaded: Loaded, settings: Settings, control: Control) -> None:
    """Use the declared layers in this process.

    Args:
        loaded: what declares them.
        settings: the server's.
        control: asked for the hub of an IPC layer.

    Raises:
        ConfigurationError, LayerUnavailable: an address is wrong, or nobody answers there.
    """
    for alias in loaded.aliases:
        from offload.layers.memory import MemoryLayer

        layer = configuration.layer_for(alias)
        if isinstance(layer, MemoryLayer) and settings.process.workers > 1:
            log.warning(
                "the layer %r is each process's own memory, so groups do not span the %d processes; use ipc:",
                alias,
                settings.process.workers,
            )
        _ask_for_hub(control, layer)
        layer.check()


def declare_layers(settings: Settings, module: ModuleType, made: Callable[[Layer], None]) -> list[str]:
    """Layers and routing: what the application said, else what the command line said. Connects to nothing.

    Args:
        settings: the server's.
        module: the application's module, imported.
        made: called with the default layer of the command line, when that is made.

    Returns:
        The aliases of the layers that are in use from the start: the default layer of an application that never
        speaks of layers is left alone until it is used.
    """
    addresses = list(settings.layer.urls) or [DEFAULT_LAYER]

    def default_layer() -> Layer:
        from offload.layers.addresses.urls import layer_from_url
        from offload.layers.front import LayerBase
        from offload.layers.words.settings import LayerSettings

        # What a WebSocket may receive, it may send on; with as much again for its path and keys.
        largest = settings.websocket.max_size
        layer = layer_from_url(addresses, max(2 * largest, LayerSettings.max_size))
        carried = layer.largest_size(bool(layer.settings.encryption_keys)) if isinstance(layer, LayerBase) else None
        if carried is not None and largest > carried:
            raise ConfigurationError(
                f"--ws-max-size {largest} is over the {carried} bytes that the layer {layer.place} carries;"
                " lower it, or choose another --layer"
            )
        made(layer)
        return layer

    asked_for = bool(settings.layer.urls)
    spoken_of = set(configuration.aliases())
    if asked_for or not configuration.is_configured():
        if configuration.is_configured():
            _tell_of_another(addresses)
        configuration.configure(default_layer, routing=configuration.router_source())
    if settings.layer.routing is not None:
        configuration.configure(routing=settings.layer.routing.replace(":", "."))
    elif configuration.router_source() is None and hasattr(module, "channel_routing"):
        configuration.configure(routing=f"{module.__name__}.channel_routing")
    elif configuration.router_source() is None:
        check_routing_name(module)
    return [
        alias
        for alias in configuration.aliases()
        if asked_for or alias in spoken_of or configuration.router_source(alias) is not None
    ]


def tls_context(settings: Settings) -> ssl.SSLContext:
    """The context of TLS: what the options say, or what a hook of the configuration file makes of that.

    Raises:
        ConfigurationError: a file cannot be used, or the hook makes something else.
    """
    make = partial(make_context, settings.tls)
    hook = settings.hooks.ssl_context
    if hook is None:
        return make()
    context = hook(Config(settings), make)
    if not isinstance(context, ssl.SSLContext):
        raise ConfigurationError(f"the hook ssl_context made a {type(context).__name__}, not an ssl.SSLContext")
    return context


def _tell_of_another(addresses: list[str]) -> None:
    from offload.layers.addresses.urls import layer_from_url

    layer = layer_from_url(addresses)
    try:
        own = configuration.layer_for()
    except ConfigurationError:
        # Nobody uses it.
        return
    if own.place != layer.place:
        log.warning(
            "--layer names %s, and the application's own default layer is %s, which its commands, scripts and tasks go "
            "on using; name the same in both (in Django's settings: CHANNEL_LAYERS)",
            layer.place,
            own.place,
        )


def about(router: Router, settings: Settings) -> list[str]:
    """What is served, in lines for the log at the start: layers and routes, as far as there are any."""
    channels = ", ".join(sorted(router.channels))
    if not channels:
        return []
    aliases = configuration.aliases()
    places = [configuration.layer_for(alias).place for alias in aliases]
    if len(aliases) > 1:
        places = [f"{alias} at {place}" for alias, place in zip(aliases, places, strict=True)]
    lines = [f"layer {', '.join(places)}", f"consumers of {channels}"]
    for alias in [] if settings.process.workers_inside else aliases:
        routed = router if alias == configuration.DEFAULT else configuration.router_for(alias)
        if named := sorted(routed.channels.difference(WEBSOCKET_CHANNELS, (HTTP_REQUEST,))):
            command = "worker" if alias == configuration.DEFAULT else f"worker --alias {alias}"
            lines.append(
                f"messages on {', '.join(named)} are consumed by: offload {command} {settings.app}; "
                "or here, with --workers-inside 1"
            )
    return lines


def _ask_for_hub(control: Control, layer: Layer) -> None:
    from offload.layers.ipc import IPCLayer

    if isinstance(layer, IPCLayer):
        control.tell(hub=layer.path)
        layer.expect_hub()

"""A server process: the one place that wires pool, servers, consumers, layer and listeners together.

It is forked by a supervisor that never imported gevent. What this module imports is imported in the child, after
gevent has patched the standard library and before the application's first line. What only some settings or routes
need is imported where it is made: it would cost every start time, and every process memory.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event

from offload.consumers import configuration
from offload.consumers.dispatch.local import Dispatch
from offload.consumers.routing import HTTP_REQUEST, WEBSOCKET_CHANNELS, Router
from offload.exceptions import ConfigurationError
from offload.http.accept import Acceptor
from offload.http.environ import Application, EnvironBuilder, environ_base
from offload.http.server import HttpServer, TakeRequest
from offload.observe.counters import Counters
from offload.observe.observer import Observer, Observers
from offload.origins import Origins
from offload.protocol.http.forwarded import Forwarders, TrustedPeers
from offload.protocol.websocket.frames import GOING_AWAY, SERVICE_RESTART
from offload.server import logs
from offload.server.application import load_application
from offload.server.boot import (
    about,
    add_process_statistics,
    connect_layers,
    declared,
    log_statistics,
    run,
    tls_context,
)
from offload.server.control import Control
from offload.server.forks import let_go_in_children
from offload.server.given import Given, Loaded
from offload.server.lifetime import Lifetime
from offload.server.load import LoadSlot
from offload.server.log_configuration import log_access, takes_access_lines
from offload.server.named_channels import NamedChannels
from offload.server.request_hooks import hooked
from offload.server.watchdog import Watchdog
from offload.settings import LAST_SECONDS, MEMORY_DISPATCH, Settings
from offload.transport.connection import Connection, sending_watch
from offload.transport.listener import Listener
from offload.transport.pool import Pool, make_pause
from offload.transport.tls import TlsAcceptor, TlsConnection
from offload.websocket.server import WebSocketServer
from offload.websocket.upgrades import REPLY_PREFIX, ApplicationWebSockets, RoutedWebSockets

if TYPE_CHECKING:
    from offload.consumers.dispatch.remote_owner import RemoteDispatch
    from offload.observe.access_log import LogFile

log = logging.getLogger("offload.server")


@dataclass
class ServerProcess:
    """One server process; see `main` for the arguments."""

    settings: Settings
    listening: list[socket.socket]
    control: Control
    load: LoadSlot
    around: Callable[[Application], Application] = lambda application: application
    loaded: Loaded | None = None
    _listeners: list[Listener] = field(default_factory=list)
    _connections: set[Connection] = field(default_factory=set)
    _pools: set[Pool] = field(default_factory=set)
    _leaving_code: int = GOING_AWAY
    _drained: Event | None = None
    _look_is_due: bool = False
    _awaits_disconnects_alone: bool = False
    _access_file: LogFile | None = None
    _remote: RemoteDispatch | None = None

    def boot(self) -> None:
        """Import the application, connect the layer, wire everything.

        Raises:
            ConfigurationError, LayerUnavailable: in one sentence, what is wrong and what to do.
        """
        settings = self.settings
        self._stopped = Event()
        let_go_in_children(self._let_go)
        # Before any file is open, so that each is reopened whenever the signal comes.
        self._moved = gevent.get_hub().loop.signal(signal.SIGUSR1, ref=False)
        self._moved.start(self._reopen_logs)
        loaded = self.loaded or load(settings, self.control)
        assert loaded.application is not None
        connect_layers(loaded, settings, self.control)
        router = _names_of_routes() if settings.layer.dispatch == "layer" else configuration.router_for()
        self._about = about(router, settings)
        self.wire(self.around(loaded.application), router)
        # What has been imported stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()

    def wire(self, application: Application, router: Router) -> None:
        """Make all that serves, of the settings and the configured layer, for the loop of the thread that calls.

        Args:
            application: the WSGI application.
            router: says what is routed.
        """
        settings = self.settings
        self._loop = gevent.get_hub().loop
        is_remote = settings.layer.dispatch == "layer"
        self._pool = Pool(settings.process.pool_size, settings.process.request_timeout)
        # Messages that wait for workers must not keep requests waiting.
        consumers_pool = Pool(settings.process.pool_size, settings.process.request_timeout) if is_remote else self._pool
        self._pools = {self._pool, consumers_pool}
        observer = self._observer()
        proxies = TrustedPeers(settings.proxy.forwarded_allow_ips)
        environs = EnvironBuilder(
            Forwarders(
                proxies,
                settings.proxy.forwarded_fields,
                settings.proxy.forwarder_headers,
                settings.proxy.secure_scheme_headers,
            )
        )
        channels: TakeRequest | None = None
        self._websockets = WebSocketServer(
            consumers_pool,
            Origins(settings.websocket.origins, configuration.origin_policy()),
            settings.websocket,
            settings.http.send_timeout,
            observer,
            accepts_by_returning=self._accept_mode() == "implicit",
        )
        routed = None
        if router.channels:
            from offload.layers.front import LayerBase

            layer = configuration.layer_for()
            if isinstance(layer, LayerBase):
                layer.subscriptions.pause = make_pause()
            # The first name opens this process's inbox, which may wait; the loop, which makes all others, must not.
            layer.new_channel(REPLY_PREFIX)
            routing: Dispatch | RemoteDispatch = Dispatch(router, layer)
            if is_remote:
                from offload.consumers.dispatch.remote_owner import RemoteDispatch

                routing = self._remote = RemoteDispatch(router, layer, settings.layer.dispatch_timeout)
                configuration.add_statistics("dispatch", self._remote.statistics)
            routed = RoutedWebSockets(self._websockets, routing, layer, environs.fields).take
            if HTTP_REQUEST in router.channels:
                from offload.http.channel_exchange import ChannelRequests

                channels = ChannelRequests(routing, layer, consumers_pool).take
        self._named = [] if is_remote else self._named_channels()
        self._http = HttpServer(
            application,
            self._pool,
            settings.http,
            environs,
            routed=routed,
            raw=ApplicationWebSockets(self._websockets, application).offer,
            observer=observer,
            channels=channels,
            after_request=configuration.request_hooks(),
        )  # fmt: skip
        configuration.add_statistics("http", self._http.statistics)
        configuration.add_statistics("websocket", self._websockets.statistics)
        self._tls: TlsAcceptor | None = None
        if settings.tls.wanted:
            self._tls = TlsAcceptor(tls_context(settings), settings.tls.handshake_timeout)
        self._sending = sending_watch(settings.http.send_timeout, settings.http.send_min_rate)
        self._acceptor = Acceptor(
            self._http,
            self._tls,
            settings.proxy,
            settings.tls.strict_sni,
            proxies,
        )

    def _accept_mode(self) -> str:
        """What the command line says, else the application, else the default."""
        settings = self.settings
        told = None if "accept" in settings.sources else configuration.accept_mode()
        return told or settings.websocket.accept

    def _observer(self) -> Observer:
        options, counters = self.settings.log, Counters()
        configuration.add_statistics("observed", counters.statistics)
        observers: list[Observer] = [counters]
        lines = takes_access_lines()
        if lines or options.access_file is not None:
            from offload.observe.access_log import AccessLog, LogFile
        if lines:
            observers.append(AccessLog(options.access_format, log_access))
        elif options.access_file is not None:
            self._access_file = LogFile(options.access_file, self._loop.run_callback)
            observers.append(AccessLog(options.access_format, self._access_file.write))
        metrics = self.settings.metrics
        if metrics.statsd_host is not None:
            from offload.observe.statsd import StatsD, StatsDObserver

            statsd = StatsD(metrics.statsd_host, metrics.statsd_prefix, metrics.dogstatsd_tags)
            observers.append(StatsDObserver(statsd))
        return observers[0] if len(observers) == 1 else Observers(observers)

    def _reopen_logs(self) -> None:
        logs.reopen()
        if self._access_file is not None:
            try:
                self._access_file.reopen()
            except ConfigurationError as error:
                log.error("%s; the old one goes on", error)
        log_statistics()

    def serve(self) -> int:
        """Accept and serve until SIGTERM, or until the supervisor is gone."""
        terminated = self._loop.signal(signal.SIGTERM, ref=False)
        terminated.start(self._stopped.set)
        supervisor = self._loop.io(self.control.sock.fileno(), 1)
        supervisor.start(self._supervisor_spoke)
        self.start()
        replace = self.settings.replace
        watchdog = Watchdog(self._loop, self.control, self.load, replace.blocked_after, replace.timeout)
        watchdog.start()
        add_process_statistics(watchdog, self._pools)
        lifetime = Lifetime(self._loop, replace, self._pools, lambda why: self.control.tell(outlived=why))
        self.control.tell(ready=True, about=self._about)
        self._stopped.wait()
        supervisor.close()
        lifetime.stop()
        self.stop()
        return 0

    def start(self) -> None:
        """Accept connections from now on."""
        self._listeners = [self._listener(sock) for sock in self.listening]
        for listener in self._listeners:
            listener.start()
        for named in self._named:
            named.start()
        self._renewing = gevent.spawn(self._renew)

    def _renew(self) -> None:
        """Keep what open connections have in the layer from expiring under them."""
        while configuration.router_source() is not None:
            gevent.sleep(configuration.layer_for().group_expiry / 3)
            for number, websocket in enumerate(list(self._websockets.members)):
                websocket.renew()
                if number % 100 == 99:
                    gevent.sleep(0)

    def _named_channels(self) -> list[NamedChannels]:
        """What consumes named channels here (``--workers-inside``), one for each layer that has some routed."""
        concurrency = self.settings.process.workers_inside
        found = []
        for alias in configuration.aliases() if concurrency else ():
            channels = configuration.router_for(alias).channels.difference(WEBSOCKET_CHANNELS, (HTTP_REQUEST,))
            if channels:
                dispatch = Dispatch(configuration.router_for(alias), configuration.layer_for(alias))
                found.append(NamedChannels(dispatch, self._pool, channels, concurrency))
        return found

    def _supervisor_spoke(self) -> None:
        notes, alive = self.control.hear()
        if any("retire" in note for note in notes):
            # Another process takes this one's place: clients may come back to it at once.
            self._leaving_code = SERVICE_RESTART
            self._stopped.set()
        elif not alive:
            log.warning("the supervisor is gone; stopping")
            self._stopped.set()

    def _listener(self, sock: socket.socket) -> Listener:
        where = sock.getsockname()
        server = (where[0], str(where[1])) if isinstance(where, tuple) else ("localhost", "")
        tls = self._tls
        base = environ_base(
            server, self.settings.process.workers > 1, "http" if tls is None else "https", logs.error_stream()
        )
        loop, load, connections, sending = self._loop, self.load, self._connections, self._sending
        limit = self.settings.process.worker_connections
        serve = self._acceptor.accepted

        def accepted(client: Any, peer: object) -> None:
            load.change(1)
            connection = (
                Connection(loop, client, peer, left, sending)
                if tls is None
                else TlsConnection(loop, client, peer, left, tls, sending)
            )
            connections.add(connection)
            serve(connection, base)

        def left(connection: Connection) -> None:
            load.change(-1)
            connections.discard(connection)
            if self._drained is not None:
                self._look_again()

        return Listener(loop, sock, accepted, load.is_above_mean, lambda: load.connections >= limit)

    def stop(self) -> None:
        """Accept nothing more, let requests and consumers finish, and leave."""
        deadline = time.monotonic() + self.settings.process.stop_seconds
        for listener in self._listeners:
            listener.stop()
        for sock in self.listening:
            # Where the supervisor was killed, the port is another's as soon as nobody accepts.
            sock.close()
        self.load.leave()
        self._renewing.kill()
        for named in self._named:
            named.stop()
        self._acceptor.stop()
        self._http.stop()
        self._websockets.stop(self._leaving_code, self.settings.process.drain_seconds)
        drained = self._drain()
        if not drained.wait(max(0.001, self.settings.process.stop_seconds - self.settings.process.last_seconds)):
            self._finish_in_time(drained, deadline)
        if self._remote is not None:
            self._remote.stop(max(deadline, time.monotonic() + LAST_SECONDS))
        for alias in configuration.aliases():
            configuration.close(alias)
        if self._access_file is not None:
            self._access_file.flush()

    def _finish_in_time(self, drained: Event, deadline: float) -> None:
        """The time is nearly up: what WebSockets there are end now, so that their consumers hear of it."""
        if aborted := self._websockets.abort():
            log.info("cutting off %d WebSockets whose clients or consumers were not done", aborted)
        # A stop without any time has as much for this as others; the supervisor waits longer before it kills.
        last = time.monotonic() + LAST_SECONDS
        if not drained.wait(max(0.001, deadline - time.monotonic())):
            log.warning(
                "%d connections and %d tasks did not end within %s s; they are cut off",
                self.load.connections,
                sum(pool.busy + pool.waiting for pool in self._pools),
                self.settings.process.stop_seconds,
            )
            self._awaits_disconnects_alone = True
            self._look_again()
            drained.wait(max(0.001, last - time.monotonic()))

    def _let_go(self, end: Callable[[], None]) -> None:
        """In a child that the application forked: nothing of the service is its own."""
        for sock in (*self.listening, self.control.sock):
            sock.close()
        for connection in self._connections:
            connection.let_go()
        for pool in self._pools:
            pool.let_go(end)
        self.load.let_go()

    def _drain(self) -> Event:
        """Set as soon as no connection, and no task, is left."""
        self._drained = Event()
        self._websockets.members.left = self._look_again
        for pool in self._pools:
            pool.rested = self._look_again
        for named in self._named:
            named.rested = self._look_again
        self._look()
        return self._drained

    def _look_again(self) -> None:
        """Somebody has left; in the next turn of the loop, when all that was done in this one stands."""
        if not self._look_is_due:
            self._look_is_due = True
            self._loop.run_callback(self._look)

    def _look(self) -> None:
        self._look_is_due = False
        # When all connections are cut off, these are the ones whose disconnect consumer has not run.
        websockets = self._websockets.members
        tasks = any(pool.busy or pool.waiting for pool in self._pools) or any(named.in_hand for named in self._named)
        others = self._http.connections or tasks or self._acceptor.pending
        if self._drained is not None and not websockets and (not others or self._awaits_disconnects_alone):
            self._drained.set()


def _names_of_routes() -> Router:
    """What is routed, where the consumers run elsewhere.

    Raises:
        ConfigurationError: no WebSocket is routed, or the layer reaches no worker.
    """
    router = Router(configuration.router_source() or [], imports=False)
    router.check()
    if not router.channels & {*WEBSOCKET_CHANNELS, HTTP_REQUEST}:
        raise ConfigurationError(
            "--dispatch layer needs routes of WebSockets; name them with --routing MODULE:NAME, "
            "or as channel_routing in the module of APP"
        )
    from offload.layers.memory import MemoryLayer

    if isinstance(configuration.layer_for(), MemoryLayer):
        raise ConfigurationError(MEMORY_DISPATCH)
    log.info("consumers of WebSockets run in workers (--dispatch layer); start some by: offload worker APP")
    return router


def load(settings: Settings, control: Control) -> Loaded:
    """Import the application, and declare its layers and routing.

    Raises:
        ConfigurationError: there is no such application, or an address is wrong. What its code raises comes through.
    """
    module, application = load_application(settings.app, may_be_routing=settings.layer.dispatch == "layer")
    return declared(settings, module, application, control)


def main(given: Given) -> int:
    """Serve until told to stop; the exit status of the process."""
    around = partial(hooked, hooks=given.hooks, worker=given.worker)
    process = ServerProcess(given.settings, given.listening, given.control, given.load, around, given.loaded)
    return run(process, given)

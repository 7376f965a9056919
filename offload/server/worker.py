"""A worker process: takes messages of named channels from the layer and runs their consumers. It serves no sockets.

Among them are the channels of WebSockets, on which servers with ``--dispatch layer`` put their messages.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from offload.consumers import configuration
from offload.consumers.dispatch.local import Dispatch
from offload.consumers.dispatch.remote_worker import WorkerTurns
from offload.consumers.dispatch.turns import ANNOUNCE_SECONDS
from offload.consumers.routing import HTTP_REQUEST, WEBSOCKET_CHANNELS
from offload.exceptions import ConfigurationError, LayerUnavailable
from offload.interfaces import Content
from offload.layers.memory import MemoryLayer
from offload.server import logs
from offload.server.application import load_module
from offload.server.boot import add_process_statistics, connect_layers, declared, log_statistics, run
from offload.server.control import Control
from offload.server.forks import let_go_in_children
from offload.server.given import Given, Loaded
from offload.server.lifetime import Lifetime
from offload.server.load import LoadSlot
from offload.server.named_channels import PAUSE_SECONDS, TAKE_SECONDS, NamedChannels
from offload.server.watchdog import Watchdog
from offload.settings import Settings
from offload.transport.pool import Pool

log = logging.getLogger("offload.consumer")

LAST_SECONDS = 1.0
"""For telling what has ended, when the time to stop is over; less than what the supervisor waits before it kills."""


def wanted_channels(routed: set[str], only: tuple[str, ...], exclude: tuple[str, ...]) -> list[str]:
    """The channels to serve: those with a consumer, that match a glob of `only` (if any), and none of `exclude`.

    Raises:
        ConfigurationError: none is left.
    """
    named = sorted(routed.difference(WEBSOCKET_CHANNELS))
    if len(named) < len(routed):
        # A handshake has an answer, and a session its end, also where no consumer is routed for them.
        named += WEBSOCKET_CHANNELS
    wanted = [
        channel
        for channel in named
        if (not only or any(fnmatch.fnmatchcase(channel, glob) for glob in only))
        and not any(fnmatch.fnmatchcase(channel, glob) for glob in exclude)
    ]
    if not wanted:
        have, inside, outside = (", ".join(names) or "none" for names in (named, only, exclude))
        raise ConfigurationError(
            f"there is no channel to serve (routed: {have}; --only-channels: {inside}; --exclude-channels: {outside})"
        )
    return sorted(wanted)


def _usr1_received() -> None:
    logs.reopen()
    log_statistics()


@dataclass
class WorkerProcess:
    """One worker.

    Args:
        settings: the command line's.
        control: to the supervisor.
        load: this process's counters.
    """

    settings: Settings
    control: Control
    load: LoadSlot
    loaded: Loaded | None = None

    def boot(self) -> None:
        """See `offload.server.boot.Process`."""
        settings = self.settings
        self._pool = Pool(settings.process.pool_size, settings.process.request_timeout)
        let_go_in_children(self._let_go)
        connect_layers(self.loaded or load(settings, self.control), settings, self.control)
        router = configuration.router_for(settings.worker.alias)
        self._layer = configuration.layer_for(settings.worker.alias)
        if isinstance(self._layer, MemoryLayer):
            log.warning(
                "the layer %r is this worker's own memory, so no other process's messages arrive; use ipc: or redis:",
                settings.worker.alias,
            )
        self._channels = wanted_channels(
            router.channels, settings.worker.only_channels, settings.worker.exclude_channels
        )
        self._dispatch = Dispatch(router, self._layer)
        self._turns = WorkerTurns(self._dispatch, self._layer)
        self._rested = Event()
        named = set(self._channels).difference(WEBSOCKET_CHANNELS)
        self._named = NamedChannels(
            self._dispatch, self._pool, named, settings.worker.concurrency, frozenset((HTTP_REQUEST,)), self._look
        )
        # A message is taken only when a greenlet is free for it: what waits, waits in the layer, for other workers.
        self._free = BoundedSemaphore(settings.process.pool_size)
        self._stopped = Event()

    def serve(self) -> int:
        """Take and run until SIGTERM, or until the supervisor is gone."""
        loop = gevent.get_hub().loop
        loop.signal(signal.SIGTERM, ref=False).start(self._stopped.set)
        loop.signal(signal.SIGUSR1, ref=False).start(_usr1_received)
        supervisor = loop.io(self.control.sock.fileno(), 1)
        supervisor.start(self._supervisor_spoke)
        takers = []
        if not set(WEBSOCKET_CHANNELS).isdisjoint(self._channels):
            # While one waits for an answer, others hand on what they got.
            count = min(self.settings.worker.takers, self.settings.process.pool_size)
            takers = [gevent.spawn(self._take) for _ in range(count)]
        self._named.start()
        announcer = gevent.spawn(self._announce)
        for hook in configuration.worker_hooks():
            hook()
        log.info("serving %s", ", ".join(self._channels))
        replace = self.settings.replace
        watchdog = Watchdog(loop, self.control, self.load, replace.blocked_after, replace.timeout)
        watchdog.start()
        add_process_statistics(watchdog, [self._pool])
        lifetime = Lifetime(loop, replace, (self._pool,), lambda why: self.control.tell(outlived=why))
        self.control.tell(ready=True)
        self._stopped.wait()
        lifetime.stop()
        self._named.stop()
        self._look()
        deadline = time.monotonic() + self.settings.process.graceful_timeout
        supervisor.close()
        with contextlib.suppress(gevent.Timeout), gevent.Timeout(self.settings.process.graceful_timeout or 0.001):
            gevent.joinall(takers)
            self._rested.wait()
            for _ in range(self.settings.process.pool_size):
                self._free.acquire()
        if self._pool.busy:
            log.warning(
                "%d consumers did not end within %s s (--graceful-timeout); they are cut off",
                self._pool.busy,
                self.settings.process.graceful_timeout,
            )
        announcer.kill()
        last = max(deadline, time.monotonic() + LAST_SECONDS)
        with contextlib.suppress(gevent.Timeout), gevent.Timeout(last - time.monotonic()):
            self._turns.finish(last)
        self._layer.close()
        return 0

    def _supervisor_spoke(self) -> None:
        notes, alive = self.control.hear()
        if any("retire" in note for note in notes):
            self._stopped.set()
        elif not alive:
            log.warning("the supervisor is gone; stopping")
            self._stopped.set()

    def _look(self) -> None:
        if self._stopped.is_set() and not self._named.in_hand:
            self._rested.set()

    def _let_go(self, end: Callable[[], None]) -> None:
        """In a child that the application forked: it takes no messages."""
        self.control.sock.close()
        self._pool.let_go(end)

    def _announce(self) -> None:
        # Also while it stops: the owners wait for what runs yet.
        while True:
            gevent.sleep(ANNOUNCE_SECONDS)
            self._turns.announce()

    def _take(self) -> None:
        while not self._stopped.is_set():
            self._free.acquire()
            taken = None
            try:
                if not self._stopped.is_set():
                    taken = self._layer.receive(WEBSOCKET_CHANNELS, timeout=TAKE_SECONDS)
            except LayerUnavailable as error:
                log.warning("no messages can be taken: %s", error)
                self._turns.failed()
                self._stopped.wait(PAUSE_SECONDS)
            except Exception:
                log.exception("no messages can be taken")
                self._stopped.wait(PAUSE_SECONDS)
            if taken is None:
                self._free.release()
            else:
                self._pool.submit(self._consume, taken)

    def _consume(self, taken: tuple[str, Content]) -> None:
        try:
            self._turns.run(*taken)
        finally:
            self._free.release()


def load(settings: Settings, control: Control) -> Loaded:
    """Import the application's module, and declare its layers and routing.

    Raises:
        ConfigurationError: there is no such module, or an address is wrong. What its code raises comes through.
    """
    return declared(settings, load_module(settings.app), None, control)


def main(given: Given) -> int:
    """Consume until told to stop; the exit status of the process."""
    return run(WorkerProcess(given.settings, given.control, given.load, given.loaded), given)

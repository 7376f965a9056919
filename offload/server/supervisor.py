"""The supervisor: a loop over signals and what children tell. It serves nothing and never imports gevent."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from offload import __version__
from offload.server import logs
from offload.server.child import Child
from offload.server.children import Children
from offload.server.control import BootError, Note
from offload.server.directory import Directory
from offload.server.forking import Entry, Source, Templates
from offload.server.handover import Handover, start_another
from offload.server.hub_processes import HubProcesses
from offload.server.listening import Listening
from offload.server.load import FURTHER, SharedLoad
from offload.server.places import Places
from offload.server.release import Release
from offload.server.replacing import Replacing
from offload.server.restarts import Restarts
from offload.server.service import ServiceManager
from offload.server.shutdown import Shutdown
from offload.server.signals import HANDLED, Signals
from offload.server.system import give_title, raise_limit
from offload.settings import Settings

if TYPE_CHECKING:
    from offload.observe.statsd import StatsD

log = logging.getLogger("offload.server")


@dataclass
class Supervisor:
    """Runs one server.

    Args:
        settings: the command line's.
        directory: where it runs; entered, and entered again at each reload.
        entry: the module whose ``main`` a child runs, after gevent has patched the standard library.
        what: what such a child is called in the log.
        reread: reads the settings anew for a reload, or raises ConfigurationError; None keeps them.
        statsd: told how many processes serve.
    """

    settings: Settings
    directory: Directory
    entry: str = "offload.server.process"
    what: str = "server process"
    reread: Callable[[], Settings] | None = None
    statsd: StatsD | None = None

    def __post_init__(self) -> None:
        self._began_in = os.getcwd()
        self._selector = selectors.DefaultSelector()
        self._signals = Signals()
        self._service = ServiceManager(os.environ, self._selector)
        self._handover = Handover(os.environ)
        self._listening = Listening(self._handover)
        self._release = Release(self.settings, self.directory, self.reread)
        self._hooks = self._release.hooks
        self._restarts = Restarts()
        self._children = Children(self._selector, self._leave, self._hear)
        self._hubs = HubProcesses(self._children, self._release, self._restarts, self._listening)
        # While they are replaced, two for each place; and some that TTIN adds.
        load = SharedLoad(2 * self.settings.process.workers + FURTHER)
        entry = Entry(self.entry, self.what, self._release, self._listening, load)
        self._source = (Templates if self.settings.process.preload else Source)(self._children, entry)
        self._places = Places(self._children, self._release, self._restarts, self._source, load, self.what)
        self._replacing = Replacing(
            self._children, self._places, self._release, self._source, self._restarts, self._tell_ready
        )
        self._has_begun = False
        self._shutdown: Shutdown | None = None
        # The supervisor that USR2 has started; and whether WINCH has ended all processes, until the next reload.
        self._heir: int | None = None
        self._is_resting = False
        self._error: BootError | None = None
        self._told_count = 0

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT.

        Returns:
            The exit status.

        Raises:
            ConfigurationError: an address cannot be bound, or the first server process could not begin to serve.
        """
        # Before there is anything that a signal's default action would leave behind.
        self._signals.catch(self._selector)
        try:
            if not self._begin():
                return 0
            while self._children or self._restarts or self._is_resting or self._is_to_stop:
                for key, _ in self._selector.select(self._patience()):
                    self._try(key.data)
                self._try(self._turn)
        finally:
            self._listening.close()
            if self._heir is None:
                self._listening.unlink()
            self._release.pid_file.remove()
            self._service.end()
        if self._error is not None:
            raise self._error
        self._hooks.call("on_exit", self._hooks.server)
        log.info("stopped")
        return 0

    def _begin(self) -> bool:
        """Listen, and start the first process. Returns whether no signal has come to stop it."""
        settings, server = self.settings, self._hooks.server
        hook = self._hooks["on_starting"]
        if hook is not None:
            hook(server)
        if self.entry == Supervisor.entry:
            raise_limit(settings.process.worker_connections, "worker_connections" in settings.sources)
            for address in self._listening.addresses(settings):
                if self._signals.stop is not None:
                    return False
                self._listening.open(address, settings)
        if self._handover.old is None:
            self._release.pid_file.write()
        else:
            self._handover.when_old_has_ended(self._selector, self._release.pid_file.write)
        server.LISTENERS = self._listening.sockets
        self._where = self._listening.named(settings)
        count = settings.process.workers
        log.info(
            "offload %s runs %s%s, supervisor %d, %d %s",
            __version__, settings.app, self._where, os.getpid(), count, self._places.named(count),
        )  # fmt: skip
        give_title("supervisor", settings)
        if settings.replace.reload:
            from offload.server import code_watcher

            code_watcher.start(self._release.places, settings.replace.reload_extra_files, self._leave_to_watch)
        self._try(self._renew_source)
        return True

    def _renew_source(self) -> None:
        """Have something to fork processes from."""
        try:
            self._source.renew()
        except OSError as error:
            if not self._places.has_served:
                raise BootError(f"the {self.what} cannot be started: {error.strerror}") from error
            self._restarts.try_again("template", "template process", error, self._renew_lost_source)
            return
        if self._source.is_ready:
            self._source_is_ready()

    def _renew_lost_source(self) -> None:
        """The same, unless a reload has seen to it meanwhile."""
        if self._source.is_lost:
            self._renew_source()

    def _source_is_ready(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._hooks.call("when_ready", self._hooks.server)
        self._replacing.source_is_ready()
        if not self._places.has_served and not any(child.boots for child in self._children):
            # One first: what is wrong with the application is said once, and the others find it right.
            self._places.start(0)

    def _try(self, act: Callable[[], object]) -> None:
        """Do something; the server ends where its first process cannot be."""
        try:
            act()
        except BootError as error:
            self._error = error

    # What a fresh child gives up.

    def _leave(self) -> None:
        self._signals.leave()
        self._selector.close()
        self._service.leave()
        self._release.pid_file.leave()
        self._children.leave()

    def _leave_to_watch(self) -> None:
        self._leave()
        self._listening.close()

    # The loop.

    def _patience(self) -> float | None:
        """Seconds until something is due."""
        if self._is_to_stop:
            return 0.0
        moments = [*self._restarts.moments(), *self._children.moments()]
        due = self._places.next_look if self._shutdown is None else self._shutdown.deadline
        moments += [moment for moment in (due, self._service.next_sign) if moment is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _turn(self) -> None:
        """One turn: ends of children, what is due, signals."""
        for pid, child, status in self._children.reap():
            if pid == self._heir:
                self._heir = None
                log.error("the new supervisor %d ended; this one goes on", pid)
                self._service.tell(MAINPID=str(os.getpid()))
            if child is not None:
                self._ended(child, status)
        options = self._release.settings
        self._children.kill_overdue(options.process.kill_timeout)
        self._children.look_at_boots(options.replace.boot_timeout)
        self._service.keep_alive()
        self._tell_count()
        while self._signals.others:
            self._act_on(self._signals.others.pop(0))
        if self._stops:
            self._stop()
        else:
            self._places.kill_stuck()
            self._restarts.run_due()

    @property
    def _stops(self) -> bool:
        return self._signals.stop is not None or self._error is not None

    @property
    def _is_to_stop(self) -> bool:
        return self._stops and self._shutdown is None

    def _act_on(self, number: int) -> None:
        if number == signal.SIGUSR1:
            logs.reopen()
            log.info("reopening the logs: SIGUSR1")
            self._children.signal(self._children, signal.SIGUSR1)
        elif self._stops:
            return
        elif number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGTTIN:
            self._places.change_count(self._places.count + 1, "SIGTTIN")
        elif number == signal.SIGTTOU:
            self._places.change_count(max(1, self._places.count - 1), "SIGTTOU")
        elif number == signal.SIGUSR2:
            self._start_heir()
        elif number == signal.SIGWINCH and not self._signals.on_terminal:
            # A terminal sends it whenever its window changes.
            self._is_resting = True
            self._places.change_count(0, "SIGWINCH")

    def _reload(self) -> None:
        log.info("reloading: SIGHUP")
        if self._places.is_complete:
            self._service.tell(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        if self._replacing.reload():
            self._is_resting = False

    def _start_heir(self) -> None:
        """A supervisor beside this one, for another version of Python or of offload."""
        if self._heir is not None:
            log.warning("SIGUSR2 does nothing: the new supervisor %d is on its way", self._heir)
            return
        self._hooks.call("pre_exec", self._hooks.server)
        try:
            self._heir = start_another(self._listening.by_address, self._began_in, HANDLED)
        except OSError as error:
            log.error("no new supervisor can be started: %s", error.strerror)
            return
        log.info("SIGUSR2: the new supervisor is %d; this one stops when that is ready", self._heir)
        self._service.tell(MAINPID=str(self._heir))

    def _stop(self) -> None:
        if self._shutdown is None:
            self._is_resting = False
            self._restarts.clear()
            self._replacing.stop()
            self._shutdown = Shutdown(self._children, self._places, self._release.settings.process, self._signals.stop)
            if self._heir is None:
                # Else the service goes on.
                self._service.tell(STOPPING="1")
        self._shutdown.go_on(at_once=self._signals.stop == signal.SIGQUIT)

    # Children.

    def _hear(self, child: Child, note: Note) -> None:
        if "hub" in note:
            self._hubs.want(note["hub"])
        if "blocked" in note:
            log.warning(
                "%s %d: a task has held its loop for %.1f s:\n%s",
                child.what, child.pid, note["blocked"], note["stack"].rstrip(),
            )  # fmt: skip
        if "standby" in note:
            self._places.stands_by(child)
        if "template" in note and not child.retired:
            child.ready, child.replaces = True, None
            child.has_booted()
            log.info("%s %d is ready", child.what, child.pid)
            self._source_is_ready()
        if "outlived" in note:
            self._replacing.outlived(child, note["outlived"])
        # One that was retired was too late, and is on its way out.
        if "ready" in note and not child.retired:
            self._ready(child, note.get("about", []))
        if "failed" in note:
            child.failure = note["failed"]
            # What it has yet to run, its application's handlers of atexit, may not hold up the news.
            child.kill_at = time.monotonic() + self._release.settings.process.kill_timeout
            if "traceback" in note:
                log.error("%s", note["traceback"].rstrip())

    def _ready(self, child: Child, about: list[str]) -> None:
        if self._source.is_ready:
            self._release.settle()
            self._source.settle()
        if not self._places.has_served:
            for line in about:
                log.info("%s", line)
        self._places.ready(child)
        self._replacing.ready(child)
        if not self._places.is_complete and self._places.serving == self._places.count:
            self._places.is_complete = True
            self._handover.retire_old()
            self._tell_ready()
            self._places.fill_spares()

    def _tell_ready(self) -> None:
        if self._places.is_complete:
            status = f"running {self._release.settings.app}{self._where}, -w {self._places.count}"
            self._service.tell(READY="1", STATUS=status)

    def _tell_count(self) -> None:
        if self.statsd is not None and self._places.serving != self._told_count:
            self._told_count = self._places.serving
            self.statsd.gauge("gunicorn.workers", self._told_count)

    def _ended(self, child: Child, status: int) -> None:
        self._places.count_out(child)
        if self._stops:
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        if child.orders is not None:
            self._template_ended(child, how)
        elif child.hub_path is not None:
            self._hubs.ended(child, status, how, self._places.has_served)
        elif child.retired:
            log.info("%s %d was replaced and %s", child.what, child.pid, how)
        elif child.replaces is not None:
            self._replacing.failed(child, how)
        else:
            self._places.ended(child, how)

    def _template_ended(self, template: Child, how: str) -> None:
        assert template.orders is not None
        template.orders.close()
        self._source.forget(template)
        if template.retired:
            log.info("%s %d was replaced and %s", template.what, template.pid, how)
        elif not self._places.has_served:
            self._places.not_begun(template, how, self._renew_lost_source)
            return
        elif template.replaces is not None:
            self._replacing.failed(template, how)
        else:
            why = f": {template.failure}" if template.failure else ""
            log.error("%s %d %s%s; starting another", template.what, template.pid, how, why)
        if self._source.is_lost:
            pause = self._restarts.pause_after("template", time.monotonic() - template.started, template.ready)
            self._restarts.add(pause, self._renew_lost_source)

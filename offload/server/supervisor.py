"""The supervisor: binds, forks, watches, restarts and stops. It serves nothing and never imports gevent."""

from __future__ import annotations

import importlib
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from offload import __version__
from offload.exceptions import ConfigurationError
from offload.server import logs, sockets
from offload.server.child import Child, fork
from offload.server.control import BootError, Control
from offload.server.directory import Directory
from offload.server.heartbeat import Heartbeats
from offload.server.load import SharedLoad
from offload.server.patch import patch
from offload.server.pid_file import PidFile
from offload.server.restarts import Restarts
from offload.server.service import ServiceManager
from offload.server.signals import Signals
from offload.settings import Settings

log = logging.getLogger("offload.server")

HUB_REFUSED = 2
"""Exit status of a hub whose path cannot be used, which starting it again would not change."""


class _Stage(Enum):
    RUNNING = "children that end are replaced"
    ENDING_SERVERS = "server processes finish what they have"
    ENDING_HUBS = "nobody is left to use the hubs"


@dataclass
class Supervisor:
    """Runs one server.

    Args:
        settings: the command line's.
        directory: where it runs; entered, and entered again at each reload.
        entry: the module whose ``main`` a child runs, after gevent has patched the standard library.
        what: what such a child is called in the log.
        reread: reads the settings anew for a reload, or raises ConfigurationError; None keeps them.
    """

    settings: Settings
    directory: Directory
    entry: str = "offload.server.process"
    what: str = "server process"
    reread: Callable[[], Settings] | None = None
    _children: dict[int, Child] = field(default_factory=dict)
    _restarts: Restarts = field(default_factory=Restarts)
    _stage: _Stage = field(default_factory=lambda: _Stage.RUNNING)
    _signals: Signals = field(default_factory=Signals)
    _to_replace: list[Child] = field(default_factory=list)
    _deadline: float | None = None
    _served: bool = False
    _complete: bool = False
    _error: ConfigurationError | None = None

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT.

        Returns:
            The exit status.

        Raises:
            ConfigurationError: an address cannot be bound, or the first server process could not begin to serve.
        """
        # Those of the processes that run.
        settings = self._settled = self.settings
        self._selector = selectors.DefaultSelector()
        self._listening: list[socket.socket] = []
        self._places: list[sockets.Place] = []
        self._service = ServiceManager(os.environ, self._selector)
        self._pid_file = PidFile(settings.process.pid)
        # Before there is anything that a signal's default action would leave behind.
        self._signals.catch(self._selector)
        try:
            for address in self._addresses():
                if self._signals.stop is not None:
                    return 0
                sock, place = sockets.listen(address, settings.listen.backlog)
                self._listening.append(sock)
                if place is not None:
                    self._places.append(place)
            self._pid_file.write()
            self._heartbeats = Heartbeats(settings.replace.timeout)
            self._load = SharedLoad(2 * settings.process.workers)
            scheme = "https" if settings.tls.certfile else "http"
            places = ", ".join(sockets.name_of(sock, scheme) for sock in self._listening)
            self._where = f" at {places}" if places else ""
            count = settings.process.workers
            what = self.what if count == 1 else self._what_several
            log.info(
                "offload %s runs %s%s, supervisor %d, %d %s",
                __version__, settings.app, self._where, os.getpid(), count, what,
            )  # fmt: skip
            # One first: what is wrong with the application is said once, and the others find it right.
            self._fork_server(0)
            self._watch()
        finally:
            for sock in self._listening:
                sock.close()
            for place in self._places:
                place.unlink()
            self._pid_file.remove()
            self._service.end()
        if self._error is not None:
            raise self._error
        log.info("stopped")
        return 0

    def _addresses(self) -> tuple[str, ...]:
        # Workers listen to the layer alone.
        return self.settings.listen.bind if self.entry == Supervisor.entry else ()

    @property
    def _what_several(self) -> str:
        return f"{self.what}es" if self.what.endswith("s") else f"{self.what}s"

    # The loop.

    def _watch(self) -> None:
        while self._children or self._restarts:
            for key, _ in self._selector.select(self._patience()):
                key.data()
            self._reap()
            self._kill_overdue()
            self._kill_stuck()
            if self._signals.logs_moved:
                self._reopen_logs()
            self._signals.tell_ignored()
            if self._signals.stop is not None or self._error is not None:
                self._stop()
            else:
                self._reload_due()
                self._restarts.run_due()

    def _reopen_logs(self) -> None:
        self._signals.logs_moved = False
        logs.reopen()
        log.info("reopening the logs: SIGUSR1")
        self._signal(list(self._children.values()), signal.SIGUSR1)

    # Reload: each server process stays until its replacement is ready, one after the other.

    def _reload_due(self) -> None:
        if self._signals.hung_up:
            self._signals.hung_up = False
            log.info("reloading: SIGHUP")
            self._restarts.hurry()
            try:
                self.directory.enter()
                if self.reread is not None:
                    self.settings = self.reread()
            except ConfigurationError as error:
                log.error("not reloaded, the old %s go on: %s", self._what_several, error)
                self.settings = self._settled
                self.directory.go_back()
                return
            self._pid_file.renew()
            self._begin_reload()

    def _begin_reload(self) -> None:
        """Whoever was forked until now may have the code of before; who only boots has no clients, and goes at once."""
        self._to_replace = sorted(
            (child for child in self._children.values() if child.serves), key=lambda child: child.slot or 0
        )
        for child in [child for child in self._children.values() if child.boots]:
            log.info("%s %d was not ready yet; starting another in its place", self.what, child.pid)
            self._retire(child)
            # Not by a note, which is not read before it is ready.
            self._signal([child], signal.SIGTERM)
            old, child.replaces = child.replaces, None
            if child.slot is not None and (old is None or old.pid not in self._children):
                self._fork_server(child.slot)
        self._replace_next()

    def _replace_next(self) -> None:
        while self._to_replace:
            old = self._to_replace.pop(0)
            if old.pid in self._children and old.slot is not None:
                self._fork_server(old.slot, replaces=old)
                return

    def _replaced(self, child: Child, old: Child) -> None:
        child.replaces = None
        if old.pid in self._children:
            self._retire(old)
            if not old.control.tell(retire=True):
                self._signal([old], signal.SIGTERM)
        self._replace_next()

    def _retire(self, child: Child) -> None:
        child.retired = True
        child.kill_at = time.monotonic() + self._seconds_to_leave

    def _not_replaced(self, child: Child, old: Child, how: str) -> None:
        log.error("not reloaded, the old %s go on: %d %s", self._what_several, child.pid, child.failure or how)
        self._give_up_reload()
        if old.pid not in self._children and old.slot is not None:
            # It died meanwhile, and its place was left to the replacement.
            self._restart_later(old, 0.0)

    def _give_up_reload(self) -> None:
        """No process is replaced any more; one that has to be started again gets the code of those that run."""
        self._to_replace.clear()
        self.settings = self._settled
        if self.directory.go_back():
            self._pid_file.renew()

    def _patience(self) -> float | None:
        moments = self._restarts.moments()
        moments += [child.kill_at for child in self._children.values() if child.kill_at is not None]
        moments += [moment for moment in (self._deadline, self._heartbeats.next_look) if moment is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _stop(self) -> None:
        """Servers first, then the hubs: consumers of closing connections still send."""
        now = time.monotonic()
        servers = [child for child in self._children.values() if child.hub_path is None]
        if self._stage is _Stage.RUNNING:
            self._stage = _Stage.ENDING_SERVERS
            self._restarts.clear()
            self._to_replace.clear()
            if self._signals.stop is not None:
                log.info("stopping: %s", signal.Signals(self._signals.stop).name)
            self._deadline = now + self._seconds_to_leave
            self._signal(servers, signal.SIGTERM)
            self._service.tell(STOPPING="1")
        if self._signals.stop == signal.SIGQUIT and servers:
            # Hubs end at once when they are told, and take their sockets along.
            self._deadline = None
            self._signal(servers, signal.SIGKILL)
        elif self._deadline is not None and self._deadline <= now:
            self._deadline = None
            self._kill(servers or list(self._children.values()))
        if not servers and self._stage is _Stage.ENDING_SERVERS:
            self._stage = _Stage.ENDING_HUBS
            self._deadline = now + self.settings.process.kill_timeout
            # The pair's end, not a signal: one may have been sent to the whole process group, when it was too early.
            for hub in self._children.values():
                self._part(hub)

    @property
    def _seconds_to_leave(self) -> float:
        return self.settings.process.stop_seconds + self.settings.process.kill_timeout

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        self._kill([child for child in self._children.values() if child.kill_at is not None and child.kill_at <= now])

    def _kill_stuck(self) -> None:
        """Never one that is busy with long requests: its loop goes on."""
        beats = {
            child.pid: self._load.beats(child.counter)
            for child in self._children.values()
            if child.counter is not None and child.serves and self._stage is _Stage.RUNNING
        }
        for pid in self._heartbeats.stuck(beats):
            log.critical(
                "%s %d: a task has held its loop for %g s (--timeout); it is killed",
                self.what, pid, self.settings.replace.timeout,
            )  # fmt: skip
            self._signal([self._children[pid]], signal.SIGKILL)

    def _kill(self, overdue: list[Child]) -> None:
        for child in overdue:
            child.kill_at = None
            log.warning(
                "%s %d still runs %g s past its time (--kill-timeout); it is killed",
                self.what if child.hub_path is None else "hub process",
                child.pid,
                self.settings.process.kill_timeout,
            )
        self._signal(overdue, signal.SIGKILL)

    @staticmethod
    def _signal(children: list[Child], number: int) -> None:
        for child in children:
            os.kill(child.pid, number)

    # Children.

    def _fork_server(self, slot: int, replaces: Child | None = None) -> None:
        counter = self._load.take()

        def serve(control: Control) -> int:
            patch()
            main = importlib.import_module(self.entry).main
            return int(main(self.settings, self._listening, control, self._load.slot(counter)))

        try:
            child = self._fork(serve)
        except OSError as error:
            self._load.clear(counter)
            self._server_not_forked(slot, replaces, error)
        else:
            child.slot, child.counter, child.replaces = slot, counter, replaces

    def _server_not_forked(self, slot: int, replaces: Child | None, error: OSError) -> None:
        if not self._served:
            self._error = BootError(f"the {self.what} cannot be started: {error.strerror}")
        elif replaces is not None:
            log.error("not reloaded, the old %s go on: no other can be started: %s", self._what_several, error.strerror)
            self._give_up_reload()
        else:
            self._try_again(slot, self.what, error, partial(self._fork_server, slot))

    def _try_again(self, key: object, what: str, error: OSError, restart: Callable[[], None]) -> None:
        pause = self._restarts.pause_after(key, 0.0, was_ready=False)
        log.error("no %s can be started: %s; trying again in %g s", what, error.strerror, pause)
        self._restarts.add(pause, restart)

    def _fork_hub(self, path: str) -> None:
        def serve(control: Control) -> int:
            from offload.hub.server import serve as serve_hub

            for sock in self._listening:
                sock.close()
            try:
                return serve_hub(path, control.sock)
            except ConfigurationError as error:
                control.tell(failed=str(error))
                return HUB_REFUSED

        try:
            self._fork(serve).hub_path = path
        except OSError as error:
            self._try_again(path, "hub process", error, partial(self._want_hub, path))

    def _fork(self, work: Callable[[Control], int]) -> Child:
        child = fork(work, self._leave)
        self._children[child.pid] = child
        self._selector.register(child.control.sock, selectors.EVENT_READ, partial(self._hear, child))
        return child

    def _leave(self) -> None:
        """What a fresh child gives up: the parent's signals, and its ends of the pairs."""
        self._signals.leave()
        self._selector.close()
        self._service.leave()
        self._pid_file.leave()
        for child in self._children.values():
            child.control.sock.close()

    def _hear(self, child: Child) -> None:
        notes, alive = child.control.hear()
        for note in notes:
            if "hub" in note:
                self._want_hub(note["hub"])
            if "blocked" in note:
                log.warning(
                    "%s %d: a task has held its loop for %.1f s:\n%s",
                    self.what, child.pid, note["blocked"], note["stack"].rstrip(),
                )  # fmt: skip
            if "ready" in note:
                self._child_ready(child, note.get("about", []))
            if "failed" in note:
                child.failure = note["failed"]
                # What it has yet to run, its application's handlers of atexit, may not hold up the news.
                child.kill_at = time.monotonic() + self.settings.process.kill_timeout
                if "traceback" in note:
                    log.error("%s", note["traceback"].rstrip())
        if not alive:
            self._part(child)

    def _part(self, child: Child) -> None:
        """Close this end of a child's pair; the child reads it as its supervisor's end."""
        if child.control.sock.fileno() >= 0:
            self._selector.unregister(child.control.sock)
            child.control.sock.close()

    def _child_ready(self, child: Child, about: list[str]) -> None:
        if child.retired:
            # It was too late, and is on its way out.
            return
        child.ready = True
        self.directory.settle()
        self._settled = self.settings
        if not self._served:
            for line in about:
                log.info("%s", line)
        log.info("%s %d is ready", self.what, child.pid)
        if not self._served:
            self._served = True
            for slot in range(1, self.settings.process.workers):
                self._fork_server(slot)
        if child.replaces is not None:
            self._replaced(child, child.replaces)
        wanted = self.settings.process.workers
        if not self._complete and sum(other.serves for other in self._children.values()) == wanted:
            self._complete = True
            self._service.tell(READY="1", STATUS=f"running {self.settings.app}{self._where}, -w {wanted}")

    def _want_hub(self, path: str) -> None:
        if not any(child.hub_path == path for child in self._children.values()):
            self._fork_hub(path)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.get(pid)
            if child is None:
                continue
            # Its last words may not have been read yet.
            if child.control.sock.fileno() >= 0:
                self._hear(child)
            del self._children[pid]
            self._part(child)
            self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, status: int) -> None:
        if child.counter is not None:
            self._load.clear(child.counter)
        if self._signals.stop is not None or self._error is not None:
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        if child.retired:
            log.info("%s %d was replaced and %s", self.what, child.pid, how)
        elif child.slot is not None and not self._served:
            self._error = BootError(child.failure or f"the {self.what} {how} before it was ready")
        elif child.hub_path is not None and status == HUB_REFUSED:
            self._hub_refused(child)
        elif child.replaces is not None:
            self._not_replaced(child, child.replaces, how)
        elif any(other.replaces is child for other in self._children.values()):
            log.error("%s %d %s; another is about to take its place", self.what, child.pid, how)
        else:
            what = "the hub process" if child.hub_path is not None else self.what
            why = f": {child.failure}" if child.failure else ""
            log.error("%s %d %s%s; starting another", what, child.pid, how, why)
            key: object = child.slot if child.hub_path is None else child.hub_path
            self._restart_later(child, self._restarts.pause_after(key, time.monotonic() - child.started, child.ready))

    def _hub_refused(self, child: Child) -> None:
        if self._served:
            log.error("there is no hub: %s; it is started again when a reload (SIGHUP) asks for it", child.failure)
        else:
            # What its clients would say of it is not the cause.
            self._error = BootError(f"there is no hub: {child.failure}")

    def _restart_later(self, child: Child, pause: float) -> None:
        slot, path = child.slot, child.hub_path
        if path is not None:
            self._restarts.add(pause, partial(self._want_hub, path))
        elif slot is not None:
            self._restarts.add(pause, partial(self._fork_server, slot))

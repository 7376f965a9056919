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
from offload.observe.statsd import StatsD
from offload.server import code_watcher, logs, sockets
from offload.server.child import Child, fork
from offload.server.control import BootError, Control
from offload.server.directory import Directory
from offload.server.handover import Handover, start_another
from offload.server.heartbeat import Heartbeats
from offload.server.hooks import Hooks
from offload.server.load import SharedLoad
from offload.server.patch import patch
from offload.server.pid_file import PidFile
from offload.server.restarts import Restarts
from offload.server.service import ServiceManager
from offload.server.signals import HANDLED, Signals
from offload.server.system import become, give_title, raise_limit
from offload.settings import Settings

log = logging.getLogger("offload.server")

BOOT_FAILED = 3
_FURTHER_COUNTERS = 16
_SLOW_BOOT_SECONDS = 10.0
"""A process that is not ready by then is told of, and again with doubling pauses."""
WAIT_FOR_CHANGE_SECONDS = 86400.0
"""A reload comes before that, or somebody has gone home."""
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
        statsd: told how many processes serve.
    """

    settings: Settings
    directory: Directory
    entry: str = "offload.server.process"
    what: str = "server process"
    reread: Callable[[], Settings] | None = None
    statsd: StatsD | None = None
    _children: dict[int, Child] = field(default_factory=dict)
    _restarts: Restarts = field(default_factory=Restarts)
    _stage: _Stage = field(default_factory=lambda: _Stage.RUNNING)
    _signals: Signals = field(default_factory=Signals)
    _to_replace: list[Child] = field(default_factory=list)
    _deadline: float | None = None
    _served: bool = False
    _told_count: int = 0
    _complete: bool = False
    # Whether processes are replaced because of SIGHUP; and whether none is to run, until the next.
    _reloads: bool = False
    _resting: bool = False
    _heir: int | None = None
    _began_in: str = field(default_factory=os.getcwd)
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
        self._listening: dict[str, socket.socket] = {}
        self._places: list[sockets.Place] = []
        self._hooks = Hooks(settings)
        self._count = 0
        self._handover = Handover(os.environ)
        self._service = ServiceManager(os.environ, self._selector)
        self._pid_file = PidFile(settings.process.pid)
        # Before there is anything that a signal's default action would leave behind.
        self._signals.catch(self._selector)
        try:
            hook = self._hooks["on_starting"]
            if hook is not None:
                hook(self._hooks.server)
            if self.entry == Supervisor.entry:
                raise_limit(settings.process.worker_connections, "worker_connections" in settings.sources)
            for address in self._addresses():
                if self._signals.stop is not None:
                    return 0
                self._listen(address)
            if self._handover.old is None:
                self._pid_file.write()
            else:
                self._handover.when_old_has_ended(self._selector, self._pid_file.write)
            self._heartbeats = Heartbeats(settings.replace.timeout)
            # While they are replaced, two for each place; and some that TTIN adds.
            self._load = SharedLoad(2 * settings.process.workers + _FURTHER_COUNTERS)
            self._hooks.server.LISTENERS = list(self._listening.values())
            self._hooks.call("when_ready", self._hooks.server)
            scheme = "https" if settings.tls.certfile else "http"
            places = ", ".join(sockets.name_of(sock, scheme) for sock in self._listening.values())
            self._where = f" at {places}" if places else ""
            count = settings.process.workers
            what = self.what if count == 1 else self._what_several
            log.info(
                "offload %s runs %s%s, supervisor %d, %d %s",
                __version__, settings.app, self._where, os.getpid(), count, what,
            )  # fmt: skip
            give_title("supervisor", settings)
            if settings.replace.reload:
                code_watcher.start(self.directory.places, settings.replace.reload_extra_files, self._leave_to_watch)
            # One first: what is wrong with the application is said once, and the others find it right.
            self._fork_server(0)
            self._watch()
        finally:
            for sock in self._listening.values():
                sock.close()
            for place in self._places:
                if self._heir is None:
                    place.unlink()
            self._pid_file.remove()
            self._service.end()
        if self._error is not None:
            raise self._error
        self._hooks.call("on_exit", self._hooks.server)
        log.info("stopped")
        return 0

    def _listen(self, address: str) -> None:
        sock, place = self._handover.take(address), None
        if sock is None:
            sock, place = sockets.listen(address, self.settings.listen, self.settings.process.umask)
        elif address.startswith("unix:"):
            place = sockets.Place(sock.getsockname())
        self._listening[address] = sock
        if place is not None:
            place.give_to(self.settings.process.user, self.settings.process.group)
            self._places.append(place)

    def _leave_to_watch(self) -> None:
        """What the process that watches code gives up."""
        self._leave()
        for sock in self._listening.values():
            sock.close()

    def _addresses(self) -> tuple[str, ...]:
        if self.entry != Supervisor.entry:
            # Workers listen to the layer alone.
            return ()
        passed = sockets.passed(os.environ)
        return passed if passed and "bind" not in self.settings.sources else (*passed, *self.settings.listen.bind)

    @property
    def _what_several(self) -> str:
        return f"{self.what}es" if self.what.endswith("s") else f"{self.what}s"

    # The loop.

    def _watch(self) -> None:
        while self._children or self._restarts or self._resting:
            for key, _ in self._selector.select(self._patience()):
                key.data()
            self._reap()
            self._kill_overdue()
            self._kill_stuck()
            self._look_at_boots()
            self._service.keep_alive()
            self._tell_count()
            stops = self._signals.stop is not None or self._error is not None
            while self._signals.others:
                number = self._signals.others.pop(0)
                if number == signal.SIGUSR1:
                    self._reopen_logs()
                elif not stops:
                    self._act_on(number)
            if stops:
                self._resting = False
                self._stop()
            else:
                self._restarts.run_due()

    def _tell_count(self) -> None:
        if self.statsd is not None:
            serving = sum(child.serves for child in self._children.values())
            if serving != self._told_count:
                self._told_count = serving
                self.statsd.gauge("gunicorn.workers", serving)

    def _act_on(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGTTIN:
            self._change_count(self._count + 1, "SIGTTIN")
        elif number == signal.SIGTTOU:
            self._change_count(max(1, self._count - 1), "SIGTTOU")
        elif number == signal.SIGUSR2:
            self._start_heir()
        elif number == signal.SIGWINCH and not self._signals.on_terminal:
            # A terminal sends it whenever its window changes.
            self._resting = True
            self._change_count(0, "SIGWINCH")

    # How many processes there are to be.

    def _change_count(self, count: int, why: str = "") -> None:
        if not self._served:
            return
        if why:
            log.info("%d %s: %s", count, self.what if count == 1 else self._what_several, why)
        old, self._count = self._count, count
        self._hooks.server.num_workers = count
        if count != old:
            self._hooks.call("nworkers_changed", self._hooks.server, count, old)
        self._fill()
        for child in [child for child in self._children.values() if child.slot is not None and child.slot >= count]:
            if not child.retired:
                self._send_away(child)

    def _fill(self) -> None:
        """Start what is missing."""
        for slot in range(self._count):
            if not self._is_filled(slot):
                self._fork_server(slot)

    def _is_filled(self, slot: int) -> bool:
        return any(child.slot == slot and not child.retired for child in self._children.values())

    def _refill(self, slot: int) -> None:
        if slot >= self._count or self._is_filled(slot):
            return
        spare = next((child for child in self._children.values() if child.is_spare and child.stands_by), None)
        if spare is None or spare.counter is None or not spare.control.tell(serve=True):
            self._fork_server(slot)
            return
        log.info("%s %d was a spare, and takes the place", self.what, spare.pid)
        spare.slot, spare.stands_by = slot, False
        self._load.join(spare.counter)
        self._fill_spares()

    def _fill_spares(self) -> None:
        """Have as many as are wanted, of the code of those that serve."""
        have = sum(child.is_spare for child in self._children.values())
        if self._complete and not self._reloads:
            for _ in range(have, self.settings.replace.spare):
                self._fork_server(None)

    # A supervisor beside this one, for another version of Python or of offload.

    def _start_heir(self) -> None:
        if self._heir is not None:
            log.warning("SIGUSR2 does nothing: the new supervisor %d is on its way", self._heir)
            return
        self._hooks.call("pre_exec", self._hooks.server)
        try:
            self._heir = start_another(self._listening, self._began_in, HANDLED)
        except OSError as error:
            log.error("no new supervisor can be started: %s", error.strerror)
            return
        log.info("SIGUSR2: the new supervisor is %d; this one stops when that is ready", self._heir)
        self._service.tell(MAINPID=str(self._heir))

    def _reopen_logs(self) -> None:
        logs.reopen()
        log.info("reopening the logs: SIGUSR1")
        self._signal(list(self._children.values()), signal.SIGUSR1)

    # Reload: each server process stays until its replacement is ready, one after the other.

    def _reload(self) -> None:
        log.info("reloading: SIGHUP")
        if self._complete:
            self._service.tell(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        self._restarts.hurry()
        try:
            self.directory.enter()
            if self.reread is not None:
                self.settings = self.reread()
        except ConfigurationError as error:
            log.error("not reloaded, the old %s go on: %s", self._what_several, error)
            self.settings = self._settled
            self.directory.go_back()
            self._tell_ready()
            return
        self._hooks.renew(self.settings)
        self._hooks.call("on_reload", self._hooks.server)
        self._resting = False
        self._heartbeats = Heartbeats(self.settings.replace.timeout)
        self._pid_file.renew()
        self._reloads = True
        self._begin_reload()

    def _begin_reload(self) -> None:
        """Whoever was forked until now may have the code of before; who only boots has no clients, and goes at once."""
        for child in list(self._children.values()):
            if child.is_spare:
                self._send_away(child)
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
        if not self._to_replace and not any(child.boots for child in self._children.values()):
            self._change_count(self.settings.process.workers)
        self._replace_next()

    def _replace_next(self) -> None:
        """Have as many replacements under way as may be at a time."""
        under_way = sum(child.replaces is not None for child in self._children.values())
        while self._to_replace and under_way < self.settings.replace.reload_parallel:
            old = self._to_replace.pop(0)
            if old.pid in self._children and old.slot is not None and not self._gives_way(old):
                self._fork_server(old.slot, replaces=old)
                under_way += 1
        if self._reloads and not self._to_replace and not under_way:
            self._reloads = False
            self._change_count(self.settings.process.workers)
            self._tell_ready()
            self._fill_spares()

    def _gives_way(self, old: Child) -> bool:
        """Whether another takes its place already."""
        return old.retired or any(child.replaces is old for child in self._children.values())

    def _outlived(self, child: Child, why: str) -> None:
        if child.serves and child not in self._to_replace and not self._gives_way(child):
            log.info("%s %d gives way to another: %s", self.what, child.pid, why)
            self._to_replace.append(child)
            self._replace_next()

    def _replaced(self, child: Child, old: Child) -> None:
        child.replaces = None
        if old.pid in self._children:
            self._send_away(old)
        self._replace_next()

    def _send_away(self, old: Child) -> None:
        self._retire(old)
        if not old.ready or not old.control.tell(retire=True):
            self._signal([old], signal.SIGTERM)

    def _retire(self, child: Child) -> None:
        child.retired = True
        child.kill_at = time.monotonic() + self._seconds_to_leave

    def _not_replaced(self, child: Child, old: Child, how: str) -> None:
        what = "reloaded" if self._reloads else "replaced"
        log.error("not %s, the old %s go on: %d %s", what, self._what_several, child.pid, child.failure or how)
        self._give_up_reload()
        if old.serves and old.pid in self._children and not self._reloads:
            pause = self._restarts.pause_after(old.slot, 0.0, was_ready=False)
            self._restarts.add(pause, partial(self._outlived, old, "trying again"))
        self._tell_ready()
        self._reloads = False
        self._fill_spares()
        if old.pid not in self._children and old.slot is not None:
            # It died meanwhile, and its place was left to the replacement.
            self._restart_later(old, 0.0)

    def _give_up_reload(self) -> None:
        """No process is replaced any more; one that has to be started again gets the code of those that run."""
        self._to_replace.clear()
        self.settings = self._settled
        self._hooks.renew(self.settings)
        self._heartbeats = Heartbeats(self.settings.replace.timeout)
        if self.directory.go_back():
            self._pid_file.renew()

    def _patience(self) -> float | None:
        moments = self._restarts.moments()
        for child in self._children.values():
            moments += [moment for moment in (child.kill_at, child.give_up_at, child.tell_at) if moment is not None]
        others = (self._deadline, self._heartbeats.next_look, self._service.next_sign)
        moments += [moment for moment in others if moment is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _look_at_boots(self) -> None:
        """Tell of processes that are slow to be ready, and give up those that replace others."""
        now = time.monotonic()
        for child in self._children.values():
            if child.tell_at is not None and child.tell_at <= now:
                lasted = now - child.started
                child.tell_at = child.started + 2 * lasted
                log.warning("%s %d is not ready yet, after %.0f s", self.what, child.pid, lasted)
            if child.give_up_at is not None and child.give_up_at <= now:
                child.give_up_at = None
                seconds = self.settings.replace.boot_timeout
                if child.replaces is not None:
                    child.failure = f"was not ready after {seconds:g} s (--boot-timeout); it is killed"
                    self._signal([child], signal.SIGKILL)
                else:
                    log.error("%s %d was not ready after %g s (--boot-timeout)", self.what, child.pid, seconds)

    def _stop(self) -> None:
        """Servers first, then the hubs: consumers of closing connections still send."""
        now = time.monotonic()
        servers = [child for child in self._children.values() if child.hub_path is None]
        if self._stage is _Stage.RUNNING:
            self._stage = _Stage.ENDING_SERVERS
            self._restarts.clear()
            self._to_replace.clear()
            for child in self._children.values():
                child.give_up_at = child.tell_at = None
            if self._signals.stop is not None:
                log.info("stopping: %s", signal.Signals(self._signals.stop).name)
            self._deadline = now + self._seconds_to_leave
            self._signal(servers, signal.SIGTERM)
            self._service.tell(STOPPING="1")
        if self._signals.stop == signal.SIGQUIT and self._stage is _Stage.ENDING_SERVERS and self._deadline is not None:
            # Hubs end at once when they are told, and take their sockets along.
            self._deadline = None
            self._end_at_once(servers, signal.SIGQUIT, "worker_int")
        elif self._deadline is not None and self._deadline <= now:
            self._deadline = None
            self._kill(servers if self._stage is _Stage.ENDING_SERVERS else list(self._children.values()))
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
            self._end_at_once([self._children[pid]], signal.SIGABRT, "worker_abort")

    def _end_at_once(self, children: list[Child], number: int, hook: str) -> None:
        """Kill, or where there is a hook send the signal that has it called before the process ends."""
        if self._hooks[hook] is None:
            self._signal(children, signal.SIGKILL)
            return
        self._signal(children, number)
        for child in children:
            child.kill_at = time.monotonic() + self.settings.process.kill_timeout

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

    def _fork_server(self, slot: int | None, replaces: Child | None = None) -> None:
        """Fork one for a place, or for none: a spare."""
        counter = self._load.take()
        if slot is None:
            self._load.put_aside(counter)
        worker = self._hooks.worker()
        self._hooks.call("pre_fork", self._hooks.server, worker)

        def serve(control: Control) -> int:
            worker.pid = os.getpid()
            give_title(self.what, self.settings)
            patch()
            main = importlib.import_module(self.entry).main
            listening = list(self._listening.values())
            load = self._load.slot(counter)
            return int(main(self.settings, listening, control, load, self._hooks, worker, slot is None))

        try:
            child = self._fork(serve)
        except OSError as error:
            self._load.clear(counter)
            self._server_not_forked(slot, replaces, error)
        else:
            child.slot, child.counter, child.replaces, child.worker = slot, counter, replaces, worker
            worker.pid = child.pid
            self._hooks.server.WORKERS[child.pid] = worker
            child.tell_at = child.started + _SLOW_BOOT_SECONDS
            if self.settings.replace.boot_timeout is not None:
                child.give_up_at = child.started + self.settings.replace.boot_timeout

    def _server_not_forked(self, slot: int | None, replaces: Child | None, error: OSError) -> None:
        if not self._served:
            self._error = BootError(f"the {self.what} cannot be started: {error.strerror}")
        elif replaces is not None:
            log.error("not reloaded, the old %s go on: no other can be started: %s", self._what_several, error.strerror)
            self._give_up_reload()
        else:
            again = self._fill_spares if slot is None else partial(self._refill, slot)
            self._try_again(slot, self.what, error, again)

    def _try_again(self, key: object, what: str, error: OSError, restart: Callable[[], None]) -> None:
        pause = self._restarts.pause_after(key, 0.0, was_ready=False)
        log.error("no %s can be started: %s; trying again in %g s", what, error.strerror, pause)
        self._restarts.add(pause, restart)

    def _fork_hub(self, path: str) -> None:
        def serve(control: Control) -> int:
            from offload.hub.server import serve as serve_hub

            for sock in self._listening.values():
                sock.close()
            give_title("hub", self.settings)
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
        def begin(control: Control) -> int:
            try:
                become(self.settings.process)
            except ConfigurationError as error:
                control.tell(failed=str(error))
                return BOOT_FAILED
            return work(control)

        child = fork(begin, self._leave)
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
            if "standby" in note:
                child.stands_by = True
                child.give_up_at = child.tell_at = None
                log.info("spare %s %d is ready", self.what, child.pid)
            if "outlived" in note:
                self._outlived(child, note["outlived"])
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
        child.give_up_at = child.tell_at = None
        if child.worker is not None:
            child.worker.booted = True
        self.directory.settle()
        self._settled = self.settings
        if not self._served:
            for line in about:
                log.info("%s", line)
        log.info("%s %d is ready", self.what, child.pid)
        if not self._served:
            self._served = True
            self._change_count(self.settings.process.workers)
        if child.replaces is not None:
            self._replaced(child, child.replaces)
        if not self._complete and sum(other.serves for other in self._children.values()) == self._count:
            self._complete = True
            self._handover.retire_old()
            self._tell_ready()
            self._fill_spares()

    def _tell_ready(self) -> None:
        if self._complete:
            self._service.tell(READY="1", STATUS=f"running {self.settings.app}{self._where}, -w {self._count}")

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
            if pid == self._heir:
                self._heir = None
                log.error("the new supervisor %d ended; this one goes on", pid)
                self._service.tell(MAINPID=str(os.getpid()))
            if child is None:
                # Of a process that ended before it, and left it to process 1, which this one may be.
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
        if child.worker is not None:
            child.worker.alive = False
            self._hooks.server.WORKERS.pop(child.pid, None)
            self._hooks.call("child_exit", self._hooks.server, child.worker)
        if self._signals.stop is not None or self._error is not None:
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        if child.retired:
            log.info("%s %d was replaced and %s", self.what, child.pid, how)
        elif child.slot is not None and not self._served and self.settings.replace.reload:
            why = f": {child.failure}" if child.failure else ""
            log.error("%s %d %s%s; waiting for a change", self.what, child.pid, how, why)
            self._restarts.add(WAIT_FOR_CHANGE_SECONDS, partial(self._fork_server, child.slot))
        elif child.slot is not None and not self._served:
            self._error = BootError(child.failure or f"the {self.what} {how} before it was ready")
        elif child.hub_path is not None and status == HUB_REFUSED:
            self._hub_refused(child)
        elif child.is_spare:
            log.error("spare %s %d %s%s", self.what, child.pid, how, f": {child.failure}" if child.failure else "")
            pause = self._restarts.pause_after("spare", time.monotonic() - child.started, child.stands_by)
            self._restarts.add(pause, self._fill_spares)
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
            self._restarts.add(pause, partial(self._refill, slot))

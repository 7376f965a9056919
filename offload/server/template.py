"""The template of ``--preload``: imports the application, and forks the processes that serve it.

It never runs the loop: what the application has begun at its import, such as a thread, which is a greenlet here, goes
on in each of the processes, and not in the template. Imported when gevent has patched the standard library.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import signal
import socket
import warnings
from collections.abc import Callable
from typing import NoReturn

from gevent import monkey
from gevent.os import fork_gevent

from offload.consumers import configuration
from offload.server import logs, system
from offload.server.boot import succeeds
from offload.server.child import run_and_end
from offload.server.control import BOOT_FAILED, Control
from offload.server.forking import Entry, Order
from offload.server.given import Loaded

_fork: Callable[[], int] = monkey.get_original("os", "fork")
_waitpid: Callable[[int, int], tuple[int, int]] = monkey.get_original("os", "waitpid")
# gevent's own waits for the loop to turn.
_close: Callable[[int], None] = monkey.get_original("os", "close")
# As in processes that were forked with their pair: a thread of the system's tells by it.
_Socket: type[socket.socket] = monkey.get_original("socket", "socket")


def serve(entry: Entry, control: Control, orders: socket.socket) -> int:
    """Import the application, and fork a process at each order.

    Args:
        entry: what the processes run.
        control: to the supervisor.
        orders: of packets. Each has the control of a process with it, and is answered by the id of the process, or the
            negative number of an error. What the process is given, it hears by its control.

    Returns:
        The exit status, when the supervisor wants no more.
    """
    settings = entry.release.settings
    found: list[Loaded] = []

    def load() -> None:
        loaded = importlib.import_module(entry.module).load(settings, control)
        if settings.layer.dispatch != "layer":
            for alias in loaded.aliases:
                # Imports the consumers.
                configuration.router_for(alias)
        found.append(loaded)

    if not succeeds(load, settings, control):
        return BOOT_FAILED
    # Collected now, and never looked at again: each look would write into pages that are shared.
    gc.collect()
    gc.freeze()
    supervisor = os.getppid()
    # At once, since nothing is logged here that it could interrupt: what is forked next takes over what is open.
    later = signal.signal(signal.SIGUSR1, lambda *_: logs.reopen())
    control.tell(template=True)
    while True:
        order, descriptors, _, _ = socket.recv_fds(orders, 1, 1)
        if not order:
            return 0
        (theirs,) = descriptors

        def work(theirs: int = theirs) -> int:
            signal.signal(signal.SIGUSR1, later)
            orders.close()
            control.sock.close()
            # What is imported asks for its hub by this control.
            control.sock = _Socket(fileno=theirs)
            return _serve(entry, control, found[0], supervisor)

        orders.send(str(_fork_for_supervisor(work)).encode())
        _close(theirs)


def _serve(entry: Entry, control: Control, loaded: Loaded, supervisor: int) -> int:
    notes, alive = control.hear()
    while alive and not notes:
        notes, alive = control.hear()
    if not notes:
        # The supervisor does not know this process: the template was killed meanwhile, or took too long.
        return 1
    system.end_with_parent(supervisor)
    counter, is_spare, of_worker = pickle.loads(bytes.fromhex(notes[0]["order"]))
    worker = entry.release.hooks.worker()
    vars(worker).update(of_worker)
    return entry.run(Order(counter, worker, is_spare), control, loaded)


def _fork_for_supervisor(work: Callable[[], int]) -> int:
    """Fork a process that is the supervisor's child: the system gives it orphans, so one between has to end.

    Returns:
        Its process id, or a negative number of an error.
    """
    ends: tuple[int, ...] = ()
    try:
        told, tell = ends = os.pipe()
        system.flush_streams()
        with warnings.catch_warnings():
            # Of threads, which the child is without, as under every server that forks what it has imported.
            warnings.simplefilter("ignore", DeprecationWarning)
            between = _fork()
    except OSError as error:
        for end in ends:
            _close(end)
        return -(error.errno or 1)
    if between == 0:
        _close(told)
        _fork_again(work, tell)
    _close(tell)
    answer = int(os.read(told, 64) or b"-1")
    _close(told)
    # When it has ended, its child is the supervisor's. Where the application ignores SIGCHLD, the system reaps it.
    with contextlib.suppress(ChildProcessError):
        _waitpid(between, 0)
    return answer


def _fork_again(work: Callable[[], int], tell: int) -> NoReturn:
    status = 1
    try:
        # With a new loop of the system's under the hub, which what is imported may have used.
        pid = fork_gevent()
        if pid == 0:
            _close(tell)
            run_and_end(work)
        os.write(tell, str(pid).encode())
        status = 0
    except OSError as error:
        os.write(tell, str(-(error.errno or 1)).encode())
    finally:
        # At once: buffers of handlers of the log, and the like, are there in the other processes, too.
        os._exit(status)

"""Where server processes come from: of the supervisor itself, or with ``--preload`` of a template.

A template is a process that has imported the application, and serves nothing. What is forked from it shares the memory
of what it has imported. It belongs to a release: a reload makes another, from which the replacements are forked.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import pickle
import signal
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from offload.server import system
from offload.server.child import Child
from offload.server.children import Children
from offload.server.control import Control, pair
from offload.server.given import Given, Loaded
from offload.server.hooks import Worker
from offload.server.listening import Listening
from offload.server.load import SharedLoad
from offload.server.patch import patch
from offload.server.release import Release

log = logging.getLogger("offload.server")

_WHAT = "template process"
_FORK = b"f"
_ANSWER_SECONDS = 10.0
"""For a fork, which takes milliseconds; a template that takes longer is stuck."""


@dataclass(frozen=True)
class Order:
    """A process that is wanted.

    Attributes:
        counter: its counter in the shared load.
        worker: as hooks see it.
        is_spare: whether it serves only when the supervisor tells it to.
    """

    counter: int
    worker: Worker
    is_spare: bool


@dataclass
class Entry:
    """What a process runs.

    Attributes:
        module: its ``load`` imports the application, and its ``main`` serves it; imported when gevent has patched.
        what: such a process is called in the log.
    """

    module: str
    what: str
    release: Release
    listening: Listening
    load: SharedLoad

    def run(self, order: Order, control: Control, loaded: Loaded | None = None) -> int:
        """In the process: serve; the exit status."""
        order.worker.pid = os.getpid()
        system.give_title(self.what, self.release.settings)
        if loaded is None:
            patch()
        given = Given(
            self.release.settings, self.listening.sockets, control, self.load.slot(order.counter),
            self.release.hooks, order.worker, order.is_spare, loaded,
        )  # fmt: skip
        return int(importlib.import_module(self.module).main(given))


class Source:
    """Where processes come from. Here each imports the application itself, when it is forked.

    Args:
        children: the supervisor's.
        entry: what the processes run.
    """

    def __init__(self, children: Children, entry: Entry) -> None:
        self._children = children
        self._entry = entry

    @property
    def is_ready(self) -> bool:
        """Whether a process can be forked now; if not, the supervisor hears when it can."""
        return True

    @property
    def is_lost(self) -> bool:
        """Whether none can be forked before the next `renew`."""
        return False

    def renew(self) -> None:
        """Take the code and the settings of now; `is_ready` when processes can be forked with them.

        Raises:
            OSError: there may be no more processes, memory or descriptors.
        """

    def fork(self, order: Order) -> Child:
        """Fork a process.

        Raises:
            OSError: there may be no more processes, memory or descriptors.
        """
        entry = self._entry
        return self._children.fork(entry.what, entry.release.settings.process, partial(entry.run, order))

    def settle(self) -> None:
        """What was renewed last serves."""

    def go_back(self) -> None:
        """What was renewed last is of no use."""

    def forget(self, template: Child) -> None:
        """A template has ended."""


class Templates(Source):
    """Processes are forked from a template, which has imported the application.

    Raises:
        ConfigurationError: the system cannot have this process be the parent of what a template forks.
    """

    def __init__(self, children: Children, entry: Entry) -> None:
        super().__init__(children, entry)
        system.adopt_orphans()
        self._settled: Child | None = None
        # Of a reload that is under way, or in place of one that has died.
        self._next: Child | None = None

    @property
    def _used(self) -> Child | None:
        return self._next or self._settled

    @property
    def is_ready(self) -> bool:
        """See `Source`."""
        return self._used is not None and self._used.ready

    @property
    def is_lost(self) -> bool:
        """See `Source`."""
        return self._used is None

    def renew(self) -> None:
        """See `Source`."""
        settings = self._entry.release.settings
        self._end(self._next)
        self._next = None
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def serve(control: Control) -> int:
            mine.close()
            system.give_title("template", settings)
            patch()
            template = importlib.import_module("offload.server.template")
            return int(template.serve(self._entry, control, theirs))

        try:
            self._next = self._children.fork(_WHAT, settings.process, serve)
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()
        mine.settimeout(_ANSWER_SECONDS)
        self._next.orders = mine
        self._next.expect(settings.replace.boot_timeout)
        self._next.replaces = self._settled

    def fork(self, order: Order) -> Child:
        """See `Source`."""
        template = self._used
        if template is None or template.orders is None or not template.ready:
            raise OSError(errno.ESRCH, "there is no template process")
        mine, theirs = pair()
        try:
            socket.send_fds(template.orders, [_FORK], [theirs.sock.fileno()])
            answer = int(template.orders.recv(64))
        except (OSError, ValueError) as error:
            # What it answers late would be taken for the answer to another.
            self._children.signal([template], signal.SIGKILL)
            mine.sock.close()
            raise OSError(errno.ESRCH, f"the template process {template.pid} does not answer") from error
        finally:
            theirs.sock.close()
        if answer < 0:
            mine.sock.close()
            raise OSError(-answer, os.strerror(-answer))
        # Whatever its size; one that was killed meanwhile is not told, and reaped as any other.
        mine.sock.settimeout(_ANSWER_SECONDS)
        mine.tell(order=pickle.dumps((order.counter, order.is_spare, _portable(order.worker))).hex())
        mine.sock.setblocking(False)
        return self._children.add(Child(answer, self._entry.what, mine, time.monotonic()))

    def settle(self) -> None:
        """See `Source`."""
        if self._next is not None:
            self._end(self._settled)
            self._settled, self._next = self._next, None

    def go_back(self) -> None:
        """See `Source`."""
        if self._settled is not None:
            self._end(self._next)
            self._next = None

    def forget(self, template: Child) -> None:
        """See `Source`."""
        if template is self._settled:
            self._settled = None
        if template is self._next:
            self._next = None

    def _end(self, template: Child | None) -> None:
        if template is not None and template in self._children:
            template.replaces = None
            self._children.retire(template, self._entry.release.settings.process.kill_timeout)


def _portable(worker: Worker) -> dict[str, Any]:
    """What hooks have made of the worker, for its copy in a process that does not share this one's memory."""
    found = {}
    for name, value in vars(worker).items():
        if name not in ("cfg", "log"):
            try:
                pickle.dumps(value)
            except Exception as error:  # noqa: BLE001 -- whatever a class of the project's raises
                log.warning("worker.%s, of a hook, is not there in the process (--preload): %r", name, error)
            else:
                found[name] = value
    return found

"""The end of a server: its processes first, then the hubs, since consumers of closing connections still send."""

from __future__ import annotations

import logging
import signal
import time
from enum import Enum

from offload.server.children import Children
from offload.server.places import Places
from offload.settings import ProcessOptions

log = logging.getLogger("offload.server")


class _Stage(Enum):
    ENDING_SERVERS = "server processes finish what they have"
    ENDING_HUBS = "nobody is left to use the hubs"


class Shutdown:
    """Begun when it is made.

    Args:
        children: they all leave.
        places: know the hooks of processes that are ended at once.
        options: say how long they may take.
        number: the signal that asked for it, if one did.

    Attributes:
        deadline: when something is due, by the monotonic clock.
    """

    def __init__(self, children: Children, places: Places, options: ProcessOptions, number: int | None) -> None:
        self._children = children
        self._places = places
        self._options = options
        self._stage = _Stage.ENDING_SERVERS
        self.deadline: float | None = time.monotonic() + options.kill_seconds
        if number is not None:
            log.info("stopping: %s", signal.Signals(number).name)
        for child in children:
            child.give_up_at = child.tell_at = None
            if child.orders is not None:
                # Whatever its application has made of SIGTERM.
                child.orders.close()
        servers = [child for child in children if child.hub_path is None]
        if number == signal.SIGINT:
            places.interrupt(servers)
        children.signal(servers, signal.SIGTERM)

    def go_on(self, at_once: bool) -> None:
        """Do what is due.

        Args:
            at_once: whether open requests and connections are cut off.
        """
        servers = [child for child in self._children if child.hub_path is None]
        if at_once and self._stage is _Stage.ENDING_SERVERS and self.deadline is not None:
            # Hubs end at once when they are told, and take their sockets along.
            self.deadline = None
            self._places.end_at_once(servers, signal.SIGQUIT, "worker_int")
        elif self.deadline is not None and self.deadline <= time.monotonic():
            self.deadline = None
            late = servers if self._stage is _Stage.ENDING_SERVERS else list(self._children)
            self._children.kill(late, self._options.kill_timeout)
        if not servers and self._stage is _Stage.ENDING_SERVERS:
            self._stage = _Stage.ENDING_HUBS
            self.deadline = time.monotonic() + self._options.kill_timeout
            # The pair's end, not a signal: one may have been sent to the whole process group, when it was too early.
            for hub in self._children:
                self._children.part(hub)

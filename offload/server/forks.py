"""Children that the application forks: they get a loop of their own, and nothing of their parent's service.

A fork copies the whole process: listeners, open connections, the tie to the supervisor, and every greenlet that waits
on the loop. Left as it is, the copy would accept and answer requests, and finish other requests a second time. So the
child closes what belongs to the service, and takes a new hub and loop, on which no greenlet of its parent waits.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable

import gevent
from greenlet import getcurrent, greenlet

from offload import at_fork
from offload.server import system

log = logging.getLogger("offload.server")

_HANDLED = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGABRT)
"""What processes of a server handle; a child of the application's does what a program does by default."""

_parents: list[object] = []
"""Hub and loop of the parent. Kept, since a greenlet that nobody refers to would run its ``finally`` clauses."""


def let_go_in_children(let_go: Callable[[Callable[[], None]], None]) -> None:
    """From now on a child that the application forks does not serve.

    Args:
        let_go: called in such a child; it closes what belongs to the service. Its argument ends the child, for where
            the task that forked has ended and others' would follow.
    """

    def after() -> None:
        let_go(_end)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        _take_new_loop()

    at_fork.last_in_child(after)


def _take_new_loop() -> None:
    hub = gevent.get_hub()
    me, main = getcurrent(), hub.parent
    assert main is not None
    _parents.extend((hub, hub.loop))
    if me is main:
        hub.destroy(destroy_loop=True)
        return
    # The hub ends where its parent goes on, which is to be here, and not in what the main greenlet waits for.
    me.parent = main
    hub.parent = me
    hub.destroy(destroy_loop=True)
    new = gevent.get_hub()
    # Where nothing else ends the child, it ends when nobody waits on the new loop.
    end = greenlet(_end_when_idle, main)
    end.switch(me)
    new.parent = end
    me.parent = new
    if isinstance(me, gevent.Greenlet):
        me.rawlink(_end)


def _end_when_idle(back: greenlet) -> None:
    try:
        back.switch()
    finally:
        _end()


def _end(*_: object) -> None:
    """End a child whose own task is over: what comes next in its code is its parent's to do."""
    log.warning("a child that the application forked came to the end of its task, and not to that of its process")
    system.flush_streams()
    os._exit(0)

"""Processes that give way to others: at a reload, and past the limits of their lives.

Each stays until its replacement is ready. One that fails leaves the old ones serving.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from offload.exceptions import ConfigurationError
from offload.server.child import Child
from offload.server.children import Children
from offload.server.forking import Source
from offload.server.places import Places
from offload.server.release import Release
from offload.server.restarts import Restarts

log = logging.getLogger("offload.server")


class Replacing:
    """Replaces processes, up to ``--reload-parallel`` at a time.

    Args:
        children: the supervisor's.
        places: theirs.
        release: what the new ones are forked with.
        source: where they come from.
        restarts: those that are due.
        reloaded: called when a reload is over, whatever came of it.
    """

    def __init__(
        self,
        children: Children,
        places: Places,
        release: Release,
        source: Source,
        restarts: Restarts,
        reloaded: Callable[[], None],
    ) -> None:
        self._children = children
        self._places = places
        self._release = release
        self._source = source
        self._restarts = restarts
        self._reloaded = reloaded
        self._waiting: list[Child] = []

    def reload(self) -> bool:
        """Have all processes be of the code and the settings of now. Returns whether these can be read."""
        self._restarts.hurry()
        try:
            self._release.renew()
        except ConfigurationError as error:
            log.error("not reloaded, the old %s go on: %s", self._places.named(2), error)
            self._reloaded()
            return False
        hooks = self._release.hooks
        hooks.call("on_reload", hooks.server)
        self._places.is_changing = True
        try:
            self._source.renew()
        except OSError as error:
            self._not_replaced(None, f"no other can be started: {error.strerror}")
        else:
            if self._source.is_ready:
                self._replace_all()
        return True

    def source_is_ready(self) -> None:
        """Processes can be forked, which could not."""
        if self._places.is_changing:
            self._replace_all()
        else:
            self._places.fill()
            self._places.fill_spares()
            self._go_on()

    def _replace_all(self) -> None:
        """Whoever was forked until now may have the code of before; who only boots has no clients, and goes at once."""
        seconds = self._release.settings.process.kill_seconds
        for child in self._children:
            if child.is_spare:
                self._children.retire(child, seconds)
        self._waiting = sorted((child for child in self._children if child.serves), key=lambda child: child.slot or 0)
        for child in [child for child in self._children if child.boots]:
            log.info("%s %d was not ready yet; starting another in its place", child.what, child.pid)
            self._children.retire(child, seconds)
            old, child.replaces = child.replaces, None
            if child.slot is not None and (old is None or old not in self._children):
                self._places.start(child.slot)
        self._go_on()

    def _go_on(self) -> None:
        """Have as many replacements under way as may be at a time."""
        under_way = sum(child.replaces is not None for child in self._children)
        while self._waiting and self._source.is_ready and under_way < self._release.settings.replace.reload_parallel:
            old = self._waiting.pop(0)
            if old in self._children and old.slot is not None and not self._gives_way(old):
                try:
                    self._places.fork(old.slot, replaces=old)
                except OSError as error:
                    self._not_replaced(old, f"no other can be started: {error.strerror}")
                else:
                    under_way += 1
        if self._places.is_changing and not self._waiting and not under_way:
            self._places.change_count(self._release.settings.process.workers)
            self._end_reload()

    def _end_reload(self) -> None:
        self._places.is_changing = False
        self._reloaded()
        self._places.fill_spares()

    def _gives_way(self, old: Child) -> bool:
        """Whether another takes its place already."""
        return old.retired or any(child.replaces is old for child in self._children)

    def outlived(self, child: Child, why: str) -> None:
        """One is past a limit of its life."""
        if child.serves and child not in self._waiting and not self._gives_way(child):
            log.info("%s %d gives way to another: %s", child.what, child.pid, why)
            self._waiting.append(child)
            self._go_on()

    def ready(self, child: Child) -> None:
        """One is ready; another leaves, if it was to take the place of that."""
        if child.replaces is not None:
            old, child.replaces = child.replaces, None
            if old in self._children:
                self._children.retire(old, self._release.settings.process.kill_seconds)
            self._go_on()

    def failed(self, child: Child, how: str) -> None:
        """One has ended before it could take the place of another."""
        assert child.replaces is not None
        self._not_replaced(child.replaces, f"{child.pid} {child.failure or how}")

    def _not_replaced(self, old: Child | None, why: str) -> None:
        """No process is replaced any more; one that has to be started again gets the code of those that run."""
        what = "reloaded" if self._places.is_changing else "replaced"
        log.error("not %s, the old %s go on: %s", what, self._places.named(2), why)
        self._waiting.clear()
        self._release.go_back()
        self._source.go_back()
        if old is not None and old.serves and old in self._children and not self._places.is_changing:
            pause = self._restarts.pause_after(old.slot, 0.0, was_ready=False)
            self._restarts.add(pause, partial(self.outlived, old, "trying again"))
        self._end_reload()
        if old is not None and old not in self._children and old.slot is not None:
            # It died meanwhile, and its place was left to the replacement.
            self._restarts.add(0.0, partial(self._places.refill, old.slot))
        elif old is not None and old.orders is not None:
            # Places whose processes have died while it was imported were left empty.
            self._places.fill()

    def stop(self) -> None:
        """All leave, and nobody follows."""
        self._waiting.clear()

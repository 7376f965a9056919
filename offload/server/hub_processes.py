"""The hubs of the IPC layer: one process for each path that a server process asks for."""

from __future__ import annotations

import logging
import time
from functools import partial

from offload.exceptions import ConfigurationError
from offload.server.child import Child
from offload.server.children import Children
from offload.server.control import BootError, Control
from offload.server.listening import Listening
from offload.server.release import Release
from offload.server.restarts import Restarts
from offload.server.system import give_title

log = logging.getLogger("offload.server")

HUB_REFUSED = 2
"""Exit status of a hub whose path cannot be used, which starting it again would not change."""
_WHAT = "hub process"


class HubProcesses:
    """Starts hubs, and starts them again when they end.

    Args:
        children: the supervisor's.
        release: has the settings.
        restarts: those that are due.
        listening: closed in hubs.
    """

    def __init__(self, children: Children, release: Release, restarts: Restarts, listening: Listening) -> None:
        self._children = children
        self._release = release
        self._restarts = restarts
        self._listening = listening

    def want(self, path: str) -> None:
        """Have one at this path."""
        if any(child.hub_path == path for child in self._children):
            return
        settings = self._release.settings

        def serve(control: Control) -> int:
            from offload.hub.server import serve as serve_hub

            self._listening.close()
            give_title("hub", settings)
            try:
                return serve_hub(path, control.sock)
            except ConfigurationError as error:
                control.tell(failed=str(error))
                return HUB_REFUSED

        try:
            self._children.fork(_WHAT, settings.process, serve).hub_path = path
        except OSError as error:
            self._restarts.try_again(path, _WHAT, error, partial(self.want, path))

    def ended(self, hub: Child, status: int, how: str, has_served: bool) -> None:
        """Start another in place of one that has ended.

        Args:
            hub: that one.
            status: its exit status.
            how: it ended, in words.
            has_served: whether there is a server process that was ready.

        Raises:
            BootError: there cannot be a hub, and nobody is served yet.
        """
        if status == HUB_REFUSED:
            if not has_served:
                # What its clients would say of it is not the cause.
                raise BootError(f"there is no hub: {hub.failure}")
            log.error("there is no hub: %s; it is started again when a reload (SIGHUP) asks for it", hub.failure)
            return
        assert hub.hub_path is not None
        why = f": {hub.failure}" if hub.failure else ""
        log.error("the %s %d %s%s; starting another", _WHAT, hub.pid, how, why)
        pause = self._restarts.pause_after(hub.hub_path, time.monotonic() - hub.started, hub.ready)
        self._restarts.add(pause, partial(self.want, hub.hub_path))

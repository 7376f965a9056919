"""Looks at a project as its server would, without serving: addresses, the application, routing, layers, TLS.

Imported after gevent has patched the standard library.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator

from offload.consumers import configuration
from offload.exceptions import LayerUnavailable, OffloadError
from offload.layers.ipc import IPCLayer
from offload.server import sockets
from offload.server.application import load_application
from offload.server.boot import declare_layers, tls_context
from offload.settings import Settings


class Check:
    """Of a project with these settings.

    Attributes:
        problems: what would keep a server from serving, a sentence each; an exception of the project's own code comes
            with its traceback.
        unreachable: the layers that are away now, a sentence each. Where a project is built, they need not be there.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.unreachable: list[str] = []
        self.problems = [problem for address in settings.listen.bind for problem in _of(self._look_at(address))]
        self.problems += _of(self._look_at_application)
        if settings.tls.wanted:
            self.problems += _of(lambda: tls_context(settings))

    def _look_at(self, address: str) -> Callable[[], None]:
        return lambda: sockets.check(address, self._settings.listen)

    def _look_at_application(self) -> None:
        settings = self._settings
        module, _ = load_application(settings.app, may_be_routing=settings.layer.dispatch == "layer")
        for alias in declare_layers(settings, module, lambda layer: None):
            layer = configuration.layer_for(alias)
            configuration.router_for(alias)
            if isinstance(layer, IPCLayer):
                continue  # its server is started with ours
            try:
                layer.check()
            except LayerUnavailable as error:
                self.unreachable.append(str(error))


def _of(look: Callable[[], object]) -> Iterator[str]:
    try:
        look()
    except OffloadError as error:
        yield str(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- told with its traceback
        yield f"{type(error).__name__}: {error}\n{traceback.format_exc().rstrip()}"

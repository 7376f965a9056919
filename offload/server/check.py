"""Looks at a project as its server would, without serving: the application, routing, layers, TLS.

Imported after gevent has patched the standard library. It connects to nothing.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator

from offload.consumers import configuration
from offload.exceptions import OffloadError
from offload.server.application import load_application
from offload.server.boot import declare_layers, tls_context
from offload.settings import Settings


def problems(settings: Settings) -> list[str]:
    """What would keep a server of these settings from serving, a sentence each.

    An exception of the project's own code comes with its traceback.
    """
    found = list(_of(lambda: _look_at_application(settings)))
    if settings.tls.wanted:
        found += _of(lambda: tls_context(settings))
    return found


def _look_at_application(settings: Settings) -> None:
    module, _ = load_application(settings.app, may_be_routing=settings.layer.dispatch == "layer")
    for alias in declare_layers(settings, module, lambda layer: None):
        configuration.layer_for(alias)
        configuration.router_for(alias)


def _of(look: Callable[[], object]) -> Iterator[str]:
    try:
        look()
    except OffloadError as error:
        yield str(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- told with its traceback
        yield f"{type(error).__name__}: {error}\n{traceback.format_exc().rstrip()}"

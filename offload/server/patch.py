"""What makes the standard library cooperative, before the application or anything of ours that needs it is imported."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from offload.server.agents import sitecustomize

_PATCHED = (
    "ssl", "socket", "time", "threading", "_thread", "select", "selectors", "queue", "subprocess", "os", "signal"
)  # fmt: skip
_COOPERATIVE = frozenset(("gevent", "greenlet", "offload", "__main__"))


def patch() -> None:
    """Patch this process's standard library for gevent, and give each greenlet a running asyncio loop of its own.

    asyncio keeps its running loop for each thread, and all greenlets share one. Its implementation in C asks the thread
    itself; the one in Python asks a `threading.local`, which gevent keeps for each greenlet. So the latter is used.
    """
    from gevent import monkey

    early = {name: dict(vars(sys.modules[name])) for name in _PATCHED if name in sys.modules}
    with warnings.catch_warnings(), _entry_points_read_once(), _without_collector():
        # Of what was imported early, which is seen to here.
        warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)
        monkey.patch_all()
    _replace_everywhere(early)
    for name in [name for name in sys.modules if name.partition(".")[0] == "asyncio"]:
        # Imported before, with the other one.
        del sys.modules[name]
    # Python's own way to say that a module cannot be imported; asyncio then takes what it has in Python.
    sys.modules["_asyncio"] = None  # type: ignore[assignment]
    _keep_hooks_of_generators()
    sitecustomize.load()


@contextmanager
def _without_collector() -> Iterator[None]:
    """Modules are hardly garbage: the collector would look at all of them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _entry_points_read_once() -> Iterator[None]:
    """Have the files of all installed packages read once: gevent looks for its plugins two dozen times."""
    from importlib import metadata

    every, read = metadata.entry_points(), metadata.entry_points
    metadata.entry_points = every.select
    try:
        yield
    finally:
        metadata.entry_points = read


def _replace_everywhere(early: Mapping[str, Mapping[str, object]]) -> None:
    """Have modules that a configuration file imported use what is patched, in place of what they took of it before.

    Args:
        early: what was in the modules that are patched, before.
    """
    patched = {
        id(original): getattr(sys.modules[module], name, original)
        for module, items in early.items()
        for name, original in items.items()
        if getattr(sys.modules[module], name, original) is not original
    }
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in sys.stdlib_module_names | _COOPERATIVE:
            for key, value in list(vars(module).items()):
                if id(value) in patched:
                    setattr(module, key, patched[id(value)])


def _keep_hooks_of_generators() -> None:
    """Have each loop's hooks for asynchronous generators, which are the thread's, apply while that loop runs alone."""
    import selectors

    class Selector(selectors.DefaultSelector):
        """Where a loop of asyncio waits, and other greenlets run."""

        def select(self, timeout: float | None = None) -> Any:
            hooks = sys.get_asyncgen_hooks()
            sys.set_asyncgen_hooks(None, None)
            try:
                return super().select(timeout)
            finally:
                sys.set_asyncgen_hooks(*hooks)

    selectors.DefaultSelector = Selector  # type: ignore[misc]

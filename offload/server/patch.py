"""What makes the standard library cooperative, before the application or anything of ours that needs it is imported."""

from __future__ import annotations

import sys
from typing import Any


def patch() -> None:
    """Patch this process's standard library for gevent, and give each greenlet a running asyncio loop of its own.

    asyncio keeps its running loop for each thread, and all greenlets share one. Its implementation in C asks the thread
    itself; the one in Python asks a `threading.local`, which gevent keeps for each greenlet. So the latter is used.
    """
    from gevent import monkey

    monkey.patch_all()
    for name in [name for name in sys.modules if name.partition(".")[0] == "asyncio"]:
        # Imported before, with the other one.
        del sys.modules[name]
    # Python's own way to say that a module cannot be imported; asyncio then takes what it has in Python.
    sys.modules["_asyncio"] = None  # type: ignore[assignment]
    _keep_hooks_of_generators()


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

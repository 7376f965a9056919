"""Agents that Python loads at its start, before any of our code (``opentelemetry-instrument``, ``ddtrace-run``, ...).

They come as a ``sitecustomize`` module, and import ssl, threads and much else. gevent has to patch before that. So the
supervisor starts its interpreter again without the agent, and each process runs the agent when it is patched, which is
also where the agent's threads are of use. This module imports nothing that gevent patches.
"""

from __future__ import annotations

import importlib.util
import os
import sys

VARIABLE = "OFFLOAD_LATE_SITECUSTOMIZE"
_HERE = os.path.dirname(os.path.abspath(__file__))


def begin_clean() -> None:
    """Start this interpreter again without its ``sitecustomize``, if that has imported what gevent has to patch."""
    place = getattr(sys.modules.get("sitecustomize"), "__file__", None)
    if place is None or "ssl" not in sys.modules or os.path.dirname(os.path.abspath(place)) == _HERE:
        return
    os.environ[VARIABLE] = os.path.abspath(place)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_HERE, os.environ.get("PYTHONPATH"))))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def load() -> None:
    """Run the ``sitecustomize`` that was put off, if there is one; what it raises fails the start of the process."""
    place = os.environ.pop(VARIABLE, None)
    if place is None:
        return
    spec = importlib.util.spec_from_file_location("sitecustomize", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)

"""Agents that Python loads at its start, before any of our code (``opentelemetry-instrument``, ``ddtrace-run``, ...).

They come as a ``sitecustomize`` module, and import ssl, threads and much else. gevent has to patch before that. So the
supervisor starts its interpreter again, with this module in the agent's place, and each process runs the agent when it
is patched, which is also where the agent's threads are of use. Nothing is imported here that gevent patches.
"""

from __future__ import annotations

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
    import importlib.util  # imports threading, from Python 3.12 on

    spec = importlib.util.spec_from_file_location("sitecustomize", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def _leave_no_trace() -> None:
    """Take this directory from the paths, which the supervisor and its children use."""
    sys.path[:] = [place for place in sys.path if place != _HERE]
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place != _HERE]
    if any(places):
        os.environ["PYTHONPATH"] = os.pathsep.join(places)
    else:
        os.environ.pop("PYTHONPATH", None)


if __name__ == "sitecustomize":
    _leave_no_trace()

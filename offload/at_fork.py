"""What a forked child does with its copy of the parent, in one order: whatever was imported when.

Python calls its own hooks in the order of their registration. So the loop of the parent could be gone before a layer
that is imported later has closed its sockets on it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

log = logging.getLogger("offload.server")

_steps: list[Callable[[], object]] = []
_last: list[Callable[[], object]] = []


def in_child(step: Callable[[], object]) -> None:
    """Have each child that is forked from now on do this, after earlier steps.

    Args:
        step: takes nothing, and neither waits nor forks. Its exception is logged, and later steps follow all the same.
            It is kept for as long as the interpreter runs.
    """
    _steps.append(step)


def last_in_child(step: Callable[[], object]) -> None:
    """The same, after all steps of `in_child`: for what takes away what they need.

    Args:
        step: as there.
    """
    _last.append(step)


def _after_fork() -> None:
    for step in [*_steps, *_last]:
        try:
            step()
        except Exception:
            # One that fails may not keep the child from letting go of the rest.
            log.exception("a step after a fork failed in the child")


os.register_at_fork(after_in_child=_after_fork)

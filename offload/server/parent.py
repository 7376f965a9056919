"""A child's tie to its supervisor while it cannot listen to it: an import may take minutes, and must not outlive it.

Linux sends the signal; elsewhere a process whose supervisor was killed finds out when its boot is done.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """End by SIGTERM when the parent dies; at once when it is dead already.

    Args:
        parent: its process id, as it was before the fork.
    """
    _on_its_death(signal.SIGTERM)
    if os.getppid() != parent:
        # It died before the line above, and no signal will come.
        os.kill(os.getpid(), signal.SIGTERM)


def let_go() -> None:
    """From now on the control pair tells of the parent's end, so that what runs can be finished."""
    _on_its_death(0)


def _on_its_death(number: int) -> None:
    if sys.platform == "linux":
        # Without effect where it is forbidden: then the control pair alone tells, later.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0)

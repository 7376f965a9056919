"""What the application has registered by `atexit`: run at its process's end, as in any Python program.

A forked process ends without Python's own clean-up, which would run what its parent registered, too: a test runner's
report, the buffers of a program that starts a server. So it forgets these first, and runs the rest itself.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import sys
from typing import Any

log = logging.getLogger("offload.server")

_SLACK_SECONDS = 5.0
"""So much longer than the supervisor's patience, which begins earlier, but may end seconds late on a busy machine."""
_LONGEST_SECONDS = 86400.0
"""Times beyond this are none that somebody waits for, and may be more than the system counts."""


def forget() -> None:
    """In a forked child: what has been registered until now is its parent's."""
    atexit._clear()


def run(seconds: float) -> None:
    """Run the handlers; what they raise is logged.

    Args:
        seconds: a process that takes longer over them ends, and writes to stderr where it was. The supervisor ends it
            earlier, but may itself be gone, and an orphan would keep its listening sockets.
    """
    sys.unraisablehook = _log_failure
    faulthandler.dump_traceback_later(min(seconds + _SLACK_SECONDS, _LONGEST_SECONDS), exit=True, file=2)
    try:
        atexit._run_exitfuncs()
    finally:
        faulthandler.cancel_dump_traceback_later()


def _log_failure(failure: Any) -> None:
    # Python's own words, which name the handler from Python 3.13 on; the traceback always does.
    log.error("%s: %r", failure.err_msg or "Exception ignored", failure.exc_value, exc_info=failure.exc_value)

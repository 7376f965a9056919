"""The standard streams of a server, which may be started without them, or lose whoever reads them."""

from __future__ import annotations

import contextlib
import os
import sys


def ensure() -> None:
    """Have all three: a socket that got the number of one that is closed would be written into by anybody."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115


def flush() -> None:
    """Send out what is printed, before a fork doubles it or the end drops it."""
    for stream in (sys.stdout, sys.stderr):
        # Nobody reads it, or the application has closed it: then it is lost, and there is nowhere to say so.
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()

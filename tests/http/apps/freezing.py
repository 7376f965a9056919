"""An application that holds up the whole process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from gevent.monkey import get_original

FROZEN_SECONDS = 2.5


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """With two pipes in the query: wait for somebody to open the one, then the other, and then for the time to pass."""
    if environ["QUERY_STRING"]:
        begin, end = environ["QUERY_STRING"].split("&")
        with open(begin, "rb"):
            until = time.monotonic() + FROZEN_SECONDS
        with open(end, "rb"):
            # gevent's own would let others have their turns.
            get_original("time", "sleep")(max(0.0, until - time.monotonic()))
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]

"""P3: the smallest WSGI application that names its length. Every WSGI server of the comparison serves this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

BODY = b"Hello, world!"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))]


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", HEADERS)
    return [BODY]

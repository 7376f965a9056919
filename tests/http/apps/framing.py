"""An application that breaks the rules when its answer has begun, or has ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], None]]
View = Callable[[Environ, Start], Iterable[bytes]]

FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"


def hello(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [("Content-Length", "5")])
    return [b"hello"]


def restarts(environ: Environ, start: Start) -> Iterator[bytes]:
    """Wants another framing when all has left that the first one allows."""
    start("200 OK", [("Content-Length", "3")] if environ["QUERY_STRING"] == "sized" else [])
    yield b"abc"
    start("500 Oops", [], sys.exc_info())
    yield FORGED


_VIEWS: dict[str, View] = {"/restarts": restarts}


def application(environ: Environ, start_response: Start) -> Iterable[bytes]:
    return _VIEWS.get(environ["PATH_INFO"], hello)(environ, start_response)

"""P11: a body that goes back as it came, and a file. Every WSGI server of the comparison serves this application.

The file is the one that BENCHMARK_FILE names; it goes out as WSGI has it, with the server's file wrapper if it has one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import FileWrapper

BLOCK_BYTES = 65536


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/file":
        file = open(os.environ["BENCHMARK_FILE"], "rb")  # noqa: SIM115 (the server closes it, with the body)
        start_response("200 OK", _headers(os.fstat(file.fileno()).st_size))
        wrapped: Iterable[bytes] = environ.get("wsgi.file_wrapper", FileWrapper)(file, BLOCK_BYTES)
        return wrapped
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", _headers(len(body)))
    return [body]


def _headers(length: int) -> list[tuple[str, str]]:
    return [("Content-Type", "application/octet-stream"), ("Content-Length", str(length))]

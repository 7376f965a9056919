"""An application that breaks the rules when its answer has begun, or has ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], None]]
View = Callable[[Environ, Start], Iterable[bytes]]

FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"


def say(text: str) -> None:
    """A line in the server's log that a test waits for."""
    sys.stderr.write(f"app: {text}\n")
    sys.stderr.flush()


def hello(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [("Content-Length", "5")])
    return [b"hello"]


def restarts(environ: Environ, start: Start) -> Iterator[bytes]:
    """Wants another framing when all has left that the first one allows."""
    start("200 OK", [("Content-Length", "3")] if environ["QUERY_STRING"] == "sized" else [])
    yield b"abc"
    start("500 Oops", [], sys.exc_info())
    yield FORGED


def endless(environ: Environ, start: Start) -> Iterator[bytes]:
    """As a stream of events is, but for the pauses: it holds up everybody."""
    start(environ["QUERY_STRING"] or "200 OK", [])
    try:
        while True:
            yield b""
            yield b"event"
    finally:
        say(f"closed {environ['REQUEST_METHOD']} {environ['QUERY_STRING']}.")


class Closing:
    """A result whose end is a call."""

    def __init__(self, pieces: Iterable[bytes], close: Callable[[], None]) -> None:
        self._pieces = pieces
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


def writes_late(environ: Environ, start: Start) -> Iterable[bytes]:
    """Writes twice when all has been given."""
    write = start("200 OK", [("Content-Length", "3")] if environ["QUERY_STRING"] == "sized" else [])

    def close() -> None:
        write(b"late")
        write(b"later")

    return Closing([b"abc"] if environ["QUERY_STRING"] != "pieces" else [b"a", b"bc"], close)


BIG = 1_500_000


def fails_to_close(environ: Environ, start: Start) -> Iterable[bytes]:
    how = environ["QUERY_STRING"]
    size = BIG if how == "big" else 3
    start("200 OK", [("Content-Length", str(size))] if how in ("sized", "big") else [])

    def close() -> None:
        raise LookupError(f"close failed, {how}")

    class Whole(list[bytes]):
        def close(self) -> None:
            close()

    if how == "list":
        return Whole([b"xxx"])
    if how == "big":
        return Closing([b"x" * (BIG // 25)] * 25, close)
    return Closing([b"xxx"] if how != "pieces" else [b"x", b"xx"], close)


def fails_midway(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", [("Content-Length", "10")] if environ["QUERY_STRING"] == "sized" else [])
    yield b"half"
    raise LookupError("in the middle")


def fails_after_all(environ: Environ, start: Start) -> Iterator[bytes]:
    """The client has what it awaits, and the application does not get to its end."""
    start("200 OK", [("Content-Length", "3")])
    yield b"abc"
    raise LookupError("after all")


def two_write(environ: Environ, start: Start) -> Iterable[bytes]:
    """Two greenlets of one request, each with more than the kernel takes."""
    write = start("200 OK", [("Content-Length", str(8 * BIG))])

    def run() -> None:
        for _ in range(8):
            write(bytes(BIG // 2))

    gevent.joinall([gevent.spawn(run), gevent.spawn(run)], raise_error=True)
    return []


def hints_in_socket(environ: Environ, start: Start) -> Iterable[bytes]:
    socket = environ["wsgi.websocket"]
    socket.send("one")
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload")])
    socket.send("two")
    return []


def bytearrays(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [])
    wrong: Any = bytearray(b"wrong")
    lists: dict[str, list[Any]] = {
        "alone": [wrong], "first": [wrong, b"d"], "last": [b"d", wrong], "behind-much": [bytes(BIG), wrong],
    }  # fmt: skip
    return lists[environ["QUERY_STRING"]]


_VIEWS: dict[str, View] = {
    "/restarts": restarts, "/endless": endless, "/writes-late": writes_late, "/fails-to-close": fails_to_close,
    "/fails-midway": fails_midway, "/fails-after-all": fails_after_all, "/two-write": two_write,
    "/hints-in-socket": hints_in_socket, "/bytearrays": bytearrays,
}  # fmt: skip


def application(environ: Environ, start_response: Start) -> Iterable[bytes]:
    return _VIEWS.get(environ["PATH_INFO"], hello)(environ, start_response)

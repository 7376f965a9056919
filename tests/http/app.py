"""The application that the HTTP tests serve: each path shows one behaviour.

What PEP 3333 allows stands under ``wsgiref.validate``, which raises for whatever the server or the application does
against the rules. Paths below ``/wrong/`` break the rules on purpose, and stand beside it; so do those below
``/bare/``, whose results must reach the server as they are, since the validator wraps them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import gevent

from offload import statistics

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], None]]
View = Callable[[Environ, Start], Iterable[bytes]]

TEXT = [("Content-Type", "text/plain")]
# Deleted with the server that serves this.
FILE = Path(os.environ["OFFLOAD_RUNTIME_DIR"]).parent / "file"
FILE.write_bytes(bytes(range(256)) * 4096)
_sent_by_kernel = 0
_sendfile = os.sendfile


def _counting_sendfile(*arguments: Any) -> int:
    global _sent_by_kernel
    sent = _sendfile(*arguments)
    _sent_by_kernel += sent
    return sent


os.sendfile = _counting_sendfile  # type: ignore[assignment]


def say(text: str) -> None:
    """A line in the server's log that a test waits for."""
    sys.stderr.write(f"app: {text}\n")
    sys.stderr.flush()


class Closing:
    """A result that says when it is closed."""

    def __init__(self, pieces: Iterable[bytes], tag: str = "", fails: bool = False) -> None:
        self._pieces = iter(pieces)
        self._tag = tag
        self._fails = fails

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        say(f"closed {self._tag}")
        if self._fails:
            raise RuntimeError("close failed")


def _pieces(*pieces: bytes) -> Iterator[bytes]:
    yield from pieces


def _number(environ: Environ, name: str, default: int) -> int:
    pairs = dict(pair.split("=") for pair in environ["QUERY_STRING"].split("&") if "=" in pair)
    return int(pairs.get(name, default))


# Within the rules.


def echo(environ: Environ, start: Start) -> Iterable[bytes]:
    """The environ and the body, as JSON."""
    pieces = []
    while piece := environ["wsgi.input"].read(1000):
        pieces.append(piece)
    told = {name: value for name, value in environ.items() if isinstance(value, (str, bool, tuple))}
    told["plain dict"] = type(environ) is dict
    told["body"] = b"".join(pieces).decode("latin-1")
    data = json.dumps(told).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]


def hello(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return [b"Hello, world!"]


_turns = 0


def _count_turn() -> None:
    global _turns
    _turns += 1


def turns(environ: Environ, start: Start) -> Iterable[bytes]:
    """How many requests to this had been answered when the loop last had its turn."""
    gevent.get_hub().loop.run_callback(_count_turn)
    start("200 OK", TEXT)
    return [str(_turns).encode()]


def chunks(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return Closing(_pieces(b"", b"one", b"", b"two", b"three"), environ["QUERY_STRING"])


def write(environ: Environ, start: Start) -> Iterable[bytes]:
    send = start("200 OK", TEXT)
    send(b"one")
    send(b"")
    send(b"two")
    return _pieces(b"three")


def lengthless_empty(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return _pieces(b"")


def changes_its_mind(environ: Environ, start: Start) -> Iterable[bytes]:
    """An error before the first byte may still become another answer."""
    start("200 OK", [*TEXT, ("X-First", "yes"), ("Content-Length", "1000")])

    def run() -> Iterator[bytes]:
        yield b""
        try:
            raise LookupError("too early to have sent anything")
        except LookupError:
            start("503 Service Unavailable", TEXT, sys.exc_info())
            yield b"sorry"

    return run()


def status(environ: Environ, start: Start) -> Iterable[bytes]:
    """A status without content."""
    code = environ["QUERY_STRING"]
    start(f"{code} Whatever", [("X-Code", code)])
    return []


def reads(environ: Environ, start: Start) -> Iterable[bytes]:
    """Every way to read a body, one behind the other."""
    stream = environ["wsgi.input"]
    told = [stream.read(3), stream.readline(), stream.readline(2), stream.readline(), *stream.readlines(1)]
    told += list(iter(stream))
    told.append(stream.read(10))
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([piece.decode("latin-1") for piece in told]).encode()]


def sums(environ: Environ, start: Start) -> Iterable[bytes]:
    """How much came, and its digest, without ever holding much of it."""
    size, digest = 0, hashlib.sha256()
    while piece := environ["wsgi.input"].read(65536):
        size += len(piece)
        digest.update(piece)
    start("200 OK", TEXT)
    return [f"{size} {digest.hexdigest()}".encode()]


def sums_late(environ: Environ, start: Start) -> Iterable[bytes]:
    """The same, once ``/next`` lets it on."""
    _gate.clear()
    say("waiting")
    _gate.wait(10)
    return sums(environ, start)


def ignores(environ: Environ, start: Start) -> Iterable[bytes]:
    """Does not read its body."""
    start("200 OK", TEXT)
    return [b"ignored"]


def late(environ: Environ, start: Start) -> Iterable[bytes]:
    """Begins its answer before it reads."""

    def run() -> Iterator[bytes]:
        yield b"begun "
        yield environ["wsgi.input"].read(1000)

    start("200 OK", TEXT)
    return run()


def hints(environ: Environ, start: Start) -> Iterable[bytes]:
    early = environ["wsgi.early_hints"]
    early([("Link", "</style.css>; rel=preload; as=style")])
    early([("Link", "</a.js>; rel=preload"), ("Link", "</b.js>; rel=preload")])
    try:
        early([("Link", "</style.css>\r\nX-Evil: yes")])
    except ValueError as error:
        say(f"refused hint: {error}")
    start("200 OK", TEXT)
    return [b"hinted"]


def drip(environ: Environ, start: Start) -> Iterable[bytes]:
    """Pieces until the client is gone."""

    def run() -> Iterator[bytes]:
        say("dripping")
        while True:
            yield b"x" * 65536

    start("200 OK", TEXT)
    return Closing(run(), environ["QUERY_STRING"])


def zeros(environ: Environ, start: Start) -> Iterable[bytes]:
    """As many bytes as asked for, in one piece."""
    start("200 OK", TEXT)
    return [bytes(_number(environ, "size", 1000))]


def stream(environ: Environ, start: Start) -> Iterable[bytes]:
    """Pieces of which each waits until the client has spoken of the one before: ``/next`` lets it on."""

    def run() -> Iterator[bytes]:
        for number in range(3):
            _gate.clear()
            yield f"piece {number}\n".encode()
            _gate.wait(10)

    start("200 OK", TEXT)
    return run()


_gate = threading.Event()


def let_on(environ: Environ, start: Start) -> Iterable[bytes]:
    _gate.set()
    start("200 OK", TEXT)
    return [b"on"]


def waits(environ: Environ, start: Start) -> Iterable[bytes]:
    """Runs until ``/next``, without touching the client."""
    say("waiting")
    _gate.clear()
    _gate.wait(10)
    say("waited")
    start("200 OK", TEXT)
    return Closing(_pieces(b"done"), "waits")


# Beside the validator, but right.


_left_behind: ContextVar[str] = ContextVar("_left_behind", default="nothing")


def context(environ: Environ, start: Start) -> Iterable[bytes]:
    """What others have left in the context."""
    found = _left_behind.get()
    _left_behind.set(environ["QUERY_STRING"])
    start("200 OK", TEXT)
    return [found.encode()]


def stands(environ: Environ, start: Start) -> Iterable[bytes]:
    """The whole process waits for somebody to open a pipe."""
    say("stands")
    with open(environ["QUERY_STRING"], "rb"):
        start("200 OK", TEXT)
        return [b"goes on"]


def idle(environ: Environ, start: Start) -> Iterable[bytes]:
    """How many connections wait for their client's next request."""
    start("200 OK", TEXT)
    return [str(statistics()["http.idle"]).encode()]


def resting(environ: Environ, start: Start) -> Iterable[bytes]:
    """How many of them keep nothing of their last request."""
    start("200 OK", TEXT)
    return [str(statistics()["http.resting"]).encode()]


def blocks(environ: Environ, start: Start) -> Iterable[bytes]:
    """A hint and two pieces; before each piece the whole process waits for somebody to open a pipe."""
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload; as=style")])
    hints_pipe, pieces_pipe = environ["QUERY_STRING"].split("&")

    def run() -> Iterator[bytes]:
        with open(hints_pipe, "rb"):
            yield b"first "
        with open(pieces_pipe, "rb"):
            yield b"second"

    start("200 OK", TEXT)
    return run()


def one_tuple(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return (b"tuple",)


def whole_list(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return [b"one", b"", b"two"]


class Sized:
    """One piece, and says so."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        return iter((b"sized",))


def sized(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return Sized()


class _File:
    """As Django's: its ``read`` is the file's own."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.read = file.read
        self.close = file.close


def _opened(kind: str) -> Any:
    if kind == "plain":
        return FILE.open("rb")
    if kind == "unbuffered":
        return FILE.open("rb", buffering=0)
    if kind == "wrapped":
        return _File(FILE.open("rb"))
    if kind == "memory":
        return io.BytesIO(FILE.read_bytes())
    if kind == "gzip":
        packed = FILE.with_suffix(".gz")
        with gzip.open(packed, "wb", 1) as file:
            file.write(FILE.read_bytes())
        return gzip.open(packed, "rb")
    if kind == "temporary":
        file = tempfile.NamedTemporaryFile()  # noqa: SIM115 -- the server closes it
        file.write(FILE.read_bytes())
        file.seek(0)
        return file
    if kind == "proc":
        return Path("/proc/self/status").open("rb")
    if kind == "small":
        small = FILE.with_suffix(".small")
        small.write_bytes(b"small file")
        return small.open("rb")
    raise LookupError(kind)


def file(environ: Environ, start: Start) -> Iterable[bytes]:
    """A file by the wrapper; ``kind``, ``offset``, ``length`` by the query."""
    kind = environ["PATH_INFO"].rpartition("/")[2]
    opened = _opened(kind)
    opened_file = opened.file if kind == "wrapped" else opened
    opened_file.seek(_number(environ, "offset", 0))
    headers = list(TEXT)
    if "length" in environ["QUERY_STRING"]:
        headers.append(("Content-Length", str(_number(environ, "length", 0))))
    start("200 OK", headers)
    result: Iterable[bytes] = environ["wsgi.file_wrapper"](opened, 4096)
    close = opened.close

    def closed() -> None:
        close()
        say(f"closed file {kind}")

    result.close = closed  # type: ignore[attr-defined]
    return result


def shrinking(environ: Environ, start: Start) -> Iterable[bytes]:
    """A file that loses its end while it is sent."""
    shrunk = FILE.with_suffix(".shrinking")
    shrunk.write_bytes(bytes(20_000_000))
    opened = shrunk.open("rb")
    gevent.get_hub().loop.run_callback(os.truncate, shrunk, 10_000_000)
    start("200 OK", TEXT)
    result: Iterable[bytes] = environ["wsgi.file_wrapper"](opened)
    return result


def big_file(environ: Environ, start: Start) -> Iterable[bytes]:
    """The file that the environment names."""
    start("200 OK", TEXT)
    opened = open(os.environ["BIG_FILE"], "rb")  # noqa: SIM115 -- the server closes it
    result: Iterable[bytes] = environ["wsgi.file_wrapper"](opened)
    return result


def sent_by_kernel(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return [str(_sent_by_kernel).encode()]


# Against the rules.

_kept: dict[str, Any] = {}


def keeps(environ: Environ, start: Start) -> Iterable[bytes]:
    """Keeps what belongs to its request."""
    _kept.update(
        write=start("200 OK", TEXT), input=environ["wsgi.input"], hints=environ["wsgi.early_hints"], start=start
    )
    return [b"kept"]


def strays(environ: Environ, start: Start) -> Iterable[bytes]:
    """Uses what belongs to the request before, in the middle of its own answer."""
    start("200 OK", TEXT)

    def run() -> Iterator[bytes]:
        yield b"own "
        _kept["write"](b"stray")
        _kept["hints"]([("Link", "</stray>")])
        try:
            raise LookupError("stray error")
        except LookupError:
            try:
                _kept["start"]("500 Stray", TEXT, sys.exc_info())
            except LookupError:
                yield b"refused "
        yield _kept["input"].read()
        yield environ["wsgi.input"].read()

    return run()


def too_long(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [*TEXT, ("Content-Length", "5")])

    def run() -> Iterator[bytes]:
        yield b"123"
        yield b"4567"
        say("asked for more than may be sent")
        yield b"89"

    return Closing(run(), "too long")


def too_short(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [*TEXT, ("Content-Length", "10")])
    return [b"12345"]


def content_for(environ: Environ, start: Start) -> Iterable[bytes]:
    """Content where there may be none."""
    start(f"{environ['QUERY_STRING']} Whatever", [*TEXT, ("Content-Length", "7")])
    return [b"content"]


def hop_by_hop(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [*TEXT, ("Keep-Alive", "timeout=5"), ("Transfer-Encoding", "chunked"), ("X-Kept", "yes")])
    return [b"dropped"]


def closes_by_header(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [*TEXT, ("Connection", "close")])
    return [b"bye"]


def own_fields(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [("Server", "mine"), ("Date", "Thu, 01 Jan 1970 00:00:00 GMT")])
    return [b""]


def bare_status(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200", TEXT)
    return [b"ok"]


_FAULTS: dict[str, tuple[Any, Any]] = {
    "status-number": (200, TEXT),
    "status-word": ("OK", TEXT),
    "status-line-end": ("200 OK\r\nX-Secret: hunter2", TEXT),
    "name-empty": ("200 OK", [("", "hunter2")]),
    "name-space": ("200 OK", [("X Y", "hunter2")]),
    "name-line-end": ("200 OK", [("X\r\nhunter2", "y")]),
    "name-bytes": ("200 OK", [(b"X", "hunter2")]),
    "value-line-end": ("200 OK", [("Location", "/\r\nX-Secret: hunter2")]),
    "value-line-feed": ("200 OK", [("Location", "/\nX-Secret: hunter2")]),
    "value-nul": ("200 OK", [("Location", "hunter2\0")]),
    "value-bytes": ("200 OK", [("Location", b"hunter2")]),
    "value-number": ("200 OK", [("Content-Length", 5)]),
    "value-wide": ("200 OK", [("Location", "hunter2\u20ac")]),
    "length-twice": ("200 OK", [("Content-Length", "5"), ("content-length", "5")]),
    "length-negative": ("200 OK", [("Content-Length", "-5")]),
    "length-wide-digit": ("200 OK", [("Content-Length", "\u0665")]),
}


def fault(environ: Environ, start: Start) -> Iterable[bytes]:
    start(*_FAULTS[environ["QUERY_STRING"]])
    return [b"hello"]


def piece_of(environ: Environ, start: Start) -> Iterable[bytes]:
    """A result that is not made of bytes."""
    start("200 OK", TEXT)
    results: dict[str, Any] = {
        "str": "text",
        "str-in-list": ["text"],
        "none": None,
        "number": [5],
        "mixed": _pieces(b"bytes", "text"),  # type: ignore[arg-type]
    }
    return results[environ["QUERY_STRING"]]  # type: ignore[no-any-return]


def twice(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    start("201 Created", TEXT)
    return [b"no"]


def never(environ: Environ, start: Start) -> Iterable[bytes]:
    return [b"no"] if environ["QUERY_STRING"] else []


def fails(environ: Environ, start: Start) -> Iterable[bytes]:
    raise LookupError("before anything")


def fails_first(environ: Environ, start: Start) -> Iterable[bytes]:
    def run() -> Iterator[bytes]:
        yield b""
        raise LookupError("before the first byte")

    start("200 OK", TEXT)
    return Closing(run(), "fails first")


def fails_midway(environ: Environ, start: Start) -> Iterable[bytes]:
    def run() -> Iterator[bytes]:
        yield b"half of it"
        raise LookupError("in the middle")

    start("200 OK", TEXT)
    return Closing(run(), "fails midway")


def fails_to_close(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return Closing(_pieces(b"whole"), "fails to close", fails=True)


def too_late(environ: Environ, start: Start) -> Iterable[bytes]:
    """``exc_info`` after the head has left: the server raises the error again."""

    def run() -> Iterator[bytes]:
        yield b"half of it"
        try:
            raise LookupError("the original error")
        except LookupError:
            start("500 Oops", TEXT, sys.exc_info())
        yield b"never"

    start("200 OK", TEXT)
    return Closing(run(), "too late")


def exits(environ: Environ, start: Start) -> Iterable[bytes]:
    sys.exit(3)


def spoils(environ: Environ, start: Start) -> Iterable[bytes]:
    """Leaves nothing of its environ as it was."""
    for name in list(environ):
        environ[name] = "spoilt"
    environ["HTTP_X_SPOILT"] = "yes"
    start("200 OK", [])
    return [b"{}"]


_RIGHT: dict[str, View] = {
    "/echo": echo, "/hello": hello, "/chunks": chunks, "/write": write, "/lengthless-empty": lengthless_empty,
    "/changes-its-mind": changes_its_mind, "/status": status, "/reads": reads, "/sums": sums, "/ignores": ignores,
    "/late": late, "/sums-late": sums_late, "/hints": hints, "/drip": drip, "/zeros": zeros, "/stream": stream,
    "/next": let_on, "/waits": waits, "/sent-by-kernel": sent_by_kernel,
}  # fmt: skip
_BARE: dict[str, View] = {
    "/bare/tuple": one_tuple, "/bare/list": whole_list, "/bare/sized": sized, "/bare/hello": hello,
    "/bare/shrinking": shrinking, "/bare/big-file": big_file, "/bare/own-fields": own_fields, "/bare/zeros": zeros,
    "/wrong/too-long": too_long, "/wrong/too-short": too_short, "/wrong/content-for": content_for,
    "/wrong/hop-by-hop": hop_by_hop, "/wrong/closes": closes_by_header, "/wrong/bare-status": bare_status,
    "/wrong/fault": fault, "/wrong/piece-of": piece_of, "/wrong/twice": twice, "/wrong/never": never,
    "/wrong/fails": fails, "/wrong/fails-first": fails_first, "/wrong/fails-midway": fails_midway,
    "/wrong/fails-to-close": fails_to_close, "/wrong/too-late": too_late, "/wrong/exits": exits,
    "/bare/turns": turns, "/wrong/keeps": keeps, "/wrong/strays": strays, "/bare/context": context,
    "/bare/blocks": blocks, "/wrong/spoils": spoils, "/bare/stands": stands, "/bare/idle": idle,
    "/bare/resting": resting,
}  # fmt: skip


def _right(environ: Environ, start: Start) -> Iterable[bytes]:
    return _RIGHT.get(environ["PATH_INFO"], echo)(environ, start)


_validated = validator(_right)


def application(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """What is served."""
    path = environ["PATH_INFO"]
    if path in _BARE:
        return _BARE[path](environ, start_response)
    if path.startswith("/bare/file/"):
        return file(environ, start_response)
    return _validated(environ, start_response)

"""The access log: a line for each answer, in gunicorn's format or as JSON.

Clients choose most of what such a line says. Whatever could end a line, close a quotation or, outside of one, pass for
two fields is written as an escape (``\\x0a``), so one request is one line, and its fields are where they belong.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import time
from collections.abc import Callable
from typing import Any

from offload.exceptions import ConfigurationError
from offload.observe.log_lines import SafeLogger
from offload.observe.observer import Answer, Observer

log = SafeLogger("offload.http")

JSON = "json"
_STDOUT = 1
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PLACE = re.compile(r"%\(([^()]*)\)([#0\- +]*[0-9]*(?:\.[0-9]+)?)([A-Za-z])|%%|%")
_UNSAFE = re.compile(r'[^ !#-\[\]-~]')  # fmt: skip
_UNSAFE_BARE = re.compile(r"[^!#-\[\]-~]")

Environ = dict[str, Any]
Headers = list[tuple[str, str]]


class PlainAnswer:
    """An answer of the server's own: a code, and a sentence that does not count as the application's bytes."""

    __slots__ = ("body_bytes", "headers", "status")

    def __init__(self, status: int) -> None:
        self.status = str(status)
        self.body_bytes = 0
        self.headers: Headers = []


class _Entry:
    """One answer, as the atoms look at it."""

    __slots__ = ("answer", "environ", "micros")

    def __init__(self, environ: Environ, answer: Answer, seconds: float) -> None:
        self.environ = environ
        self.answer = answer
        self.micros = int(seconds * 1_000_000)


class AccessLog(Observer):
    """Writes the lines.

    Args:
        format: gunicorn's ``--access-logformat``, or ``json``.
        write: takes each line, with its end.

    Raises:
        ConfigurationError: the format is malformed.
    """

    def __init__(self, format: str, write: Callable[[str], None]) -> None:
        self._write = write
        self._line = _json_line if format == JSON else _compile(format)

    def request(self, environ: Environ, peer: object, answer: Answer, seconds: float) -> None:
        """See `Observer`."""
        try:
            line = self._line(_Entry(environ, answer, seconds))
        except Exception:
            # An application may have put anything into its environ. The answer is sent, and stands.
            log.exception("a line of the access log could not be written")
        else:
            self._write(line)

    def refusal(self, environ: Environ | None, peer: object, status: int) -> None:
        """See `Observer`."""
        if environ is None:
            environ = {"REMOTE_ADDR": peer[0] if isinstance(peer, tuple) else ""}
        self.request(environ, peer, PlainAnswer(status), 0.0)

    def handshake(self, environ: Environ | None, peer: object, status: int) -> None:
        """See `Observer`."""
        self.refusal(environ, peer, status)


class LogFile:
    """Appends lines to a file, those of one turn of the loop in one go; processes may share the file.

    Args:
        path: the file; ``-`` for stdout.
        run_callback: has a function called at the end of this turn of the loop.

    Raises:
        ConfigurationError: the file cannot be written.
    """

    def __init__(self, path: str, run_callback: Callable[[Callable[[], None]], object]) -> None:
        self._path = path
        self._run_callback = run_callback
        self._lines: list[str] = []
        self._failed = False
        self._descriptor = -1
        self.reopen()

    def reopen(self) -> None:
        """Begin a new file of that name, for when the old one was moved away."""
        if self._path == "-":
            self._descriptor = _STDOUT
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigurationError(f"cannot write the access log {self._path!r}: {error.strerror}") from error
        if self._descriptor >= 0:
            self.flush()
            # Its descriptor is gone even where this tells of an earlier write that failed.
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = descriptor

    def write(self, line: str) -> None:
        """Append a line."""
        if not self._lines:
            self._run_callback(self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        """Write what waits."""
        if not self._lines:
            return
        data = "".join(self._lines).encode("utf-8", "backslashreplace")
        count = len(self._lines)
        self._lines.clear()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            if not self._failed:
                log.error("the access log %r cannot be written, %d lines are lost: %s", self._path, count, error)
            self._failed = True
        else:
            self._failed = False


# Lines.


def _compile(format: str) -> Callable[[_Entry], str]:
    """A function that makes a line; what depends on the format alone is done here."""
    text: list[str] = []
    atoms: list[Callable[[_Entry], Any]] = []
    at = 0
    is_quoted = False
    for match in _PLACE.finditer(format):
        literal = format[at : match.start()]
        is_quoted ^= literal.count('"') % 2 == 1
        text.append(literal)
        at = match.end()
        if match[0] == "%%":
            text.append("%%")
        elif match[1] is None:
            raise ConfigurationError(f"the access log's format has a lone % at {format[match.start() :]!r}; write %%")
        else:
            text.append(f"%{match[2]}{match[3]}")
            atoms.append(_atom(match[1], is_quoted))
    form = "".join((*text, format[at:], "\n"))

    def line(entry: _Entry) -> str:
        return form % tuple([atom(entry) for atom in atoms])

    try:
        line(_Entry({}, PlainAnswer(200), 0.0))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the access log's format {format!r} cannot be used: {error}") from error
    return line


def _atom(name: str, is_quoted: bool) -> Callable[[_Entry], Any]:
    """What a name between ``%(`` and ``)`` stands for; "-" where it stands for nothing, as with gunicorn."""
    if name in _OURS:
        return _OURS[name]
    unsafe = _UNSAFE if is_quoted or name == "r" else _UNSAFE_BARE
    read = _THEIRS.get(name) or _field(name)
    if read is None:
        return lambda entry: "-"

    def atom(entry: _Entry) -> str:
        text = read(entry)
        return unsafe.sub(_escape, text) if unsafe.search(text) else text

    return atom


def _field(name: str) -> Callable[[_Entry], str] | None:
    match = re.fullmatch(r"\{([^{}]+)\}([ioe])", name)
    if match is None:
        return None
    field, kind = match[1].lower(), match[2]
    if kind == "o":
        return lambda entry: ",".join(v for k, v in entry.answer.headers if k.lower() == field) or "-"
    key = field.upper().replace("-", "_")
    if kind == "i" and key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        key = f"HTTP_{key}"
        return lambda entry: entry.environ.get(key, "-")
    return lambda entry: str(next((v for k, v in entry.environ.items() if k.upper() == key), "-"))


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if char in '"\\':
        return "\\" + char
    # WSGI's strings are bytes in disguise; others, such as a user's name, are not.
    data = char.encode("latin-1") if char <= "\xff" else char.encode("utf-8", "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in data)


def _request_line(entry: _Entry) -> str:
    environ = entry.environ
    if "REQUEST_METHOD" not in environ:
        return "-"
    return f"{environ['REQUEST_METHOD']} {environ['RAW_URI']} {environ['SERVER_PROTOCOL']}"


def _user(entry: _Entry) -> str:
    """The name that HTTP's basic authentication gives."""
    scheme, _, credentials = str(entry.environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    if scheme.lower() != "basic":
        return "-"
    try:
        name = base64.b64decode(credentials.strip(), validate=True).partition(b":")[0]
    except (binascii.Error, ValueError):
        return "-"
    return name.decode("latin-1") or "-"


def _from_environ(key: str) -> Callable[[_Entry], str]:
    return lambda entry: str(entry.environ.get(key) or "-")


class _Clock:
    """The time as the common log format writes it, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, entry: _Entry) -> str:
        second = int(time.time())
        if second != self._second:
            now = time.localtime(second)
            # Not by strftime's %b, which an application's locale would translate.
            month = _MONTHS[now.tm_mon - 1]
            zone = time.strftime("%z", now)
            self._second = second
            self._text = f"[{now.tm_mday:02d}/{month}/{now.tm_year}:{time.strftime('%H:%M:%S', now)} {zone}]"
        return self._text


_OURS: dict[str, Callable[[_Entry], Any]] = {
    "l": lambda entry: "-",
    "t": _Clock(),
    "B": lambda entry: entry.answer.body_bytes,
    "b": lambda entry: str(entry.answer.body_bytes),
    "T": lambda entry: entry.micros // 1_000_000,
    "M": lambda entry: entry.micros // 1000,
    "D": lambda entry: entry.micros,
    "L": lambda entry: f"{entry.micros / 1_000_000:.6f}",
    "p": lambda entry: f"<{os.getpid()}>",
}
"""Atoms that nobody else has a say in."""

_THEIRS: dict[str, Callable[[_Entry], str]] = {
    "h": _from_environ("REMOTE_ADDR"),
    "u": _user,
    "r": _request_line,
    "s": lambda entry: entry.answer.status.partition(" ")[0] or "-",
    "m": _from_environ("REQUEST_METHOD"),
    "U": _from_environ("PATH_INFO"),
    "q": lambda entry: str(entry.environ.get("QUERY_STRING", "")),
    "H": _from_environ("SERVER_PROTOCOL"),
    "f": _from_environ("HTTP_REFERER"),
    "a": _from_environ("HTTP_USER_AGENT"),
}


def _readable(text: str) -> str:
    """WSGI's strings are bytes in disguise, and most of these bytes are UTF-8."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _json_line(entry: _Entry) -> str:
    environ, answer = entry.environ, entry.answer
    user = _user(entry)

    def get(key: str) -> object:
        value = environ.get(key)
        return _readable(value) if isinstance(value, str) else value

    status = answer.status.partition(" ")[0]
    document = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "remote_addr": get("REMOTE_ADDR") or None,
        "user": None if user == "-" else _readable(user),
        "method": get("REQUEST_METHOD"),
        "scheme": get("wsgi.url_scheme"),
        "host": get("HTTP_HOST"),
        "path": get("PATH_INFO"),
        "query": get("QUERY_STRING"),
        "protocol": get("SERVER_PROTOCOL"),
        "status": int(status) if status.isdigit() else None,
        "bytes": answer.body_bytes,
        "seconds": entry.micros / 1_000_000,
        "referer": get("HTTP_REFERER"),
        "user_agent": get("HTTP_USER_AGENT"),
        "pid": os.getpid(),
    }
    return json.dumps(document, default=str) + "\n"

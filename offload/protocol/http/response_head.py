"""Response heads: a status and header fields, checked, to bytes.

Pure: no sockets; the caller says what time it is. Follows RFC 9110 and RFC 9112.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from offload.protocol.http.request import Request

_STATUS = re.compile(r"[1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_OURS = frozenset(("content-length", "date", "server"))
_PHRASES = {413: "Content Too Large", 414: "URI Too Long"}
"""RFC 9110's names, which Python has from 3.13 on."""
STANDING_FIELDS = "Server: offload\r\n"
"""Lines of each answer, whoever makes it; an application's own Server goes before ours."""
_MAX_CACHED_NAMES = 1024
_MAX_STEADY = 512
_STEADY = frozenset(
    (
        "accept-ranges",
        "access-control-allow-credentials",
        "access-control-allow-headers",
        "access-control-allow-methods",
        "allow",
        "cache-control",
        "content-language",
        "content-length",
        "content-type",
        "cross-origin-opener-policy",
        "referrer-policy",
        "strict-transport-security",
        "vary",
        "x-content-type-options",
        "x-frame-options",
        "x-xss-protection",
    )
)
"""Fields whose values are no client's own, so that they may be kept."""


class Head:
    """A status and header fields of an application, checked.

    Attributes:
        status, code: the status line's value, and its number.
        lines: of the fields that are sent, each with its end.
        length: Content-Length in bytes; None without one.
        own: which of Server and Date the application gave itself.
        dropped: names that are the server's to send, lower case.
        closes: whether the application wants the connection closed.
        date, encoded: the whole head of one second, as `encode` makes it for most requests; at first of none.
    """

    __slots__ = ("closes", "code", "date", "dropped", "encoded", "length", "lines", "own", "status")

    def __init__(self, status: str, code: int) -> None:
        self.status = status
        self.code = code
        self.lines: list[str] = []
        self.length: int | None = None
        self.own: tuple[str, ...] = ()
        self.dropped: tuple[str, ...] = ()
        self.closes = False
        self.date = ""
        self.encoded = b""

    def _take(self, special: str, value: str) -> bool:
        """Take a field that means something to the server. Returns whether its line is sent."""
        if special == "content-length":
            if not (value.isascii() and value.isdigit()) or self.length is not None:
                raise ValueError("Content-Length is repeated or not a number")
            self.length = int(value)
            return self.code >= 200 and self.code != 204
        if special in ("date", "server"):
            self.own = (*self.own, special)
            return True
        self.closes = self.closes or (special == "connection" and "close" in value.lower())
        self.dropped = (*self.dropped, special)
        return False

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The fields that are sent."""
        return [(name, value) for name, _, value in (line[:-2].partition(": ") for line in self.lines)]

    def encode(
        self, request: Request, length: int | None, date: str, keep: bool
    ) -> tuple[bytes, int | None, bool, bool]:
        """The bytes of the head, and the framing of the body that follows (RFC 9112, 6.3).

        Args:
            request: what is answered.
            length: the body's size where it is known by now; counts where the application gave no Content-Length.
            date: the Date field's value.
            keep: whether the connection may serve another request.

        Returns:
            ``(head, size, is_chunked, keep)``: bytes that the body has, or None; whether it goes in chunks; and whether
            the client hears that the connection serves another request. Without a size or chunks it ends the body.
        """
        code, size, framing, is_chunked = self.code, self.length, "", False
        if size is None and code >= 200 and code not in (204, 304):
            if length is not None:
                # An empty answer to HEAD says nothing about the size that GET would have.
                if length or request.method != "HEAD":
                    size = length
                    framing = f"Content-Length: {length}\r\n"
            elif request.version == "1.1":
                is_chunked = True
                framing = "Transfer-Encoding: chunked\r\n"
            elif request.method != "HEAD":
                keep = False
        if code < 200:
            # Whatever the application means by it: the client waits for more, and nothing more can come.
            keep = False
        if not keep:
            framing += "Connection: close\r\n"
        elif request.version == "1.0":
            framing += "Connection: keep-alive\r\n"
        elif not framing and self.date == date:
            return self.encoded, size, is_chunked, keep
        start = f"HTTP/1.1 {self.status if len(self.status) > 3 else self.status + ' '}\r\n"
        if "server" not in self.own:
            start += STANDING_FIELDS
        if "date" not in self.own:
            start += f"Date: {date}\r\n"
        encoded = f"{start}{''.join(self.lines)}{framing}\r\n".encode("latin-1")
        if not framing:
            self.date, self.encoded = date, encoded
        return encoded, size, is_chunked, keep


class FieldNames:
    """Remembers what has been checked: applications use the same few names, statuses and whole heads.

    Attributes:
        codes: statuses as applications write them; to their codes.
        known: names as applications write them; to "" for most, to the name in lower case where the server has
            something to do with it.
        dropped: hop-by-hop names that an application has used, kept so that each is complained of once.
        heads: by status and fields, those whose values are no client's own.
    """

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.known: dict[str, str] = {}
        self.dropped: set[str] = set()
        self.heads: dict[tuple[object, ...], Head] = {}
        # The same for single fields, where the head as a whole changes.
        self._lines: dict[object, str] = {}

    def head(self, status: str, fields: Sequence[tuple[str, str]]) -> Head:
        """Check a status and header fields.

        Raises:
            ValueError, TypeError: they are not acceptable.
        """
        head = Head(status, self.codes.get(status) or self.learn_status(status))
        kept, lines = self._lines, head.lines
        is_steady = True
        for field in fields:
            line = kept.get(field) if type(field) is tuple else None
            if line is not None:
                lines.append(line)
                continue
            name, value = field
            special = self.known.get(name)
            if special is None:
                special = self.learn(name)
            # Most values pass by two quick looks.
            if type(value) is not str or not value.isascii() or not value.isprintable():
                check_value(name, value)
            if special and not head._take(special, value):
                is_steady = False
                continue
            line = f"{name}: {value}\r\n"
            lines.append(line)
            if name.lower() not in _STEADY:
                is_steady = False
            elif not special and type(field) is tuple:
                _keep(kept, field, line)
        if is_steady and all(type(field) is tuple for field in fields):
            _keep(self.heads, (status, tuple(fields)), head)
        return head

    def early_hints(self, fields: Iterable[tuple[str, str]]) -> bytes:
        """An interim answer with fields that the client may act on while the answer is made (103, RFC 8297).

        Raises:
            ValueError, TypeError: a field is not acceptable.
        """
        lines = []
        for name, value in fields:
            if self.known.get(name) or self.learn(name):
                raise ValueError(f"the header {name!r} cannot be an early hint")
            check_value(name, value)
            lines.append(f"{name}: {value}\r\n")
        return f"HTTP/1.1 103 Early Hints\r\n{''.join(lines)}\r\n".encode("latin-1")

    def learn(self, name: str) -> str:
        """What `known` has of a name, after checking it.

        Raises:
            ValueError, TypeError: it is not a field name.
        """
        if not isinstance(name, str):
            raise TypeError(f"a header's name is a {type(name).__name__}, not a str")
        if not _NAME.fullmatch(name):
            raise ValueError("a header's name is empty or has a character that no field name may have")
        lower = name.lower()
        special = lower if lower in _OURS or lower in HOP_BY_HOP else ""
        if len(self.known) < _MAX_CACHED_NAMES:
            self.known[name] = special
        return special

    def learn_status(self, status: str) -> int:
        """What `codes` has of a status, after checking it. Raises as `check_status` does."""
        code = check_status(status)
        if len(self.codes) < _MAX_CACHED_NAMES:
            self.codes[status] = code
        return code


def _keep(kept: dict[Any, Any], key: object, value: object) -> None:
    if len(kept) >= _MAX_STEADY:
        kept.clear()
    kept[key] = value


def check_status(status: object) -> int:
    """The code of a WSGI status such as ``"200 OK"``.

    Raises:
        ValueError, TypeError: it is none. The value is not repeated: it may hold what a client sent.
    """
    if not isinstance(status, str):
        raise TypeError(f"the status is a {type(status).__name__}, not a str")
    if not _STATUS.fullmatch(status):
        raise ValueError("the status is not three digits, a space and a reason")
    return int(status[:3])


def check_value(name: str, value: object) -> None:
    """Refuse a header value that would end its line, or that cannot be sent.

    Raises:
        ValueError, TypeError: the value is not repeated: it may be a secret.
    """
    if not isinstance(value, str):
        raise TypeError(f"the value of header {name!r} is a {type(value).__name__}, not a str")
    if _FORBIDDEN_IN_VALUE.search(value):
        raise ValueError(f"the value of header {name!r} has a control character")
    if any(character > "\xff" for character in value):
        raise ValueError(f"the value of header {name!r} has a character outside latin-1")


def plain_answer(status: int, text: str, date: str, fields: bytes = b"", bodiless: bool = False) -> bytes:
    """A whole small answer that ends the connection.

    Args:
        status: its code.
        text: one sentence for a person.
        date: the Date field's value.
        fields: further header lines, each ending in CR LF.
        bodiless: leave the body out, as for HEAD.
    """
    body = f"{status} {phrase(status)}: {text}\n".encode("utf-8", "replace")
    fields = b"Content-Type: text/plain; charset=utf-8\r\n" + fields
    return last_answer(status, body, date, fields, bodiless)


def last_answer(status: int, body: bytes, date: str, fields: bytes = b"", bodiless: bool = False) -> bytes:
    """A whole answer that ends the connection.

    Args:
        status: its code.
        body: with its length told.
        date: the Date field's value.
        fields: further header lines, each ending in CR LF.
        bodiless: leave the body out, as for HEAD.
    """
    # RFC 9110, 7.8: the field Upgrade, which belongs to a 426, is an option of the connection.
    options = "close, Upgrade" if status == 426 else "close"
    head = (
        f"HTTP/1.1 {status} {phrase(status)}\r\n{STANDING_FIELDS}Connection: {options}\r\n"
        f"Content-Length: {len(body)}\r\nDate: {date}\r\n"
    )
    return head.encode("ascii") + fields + b"\r\n" + (b"" if bodiless else body)


def field_lines(headers: Iterable[Sequence[bytes | str]]) -> bytes:
    """Checked header lines, each ending in CR LF, of ``[name, value]`` pairs; without those that the server decides on.

    Raises:
        ValueError, TypeError: something is not a pair, or has a character that no header may have.
    """
    lines = []
    for pair in headers:
        name, value = text_pair(pair)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError("a header's name is empty or has a character that no field name may have")
        check_value(name, value)
        if name.lower() not in _OURS and name.lower() not in HOP_BY_HOP:
            lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")


def text_pair(pair: Sequence[Any]) -> tuple[Any, Any]:
    """The name and the value of a header field in a message, where either may be bytes."""
    name, value = (part.decode("latin-1") if isinstance(part, bytes) else part for part in pair)
    return name, value


def phrase(status: int) -> str:
    """The reason phrase of a status."""
    try:
        return _PHRASES.get(status) or HTTPStatus(status).phrase
    except ValueError:
        # Its number is all that an extension's status has.
        return "Unknown"

"""One request head: bytes to a checked `Request`.

httptools (llhttp) reads the head; the policy here refuses what llhttp lets through and a server on the open internet
must not: other protocols' request lines, bare CR and LF, folded lines, ambiguous framing, a missing or repeated Host.
Pure: no sockets, no clock. Follows RFC 9110 and RFC 9112.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

from offload.exceptions import ProtocolError

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP/(\d)\.(\d)")
_HOST = re.compile(rb"(?:[A-Za-z0-9\-._~%!$&'()*+,;=]*|\[[0-9A-Fa-f:.]+\])(?::\d*)?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)
_DIGITS = re.compile(rb"[0-9]{1,18}")
_HARMLESS = bytes(code for code in range(256) if code in (9, 10, 13) or (code >= 32 and code != 127))


class HttpError(ProtocolError):
    """A request that cannot be served; the connection closes after the answer.

    Attributes:
        status: the answer's status code.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class HttpLimits:
    """Bounds on one request.

    Attributes:
        line_bytes: the request line.
        fields: number of header fields.
        field_bytes: one header field, name and value.
    """

    line_bytes: int = 4094
    fields: int = 100
    field_bytes: int = 8190

    @property
    def head_bytes(self) -> int:
        """The largest head that the other limits leave room for, but 64 KiB of fields at most."""
        return self.line_bytes + min(self.fields * (self.field_bytes + 2), 65536) + 4


class Request:
    """A request head that passed the policy.

    Attributes:
        method: upper-case token, as `str`.
        target: the request target as sent, bytes.
        path: the target's path part, still percent-encoded, bytes.
        query: what follows the first ``?``, bytes.
        version: "1.1" or "1.0".
        headers: ``(name, value)`` byte pairs in order; names lower case, values without white space around.
        host: the value of Host (or of an absolute target), or None for an HTTP/1.0 request without.
        content_length: the declared body size in bytes; None when chunked or absent.
        chunked: whether the body comes in chunks.
        keep_alive: whether the client allows another request on this connection.
        expect_continue: whether the client waits for "100 Continue".
        upgrade: the lower-case value of Upgrade where Connection names it, else None.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "expect_continue",
        "headers",
        "host",
        "keep_alive",
        "method",
        "path",
        "query",
        "target",
        "upgrade",
        "version",
    )

    def __init__(self, method: str, target: bytes, version: str) -> None:
        self.method = method
        self.target = target
        self.path = target
        self.query = b""
        self.version = version
        self.headers: list[tuple[bytes, bytes]] = []
        self.host: bytes | None = None
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = version == "1.1"
        self.expect_continue = False
        self.upgrade: bytes | None = None

    @property
    def has_body(self) -> bool:
        """Whether bytes of a body follow the head."""
        return self.chunked or bool(self.content_length)

    # httptools calls this for each field.
    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field from the parser."""
        self.headers.append((name.lower(), value.rstrip(b" \t")))


def parse_request(head: bytes, limits: HttpLimits) -> Request:
    """Read a whole head, up to and with its empty line.

    Raises:
        HttpError: with the status to answer.
    """
    end = head.index(b"\r\n")
    if end > limits.line_bytes:
        raise HttpError(414, f"the request line has over {limits.line_bytes} bytes")
    line = _REQUEST_LINE.fullmatch(head, 0, end)
    if line is None:
        raise HttpError(400, "the request line is not METHOD TARGET HTTP/VERSION")
    method, target, major, minor = line.groups()
    if major != b"1" or minor not in b"01":
        raise HttpError(505, "only HTTP/1.1 and HTTP/1.0 are served")
    newlines = head.count(b"\n")
    if head.count(b"\r\n") != newlines or head.count(b"\r") != newlines:
        raise HttpError(400, "a line of the head ends without CR LF")
    if newlines - 2 > limits.fields:
        raise HttpError(431, f"there are over {limits.fields} header fields")
    if head.translate(None, _HARMLESS):
        raise HttpError(400, "the head has a control character")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise HttpError(400, "a header field is folded over several lines")
    request = Request(method.decode("ascii"), target, "1.1" if minor == b"1" else "1.0")
    try:
        httptools.HttpRequestParser(request).feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # The head is whole; what an upgrade means is for the gateway to say.
    except httptools.HttpParserInvalidMethodError as error:
        raise HttpError(501, "the method is not known here") from error
    except httptools.HttpParserError as error:
        raise HttpError(400, f"the head cannot be read: {error}") from error
    _read_fields(request, limits)
    _read_target(request)
    return request


def _read_fields(request: Request, limits: HttpLimits) -> None:
    connection: list[bytes] = []
    upgrade: bytes | None = None
    for name, value in request.headers:
        if len(name) + len(value) > limits.field_bytes:
            raise HttpError(431, f"a header field has over {limits.field_bytes} bytes")
        if name not in _SPECIAL:
            continue
        if name == b"host":
            if request.host is not None:
                raise HttpError(400, "the Host field is repeated")
            request.host = value
        elif name == b"connection":
            connection += [token.strip(b" \t") for token in value.lower().split(b",")]
        elif name == b"content-length":
            if request.content_length is not None or not _DIGITS.fullmatch(value):
                raise HttpError(400, "Content-Length is repeated or not a number")
            request.content_length = int(value)
        elif name == b"transfer-encoding":
            _read_transfer_encoding(request, value)
        elif name == b"upgrade":
            upgrade = value.lower() if upgrade is None else upgrade + b"," + value.lower()
        elif value.lower() == b"100-continue":
            request.expect_continue = request.version == "1.1"
        else:
            raise HttpError(417, "the only expectation served is 100-continue")
    if request.chunked and request.content_length is not None:
        raise HttpError(400, "Transfer-Encoding and Content-Length are both given")
    if request.host is None and request.version == "1.1":
        raise HttpError(400, "the Host field is missing")
    if request.host is not None and not _HOST.fullmatch(request.host):
        raise HttpError(400, "the Host field is not a host name")
    if connection:
        if b"close" in connection:
            request.keep_alive = False
        elif b"keep-alive" in connection:
            request.keep_alive = True
        if b"upgrade" in connection:
            request.upgrade = upgrade


_SPECIAL = frozenset((b"host", b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"expect"))


def _read_transfer_encoding(request: Request, value: bytes) -> None:
    if request.version == "1.0":
        raise HttpError(400, "Transfer-Encoding has no meaning in HTTP/1.0")
    if request.chunked:
        raise HttpError(400, "Transfer-Encoding is repeated")
    if value.lower() != b"chunked":
        raise HttpError(501, "the only transfer coding served is chunked")
    request.chunked = True


def _read_target(request: Request) -> None:
    target = request.target
    if request.method == "CONNECT":
        raise HttpError(501, "CONNECT is not served")
    if target[:1] != b"/":
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is not None:
            # RFC 9112, 3.2.2: the target's authority replaces Host.
            request.host, target = absolute.groups()
            if not request.host or not _HOST.fullmatch(request.host):
                raise HttpError(400, "the request target names no host")
            if target[:1] != b"/":
                target = b"/" + target
        elif target != b"*" or request.method != "OPTIONS":
            raise HttpError(400, "the request target does not begin with a slash")
    if b"#" in target:
        raise HttpError(400, "the request target has a fragment")
    request.path, _, request.query = target.partition(b"?")

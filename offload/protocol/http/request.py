"""One request head: bytes to a checked `Request`.

httptools (llhttp) reads the head; the policy here refuses what llhttp lets through and a server on the open internet
must not: other protocols' request lines, bare CR and LF, folded lines, ambiguous framing, a missing or repeated Host.
Pure: no sockets, no clock. Follows RFC 9110 and RFC 9112.
"""

from __future__ import annotations

import re
from typing import Any

import httptools

from offload.exceptions import ProtocolError
from offload.settings import HttpOptions

# Method; target, with its path, query and fragment; minor version of HTTP/1.
_REQUEST_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)"
    rb" ((?! )([!\x22$->@-~]*)(?:\?([!\x22$-~]*))?(#[!-~]*)?)"
    rb" HTTP/(?:1\.([0-9])|[0-9]\.[0-9])"
)
_BEGINNING = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]*(?: (?:[\x21-\x7e]+(?: [A-Z0-9/.]*\r?)?)?)?")
_HOST = re.compile(rb"(?:[A-Za-z0-9\-._~%!$&'()*+,;=]*|\[[0-9A-Fa-f:.]+\])(?::\d*)?")
_ABSOLUTE = re.compile(rb"((?i:https?))://([^/]*)(.*)")
_TRANSFER_ENCODING = re.compile(rb"(?i)\r\ntransfer-encoding:[ \t]*([^\r\n]*)")
_DIGITS = re.compile(rb"[0-9]{1,18}")
_METHODS = {method.encode(): method for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_VISIBLE = bytes(code for code in range(256) if code == 9 or (code >= 32 and code != 127))


class HttpError(ProtocolError):
    """A request that cannot be served; the connection closes after the answer.

    Attributes:
        status: the answer's status code.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request:
    """A request head that passed the policy.

    Args:
        last: a request with the same header fields, which then need not be read again; or None.

    Attributes:
        method: upper-case token, as `str`.
        target: the request target as sent, bytes.
        scheme: b"http" or b"https" where the target names one, else None.
        path: the target's path part, still percent-encoded, bytes; empty for ``OPTIONS *``.
        query: what follows the first ``?``, bytes.
        version: "1.1" or "1.0".
        headers: ``(name, value)`` byte pairs in order; names lower case, values without white space around.
        host: the value of Host (or of an absolute target), or None for an HTTP/1.0 request without.
        content_length: the declared body size in bytes; None when chunked or absent.
        chunked: whether the body comes in chunks.
        has_body: whether bytes of a body follow the head.
        keep_alive: whether the client allows another request on this connection.
        expect_continue: whether the client waits for "100 Continue".
        upgrade: the lower-case value of Upgrade where Connection names it, else None.
        fields: the header fields as sent, from the request line's end on, bytes.
        prepared: None, or what the caller made of the header fields, kept so that it need not make it again for the
            connection's next requests with the same fields.
    """

    __slots__ = (
        "chunked",
        "content_length",
        "expect_continue",
        "fields",
        "has_body",
        "headers",
        "host",
        "keep_alive",
        "method",
        "path",
        "prepared",
        "query",
        "scheme",
        "target",
        "upgrade",
        "version",
    )

    def __init__(
        self, method: str, target: bytes, path: bytes, query: bytes, version: str, last: Request | None = None
    ) -> None:
        self.method = method
        self.target = target
        self.scheme: bytes | None = None
        self.path = path
        self.query = query
        self.version = version
        if last is None:
            self.headers: list[tuple[bytes, bytes]] = []
            self.host: bytes | None = None
            self.content_length: int | None = None
            self.chunked = self.has_body = self.expect_continue = False
            self.keep_alive = version == "1.1"
            self.upgrade: bytes | None = None
            self.fields = b""
            self.prepared: Any = None
        else:
            self.headers = last.headers
            self.host = last.host
            self.content_length = last.content_length
            self.chunked = last.chunked
            self.has_body = last.has_body
            self.expect_continue = last.expect_continue
            self.keep_alive = last.keep_alive
            self.upgrade = last.upgrade
            self.fields = last.fields
            self.prepared = last.prepared

    # httptools calls this for each field.
    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field from the parser."""
        self.headers.append((name.lower(), value.rstrip(b" \t")))


def check_beginning(data: bytes, limits: HttpOptions) -> None:
    """Refuse at once what can only become a wrong head, or one that is too large.

    Args:
        data: a head's first bytes, without its end.

    Raises:
        HttpError: as `parse_request` would.
    """
    if data[:1] == b"\x16":
        # The type of the record that every TLS handshake begins with.
        raise HttpError(400, "this port speaks plain HTTP, and the client TLS")
    end = data.find(b"\n", 0, limits.limit_request_line + 2)
    if end >= 0:
        if data[end - 1 : end] != b"\r":
            raise HttpError(400, _BARE)
        _read_line(data, end - 1, limits)
    elif len(data) > limits.limit_request_line + 1:
        raise HttpError(414, f"the request line has over {limits.limit_request_line} bytes")
    elif not _BEGINNING.fullmatch(data):
        raise HttpError(400, _NO_REQUEST)
    if len(data) > limits.limit_request_head:
        raise HttpError(431, f"the head has over {limits.limit_request_head} bytes")


_BARE = "a line of the head ends without CR LF"
_NO_REQUEST = "the request line is not METHOD TARGET HTTP/VERSION"


def _read_line(head: bytes, end: int, limits: HttpOptions) -> tuple[Any, ...]:
    """Method, target, its path, query and fragment, and the minor version, as `_REQUEST_LINE` finds them."""
    if end > limits.limit_request_line:
        if b"\n" in head[: limits.limit_request_line + 2]:
            raise HttpError(400, _BARE)
        raise HttpError(414, f"the request line has over {limits.limit_request_line} bytes")
    line = _REQUEST_LINE.fullmatch(head, 0, end)
    if line is None:
        raise HttpError(400, _NO_REQUEST)
    found = line.groups()
    if found[5] is None:
        raise HttpError(505, "only HTTP/1.1 and HTTP/1.0 are served")
    if found[0] not in _METHODS and (found[0] == b"CONNECT" or not found[0].isupper()):
        # Methods are case-sensitive: "get" is not GET, whatever an access rule in front of us took it for.
        raise HttpError(501, "the method is not served here")
    return found


def parse_request(head: bytes, limits: HttpOptions, last: Request | None = None) -> Request:
    """Read a whole head, up to and with its empty line.

    Args:
        head: it begins with the request line.
        limits: bounds on it.
        last: the connection's last request. Clients repeat their fields from one request to the next, and the same
            bytes mean the same again.

    Raises:
        HttpError: with the status to answer.
    """
    end = head.index(b"\r\n")
    method, target, path, query, fragment, minor = _read_line(head, end, limits)
    name = _METHODS.get(method) or method.decode("ascii")
    # RFC 9110, 2.5: a higher minor version is served as the highest known.
    version = "1.0" if minor == b"0" else "1.1"
    fields = head[end:]
    # The Host of a request whose target names another is not the one that its fields say.
    if last is None or fields != last.fields or version != last.version or last.scheme is not None:
        last = None
    request = Request(name, target, path, query or b"", version, last)
    if last is None:
        _read_head(request, head, end, limits)
        request.fields = fields
    if path[:1] != b"/":
        _read_target(request)
    if fragment is not None:
        raise HttpError(400, "the request target has a fragment")
    return request


def _read_head(request: Request, head: bytes, end: int, limits: HttpOptions) -> None:
    # One pass leaves the line ends, and whatever else is no character of a line.
    controls = head.translate(None, _VISIBLE)
    newlines = len(controls) >> 1
    if head.count(b"\r\n") != newlines or len(controls) & 1:
        bare = head.count(b"\n") != head.count(b"\r\n") or head.count(b"\r") != head.count(b"\r\n")
        raise HttpError(400, _BARE if bare else "the head has a control character")
    if newlines - 2 > limits.limit_request_fields:
        raise HttpError(431, f"there are over {limits.limit_request_fields} header fields")
    most = limits.limit_request_field_size
    if len(head) > most and max(map(len, head[end + 2 :].split(b"\r\n"))) > most:
        raise HttpError(431, f"a header field has over {most} bytes")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise HttpError(400, "a header field is folded over several lines")
    parser = httptools.HttpRequestParser(request)
    try:
        # Our own line was stricter already, and llhttp's knows a fixed list of methods only, RTSP's among them.
        parser.feed_data(b"GET / HTTP/1.1")
        parser.feed_data(head[end:])
    except httptools.HttpParserUpgrade:
        pass  # The head is whole; what an upgrade means is for the server to say.
    except httptools.HttpParserError as error:
        coding = _TRANSFER_ENCODING.search(head)
        if coding is not None and "Transfer-Encoding" in str(error):
            _read_transfer_encoding(request, coding[1].rstrip(b" \t"))
        raise HttpError(400, f"the head cannot be read: {error}") from error
    _read_fields(request)


def _read_fields(request: Request) -> None:
    connection: list[bytes] = []
    upgrade: bytes | None = None
    has_type = False
    for name, value in request.headers:
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
        elif name == b"content-type":
            if has_type:
                # The application would see one of them, or both, and what stands in front of us another one.
                raise HttpError(400, "the Content-Type field is repeated")
            has_type = True
        elif name == b"upgrade":
            upgrade = value.lower() if upgrade is None else upgrade + b"," + value.lower()
        elif value.lower() == b"100-continue":
            request.expect_continue = request.version == "1.1"
        else:
            raise HttpError(417, "the only expectation served is 100-continue")
    request.has_body = request.chunked or bool(request.content_length)
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


_SPECIAL = frozenset(
    (b"host", b"connection", b"content-length", b"content-type", b"transfer-encoding", b"upgrade", b"expect")
)


def _read_transfer_encoding(request: Request, value: bytes) -> None:
    if request.version == "1.0":
        raise HttpError(411, "HTTP/1.0 has no Transfer-Encoding; a body needs a Content-Length")
    if request.chunked:
        raise HttpError(400, "Transfer-Encoding is repeated")
    codings = [coding.strip(b" \t") for coding in value.lower().split(b",")]
    if codings != [b"chunked"]:
        if b"chunked" in codings[:-1] or b"" in codings:
            raise HttpError(400, "Transfer-Encoding does not end in one chunked")
        raise HttpError(501, "the only transfer coding served is chunked")
    request.chunked = True


def _read_target(request: Request) -> None:
    """Take apart a target that is no path."""
    absolute = _ABSOLUTE.fullmatch(request.path)
    if absolute is not None:
        # RFC 9112, 3.2.2: the target's authority replaces Host.
        scheme, request.host, path = absolute.groups()
        request.scheme = scheme.lower()
        # It was made for another host.
        request.prepared = None
        if not request.host or not _HOST.fullmatch(request.host):
            raise HttpError(400, "the request target names no host")
        request.path = path or b"/"
    elif request.target == b"*" and request.method == "OPTIONS":
        request.path = b""
    else:
        raise HttpError(400, "the request target does not begin with a slash")

"""The WebSocket opening handshake: a checked upgrade request to the answer's head.

Pure: no sockets, no clock. Follows RFC 6455, section 4, and RFC 7692, section 5.
"""

from __future__ import annotations

import hashlib
import re
from binascii import b2a_base64

from offload.protocol.http.request import HttpError, Request
from offload.protocol.websocket.deflate import negotiate
from offload.protocol.websocket.frames import Extension

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
VERSION = b"13"


class Handshake:
    """A client's wish to open a WebSocket.

    Attributes:
        accept: the value of Sec-WebSocket-Accept.
        subprotocols: what the client offers, in its order.
        origin: the Origin field as sent, or None where there is none.
        extension: what was agreed to of what the client offers, or None.
    """

    __slots__ = ("accept", "extension", "origin", "subprotocols")

    def __init__(
        self, accept: bytes, subprotocols: list[str], origin: str | None, extension: Extension | None = None
    ) -> None:
        self.accept = accept
        self.subprotocols = subprotocols
        self.origin = origin
        self.extension = extension

    def answer(self, subprotocol: str | None = None, fields: bytes = b"") -> bytes:
        """The head that opens the WebSocket.

        Args:
            subprotocol: one of `subprotocols`.
            fields: further header lines, each ending in CR LF.

        Raises:
            ValueError: the client did not offer this subprotocol.
        """
        chosen = b""
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                offered = ", ".join(self.subprotocols) or "none"
                raise ValueError(f"subprotocol {subprotocol!r} was not offered by the client (offered: {offered})")
            chosen = b"Sec-WebSocket-Protocol: " + subprotocol.encode("latin-1") + b"\r\n"
        if self.extension is not None:
            chosen += b"Sec-WebSocket-Extensions: " + self.extension.answer + b"\r\n"
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + self.accept
            + b"\r\n"
            + chosen
            + fields
            + b"\r\n"
        )


def wants_websocket(request: Request) -> bool:
    """Whether a request asks for an upgrade to WebSocket."""
    upgrade = request.upgrade
    return upgrade is not None and b"websocket" in (upgrade, *(token.strip() for token in upgrade.split(b",")))


def may_upgrade(request: Request) -> bool:
    """Whether a request can become a WebSocket; others may be served as if they had not asked (RFC 9110, 7.8)."""
    return (
        request.method == "GET" and request.version == "1.1" and not request.has_body and wants_websocket(request)
    )  # fmt: skip


def read_handshake(request: Request, compresses: bool = False) -> Handshake:
    """Check an upgrade request.

    Args:
        request: one that `wants_websocket`.
        compresses: whether an offer to compress is to be agreed to.

    Raises:
        HttpError: 400 for a wrong method, version, key or list; 426 for a version of WebSocket other than 13.
    """
    key = version = origin = None
    subprotocols: list[str] = []
    extensions: list[bytes] = []
    for name, value in request.headers:
        if name == b"sec-websocket-key":
            if key is not None:
                raise HttpError(400, "Sec-WebSocket-Key is repeated")
            key = value
        elif name == b"sec-websocket-version":
            if version is not None and version != value:
                raise HttpError(400, "Sec-WebSocket-Version is repeated")
            version = value
        elif name == b"origin":
            if origin is not None:
                raise HttpError(400, "Origin is repeated")
            origin = value.decode("latin-1")
        elif name == b"sec-websocket-protocol":
            subprotocols += _read_tokens(value)
        elif name == b"sec-websocket-extensions":
            extensions.append(value)
    if request.method != "GET" or request.version != "1.1" or request.has_body:
        raise HttpError(400, "a WebSocket handshake is a GET of HTTP/1.1 without a body")
    if version != VERSION:
        raise HttpError(426, "only version 13 of WebSocket is served")
    if key is None or not _KEY.fullmatch(key):
        raise HttpError(400, "Sec-WebSocket-Key is not 16 bytes in base64")
    try:
        agreement = negotiate(extensions) if extensions else None
    except ValueError as error:
        raise HttpError(400, str(error)) from error
    accept = b2a_base64(hashlib.sha1(key + _GUID, usedforsecurity=False).digest(), newline=False)
    return Handshake(accept, subprotocols, origin, agreement if compresses else None)


def refusal_fields(error: HttpError) -> bytes:
    """The header lines that belong to the answer to a refused handshake."""
    if error.status != 426:
        return b""
    return b"Sec-WebSocket-Version: " + VERSION + b"\r\nUpgrade: websocket\r\n"


def _read_tokens(value: bytes) -> list[str]:
    tokens = []
    for token in value.split(b","):
        token = token.strip(b" \t")
        # Empty elements are to be overlooked (RFC 9110, 5.6.1).
        if token:
            if not _TOKEN.fullmatch(token):
                raise HttpError(400, "Sec-WebSocket-Protocol is not a list of tokens")
            tokens.append(token.decode("ascii"))
    return tokens

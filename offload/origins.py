"""Which pages may open WebSockets: what an Origin is, whether it is the host's own, what ``--ws-origins`` names.

Browsers send a page's Origin with the handshake, and enforce nothing themselves. Follows RFC 6454; hosts are compared
as browsers write them (https://url.spec.whatwg.org/#host-serializing). Clients that are no browsers send what they were
told to open, with ``ws`` for ``http``, or with a slash behind it: that counts as what a browser sends.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

log = logging.getLogger("offload.websocket")

Policy = Callable[[str, str], bool]
"""An ``Origin`` field and a ``Host`` field to whether that page may connect."""

_HTTP_FORMS = {"ws": "http", "wss": "https"}
_PORTS = {"http": 80, "https": 443}
_PARTS = re.compile(r"(?:(?P<scheme>[a-z][a-z0-9+.\-]*)://)?(?P<host>\[[^\]/]*\]|[^:/\[\]]*)(?::(?P<port>[0-9]+))?")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_\-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_\-]*[a-z0-9_])?)*\.?")


class Origin(NamedTuple):
    """A page's origin.

    Attributes:
        scheme, host: ``file`` and ``null``, which have no host, have "" for it.
        port: None where the scheme has no port of its own and none is named.
    """

    scheme: str
    host: str
    port: int | None


_HOSTLESS = {"null": Origin("null", "", None), "file://": Origin("file", "", None)}
"""A page without an origin of its own (a sandboxed frame, a local file), and a local file in some native shells."""


class Allowed(NamedTuple):
    """What one entry allows.

    Attributes:
        scheme, port: None for any.
        below: whether the hosts below it are allowed, too.
    """

    scheme: str | None
    host: str
    port: int | None
    below: bool

    def allows(self, origin: Origin) -> bool:
        """Whether this entry names the origin."""
        if self.scheme not in (None, origin.scheme) or self.port not in (None, origin.port):
            return False
        return origin.host == self.host or (self.below and origin.host.endswith(f".{self.host}"))


def parse_origin(text: str) -> Origin | None:
    """The origin that an ``Origin`` field names; None for what no client sends."""
    text = text.lower()
    if text in _HOSTLESS:
        return _HOSTLESS[text]
    match = _PARTS.fullmatch(text.removesuffix("/"))
    if match is None or match["scheme"] is None:
        return None
    try:
        host = _checked_host(match["host"])
        port = _checked_port(match["port"])
    except ValueError:
        return None
    scheme = _HTTP_FORMS.get(match["scheme"], match["scheme"])
    return Origin(scheme, host, port or _PORTS.get(scheme))


def is_own(origin: Origin, host: str, secure: bool) -> bool:
    """Whether a page comes from where its request goes.

    Args:
        origin: the page's.
        host: the request's ``Host`` field.
        secure: whether the request came over TLS, as far as is known: a proxy may end TLS and not say so. So a page
            of https is at home on a plain request as well; one of http never is where TLS protects the host.
    """
    match = _PARTS.fullmatch(host.lower())
    if match is None or match["scheme"] is not None or origin.scheme not in _PORTS:
        return False
    try:
        name = _checked_host(match["host"])
        port = _checked_port(match["port"])
    except ValueError:
        return False
    if secure and origin.scheme != "https":
        return False
    return (origin.host, origin.port) == (name, port or _PORTS[origin.scheme])


def parse_allowed(text: str) -> Allowed:
    """An entry: ``example.com``, ``.example.com`` for it and all below, ``example.com:8443``, ``https://example.com``,
    ``null``, ``file://``.

    Raises:
        ValueError: in one sentence, why no page could ever match it.
    """
    entry = text.lower()
    if entry in _HOSTLESS:
        return Allowed(*_HOSTLESS[entry], below=False)
    if any(character.isspace() for character in entry):
        raise ValueError("there is a space in it; entries are separated by commas")
    scheme, separator, rest = entry.partition("://")
    if not separator:
        scheme, rest = "", entry
    elif scheme in ("ws", "wss"):
        raise ValueError(f"an Origin has the scheme of the page; write '{scheme.replace('ws', 'http')}://{rest}'")
    place, slash, _ = rest.partition("/")
    if slash and place:
        raise ValueError(f"an Origin has no path; write '{scheme}{separator}{place}'")
    if not place or re.fullmatch(":[0-9]*", place) or entry in ("http:", "https:"):
        raise ValueError("it names no host; write for instance 'https://example.com'")
    if place.startswith("*."):
        raise ValueError(f"a host and all below it are written '{scheme}{separator}{place[1:]}'")
    if place.count(":") > 1 and not place.startswith("["):
        raise ValueError(f"an IPv6 address stands in brackets: '{scheme}{separator}[{place}]'")
    match = _PARTS.fullmatch(entry)
    if match is None:
        raise ValueError("it is not HOST, HOST:PORT or SCHEME://HOST[:PORT]")
    below = match["host"].startswith(".")
    host = _checked_host(match["host"].removeprefix("."))
    port = _checked_port(match["port"])
    if match["scheme"] is not None:
        # As a browser writes it: without the port that the scheme implies.
        port = port or _PORTS.get(match["scheme"])
    return Allowed(match["scheme"], host, port, below)


class Origins:
    """Decides over a handshake's Origin.

    Args:
        allowed: entries that `parse_allowed` takes, or ``*`` for all; empty allows the host that the handshake itself
            was sent to.
        policy: asked instead where the application has one.
    """

    def __init__(self, allowed: Sequence[str], policy: Policy | None = None) -> None:
        self._allows_all = "*" in allowed
        self._allowed = [parse_allowed(entry) for entry in allowed if entry != "*"]
        self._policy = None if allowed else policy

    def __call__(self, origin: str, host: str, secure: bool) -> bool:
        """Whether a page may connect.

        Args:
            origin: the handshake's ``Origin`` field.
            host: its ``Host`` field.
            secure: whether it came over TLS.
        """
        if self._policy is not None:
            try:
                return self._policy(origin, host)
            except Exception:
                log.exception("the application's check of Origins failed; the handshake is refused")
                return False
        if self._allows_all:
            return True
        page = parse_origin(origin)
        if page is None:
            return False
        if self._allowed:
            return any(entry.allows(page) for entry in self._allowed)
        return is_own(page, host, secure)


def _checked_host(host: str) -> str:
    """A host as browsers write it."""
    if host.startswith("["):
        return f"[{ipaddress.IPv6Address(host[1:-1])}]"
    if not host.isascii():
        try:
            written = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"{host!r} is not a host name") from None
        raise ValueError(f"browsers write this host {written!r}")
    if not _NAME.fullmatch(host):
        raise ValueError(f"{host!r} is not a host name")
    if host.rstrip(".").rpartition(".")[2].isdecimal():
        return str(ipaddress.IPv4Address(host.rstrip(".")))
    return host


def _checked_port(port: str | None) -> int | None:
    if port is None:
        return None
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"the port {port} is not from 1 to 65535")
    return int(port)

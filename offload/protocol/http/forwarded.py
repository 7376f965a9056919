"""What a proxy says of the client: X-Forwarded-*, Forwarded, and the fields that only a proxy may set.

Only a trusted forwarder is believed. Each proxy adds the address it saw at the end of a list, so the list is read
from its end, and only as far as the addresses there are trusted themselves: what stands further left may be the
client's own invention. Pure: no sockets. Follows RFC 7239, and gunicorn where no standard says more.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from offload.protocol.http.request import HttpError

Field = tuple[bytes, bytes]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Node = tuple[str, str]
"""An address and a port, "0" where the proxy told none."""

_FORWARDING_FIELDS = frozenset(
    (
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-protocol",
        b"x-forwarded-ssl",
    )
)
"""What is read here."""

_SECURE = {
    "HTTP_X_FORWARDED_PROTO": ("https", "wss"),
    "HTTP_X_FORWARDED_PROTOCOL": ("https", "ssl"),
    "HTTP_X_FORWARDED_SSL": ("on",),
}
_INSIDE = [
    ipaddress.ip_network(network)
    for network in (
        "127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10",
        "::1/128", "fc00::/7", "fe80::/10",
    )
]  # fmt: skip
_MAX_NODE = 64
_MAX_KNOWN = 4096
"""Addresses of which the answer is remembered."""
_HOST = re.compile(r"(?:[A-Za-z0-9\-._~%!$&'()*+,;=]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
# A pair, or nothing, up to and with what ends it.
_PAIR = re.compile(r'[ \t]*(?:([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^;,"\s]*)[ \t]*)?([;,]|$)')
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(\d{1,5}))?")


class TrustedPeers:
    """A list of addresses and networks whose word counts.

    Args:
        allowed: addresses, networks such as ``10.0.0.0/8``, or ``*`` for whoever connects.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._everybody = "*" in allowed
        self._networks = [ipaddress.ip_network(entry) for entry in allowed if entry != "*"]
        # Of those behind the one who connects, "*" trusts the ones inside: it says nothing of the world's addresses.
        self._hops: list[Network] = self._networks + (_INSIDE if self._everybody else [])
        self._lists = lru_cache(_MAX_KNOWN)(partial(_is_in, networks=self._networks))
        # The node that a word of a proxy's list names, if any, and whether it is another trusted proxy's, so that
        # the client stands further left.
        self.read_hop = lru_cache(_MAX_KNOWN)(self._read_hop)

    def __call__(self, host: str) -> bool:
        """Whether a peer is trusted; one at a Unix socket, which has no address, always is."""
        return self._everybody or not host or self._lists(host)

    def _read_hop(self, word: str) -> tuple[Node, bool] | None:
        node = _node(word)
        return None if node is None else (node, _is_in(node[0], self._hops))


def _is_in(host: str, networks: Iterable[Network]) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    # A socket that serves both families sees IPv4 clients as ::ffff:192.0.2.1.
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)


class Forwarders:
    """Applies what proxies say to environs.

    In an environ ``X_REAL_IP`` and ``X-Real-Ip`` have one name, so what a forwarder says in the one spelling, and what
    a client says in the other, are kept apart here, by the names as they were sent.

    Args:
        trusted: whose word counts.
        statements: which of theirs are used: "for", "proto", "host", "forwarded". A proxy that does not write one of
            these fields passes on what the client wrote there, so the others are never read.
        fields: names with underscores, upper case, that a trusted forwarder may set (``*`` for all). Others', and
            nobody but a forwarder's, are dropped; so is whatever has one of these names with dashes.
        secure: the fields that tell of HTTPS, and their words for it; None for `X-Forwarded-Proto` and its like.
    """

    def __init__(
        self,
        trusted: TrustedPeers,
        statements: Sequence[str] = ("for", "proto"),
        fields: Sequence[str] = (),
        secure: Mapping[str, str] | None = None,
    ) -> None:
        self._trusted = trusted
        self._reads_for = "for" in statements
        self._reads_proto = "proto" in statements
        self._reads_host = "host" in statements
        self._reads_forwarded = "forwarded" in statements
        self._secure = _SECURE if secure is None else dict(_secure_words(*pair) for pair in secure.items())
        self._secure_names = frozenset(name.lower().encode("latin-1") for name in secure or ())
        self._all_fields = "*" in fields
        self._fields = frozenset(name.lower().encode("latin-1") for name in fields)
        self._twins = frozenset(name.replace(b"_", b"-") for name in self._fields) - self._fields

    def decides(self, name: bytes) -> bool:
        """Whether a field is one that `apply` puts into the environ, or drops; the name lower case."""
        return b"_" in name or name in _FORWARDING_FIELDS or name in self._twins or name in self._secure_names

    def apply(self, environ: dict[str, Any], fields: Sequence[Field]) -> None:
        """Put forwarding fields, and fields with underscores, into an environ, and do as the trusted ones say.

        Args:
            environ: with the peer's address in ``REMOTE_ADDR``; afterwards the client's stands there.
            fields: those that it `decides` on; names lower case.

        Raises:
            HttpError: 400, the fields that are read contradict each other, or are malformed.
        """
        trusted = self._trusted(environ["REMOTE_ADDR"])
        told: dict[str, str] = {}
        for name, value in fields:
            if not self._may_pass(name, trusted):
                continue
            key = environ_key(name)
            text = value.decode("latin-1")
            told[key] = f"{told[key]},{text}" if key in told else text
        # They take the place of what a client may have sent by the same name.
        environ.update(told)
        if trusted:
            self._believe(environ)
            if "HTTP_SCRIPT_NAME" in told:
                # Never read from the environ: a client's Script-Name would let it choose what the path is.
                environ["SCRIPT_NAME"] = told["HTTP_SCRIPT_NAME"].rstrip("/")

    def passes(self, name: bytes, host: str) -> bool:
        """Whether `apply` does not drop a field, lower case, that the peer at this address sent."""
        return self._may_pass(name, self._trusted(host))

    def _may_pass(self, name: bytes, trusted: bool) -> bool:
        if name in self._twins:
            return False
        return b"_" not in name or (trusted and self._may_set(name))

    def _may_set(self, name: bytes) -> bool:
        """Whether a forwarder may set a field with underscores; "*" means none that it has its own spelling for."""
        return name in self._fields or (self._all_fields and name.replace(b"_", b"-") not in _FORWARDING_FIELDS)

    def _believe(self, environ: dict[str, Any]) -> None:
        secure: set[bool] = set()
        host, node = "", None
        if self._reads_proto:
            secure = {
                word.strip().lower() in words
                for key, words in self._secure.items()
                if key in environ
                for word in environ[key].split(",")
            }
        if self._reads_host:
            host = environ.get("HTTP_X_FORWARDED_HOST", "").rpartition(",")[2].strip()
        if self._reads_forwarded and "HTTP_FORWARDED" in environ:
            elements = read_forwarded(environ["HTTP_FORWARDED"])
            node, at = self._client([element.get("for", "") for element in elements])
            element = elements[at] if elements else {}
            if "proto" in element:
                secure.add(element["proto"].lower() in ("https", "wss"))
            host = host or element.get("host", "")
        if self._reads_for and "HTTP_X_FORWARDED_FOR" in environ:
            # A proxy that writes this one may well pass on a Forwarded field that the client made up.
            words = (word.strip() for word in environ["HTTP_X_FORWARDED_FOR"].split(","))
            node, _ = self._client([word for word in words if word])
        if len(secure) > 1:
            raise HttpError(400, "the proxy's fields contradict each other on the scheme")
        if secure:
            environ["wsgi.url_scheme"] = "https" if secure.pop() else "http"
        if host:
            if not _HOST.fullmatch(host):
                raise HttpError(400, "the forwarded host is not a host name")
            environ["HTTP_HOST"] = host
        if node is not None:
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = node

    def _client(self, words: Sequence[str]) -> tuple[Node | None, int]:
        """The first from the right that is no trusted proxy, or the leftmost if all are; and where it stands."""
        found: Node | None = None
        at = len(words) - 1
        for index in reversed(range(len(words))):
            word = words[index]
            # Longer ones are no addresses, and not worth being remembered.
            hop = self._trusted.read_hop(word) if len(word) <= _MAX_NODE else None
            if hop is None:
                # "unknown", a name that hides an address, or nonsense: the last address known stands.
                break
            found, at = hop[0], index
            if not hop[1]:
                break
        return found, at


def _secure_words(name: str, word: str) -> tuple[str, tuple[str, ...]]:
    """What `_SECURE` has for a field, where it says the same; else the one word."""
    key, word = environ_key(name.lower().encode("latin-1")), word.lower()
    words = _SECURE.get(key, ())
    return key, words if word in words else (word,)


def environ_key(name: bytes) -> str:
    """A header field's name in an environ."""
    return "HTTP_" + name.decode("latin-1").upper().replace("-", "_")


def _node(text: str) -> Node | None:
    """Read ``192.0.2.1``, ``192.0.2.1:4711``, ``2001:db8::1`` or ``[2001:db8::1]:4711``."""
    host, port = text, "0"
    match = _NODE.fullmatch(text)
    if match is not None:
        host, port = match[1] or match[2], match[3] or "0"
    try:
        return str(ipaddress.ip_address(host)), str(int(port))
    except ValueError:
        return None


def read_forwarded(value: str) -> list[dict[str, str]]:
    """Read a Forwarded field: one dict for each proxy, names lower case.

    Raises:
        HttpError: 400, it does not follow RFC 7239.
    """
    elements: list[dict[str, str]] = [{}]
    at = 0
    while at < len(value):
        match = _PAIR.match(value, at)
        if match is None or (match[1] or "").lower() in elements[-1]:
            raise HttpError(400, "the Forwarded field is malformed")
        name, text, separator = match.groups()
        if name is not None:
            elements[-1][name.lower()] = re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
        at = match.end()
        if separator == ",":
            elements.append({})
    return [element for element in elements if element]

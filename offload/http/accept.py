"""From an accepted socket to its first HTTP byte: the PROXY protocol's header, then TLS, where either is asked for."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import partial
from typing import Any

from offload.exceptions import ProtocolError
from offload.http.connection import Check, HttpConnection
from offload.http.environ import Environ
from offload.http.server import PARTING_SECONDS, HttpServer
from offload.observe.log_lines import SafeLogger
from offload.protocol.http.forwarded import TrustedPeers
from offload.protocol.http.misdirected import HostCheck
from offload.protocol.http.request import HttpError
from offload.protocol.proxy import ProxyHeader, begins_with_proxy_header, read_proxy_header
from offload.settings import ProxyOptions
from offload.transport.connection import Connection
from offload.transport.timeouts import Timeouts
from offload.transport.tls import TlsAcceptor, TlsConnection

log = SafeLogger("offload.http")


class Acceptor:
    """Leads accepted connections to HTTP.

    Args:
        http: serves them afterwards.
        tls: shared by all `TlsConnection`s, and every connection is one; None for plain HTTP.
        proxy: whether a PROXY header may come first, and from whom; it has the time of a request's head.
        strict_sni: which requests over TLS are held to the hosts of their certificate: "off" for none; "auto" for
            those of connections that named a host to choose among several certificates; "on" for all.
        forwarders: peers that are not, since they bring requests of many clients.
    """

    def __init__(
        self,
        http: HttpServer,
        tls: TlsAcceptor | None,
        proxy: ProxyOptions,
        strict_sni: str,
        forwarders: TrustedPeers,
    ) -> None:
        self.http = http
        self.strict_sni = strict_sni
        self.forwarders = forwarders
        self.tls = tls
        self.proxy_mode = proxy.proxy_protocol if proxy.proxy_protocol != "off" else None
        self.proxies = TrustedPeers(proxy.proxy_allow_ips)
        self.waiting: set[_ProxyHeaderReader] = set()
        self.deadlines: Timeouts[_ProxyHeaderReader] = Timeouts(http.options.header_timeout, _ProxyHeaderReader.expired)

    @property
    def pending(self) -> int:
        """Connections on their way."""
        return len(self.waiting) + (len(self.tls.shaking_hands) if self.tls is not None else 0)

    def accepted(self, connection: Connection, base: Environ) -> None:
        """Take a new connection on its way; `base` is its listener's part of the environ."""
        if self.proxy_mode is not None:
            connection.start(_ProxyHeaderReader(self, connection, base))
        else:
            self.proceed(connection, base, b"")

    def proceed(self, connection: Connection, base: Environ, rest: bytes) -> None:
        """What comes now, `rest` first, is TLS or HTTP."""
        if isinstance(connection, TlsConnection):
            connection.begin_tls(partial(self._secured, base), partial(self._not_secured, base), rest)
            return
        self._serve(connection, base)
        if rest and connection.handler is not None:
            connection.handler.data_received(rest)

    def _secured(self, base: Environ, connection: TlsConnection) -> None:
        certificate = connection.certificate
        if certificate is not None:
            base = {**base, **_client_certificate(certificate, connection.certificate_bytes or b"")}
        self._serve(connection, base, self._host_check(connection))

    def _serve(self, connection: Connection, base: Environ, check: Check | None = None) -> None:
        served = HttpConnection(self.http, connection, base, check)
        connection.start(served)
        if self.http.stopping:
            # It took its time over what comes before HTTP, and has no more than the others now.
            served.stop()

    def refuse(self, connection: Connection, base: Environ, error: HttpError) -> None:
        """Tell a connection that serves nothing why, and end it."""
        served = HttpConnection(self.http, connection, base)
        connection.start(served)
        served.refuse(error)

    def _host_check(self, connection: TlsConnection) -> HostCheck | None:
        asked_for = connection.asked_for
        if self.strict_sni == "off" or (self.strict_sni == "auto" and asked_for is None):
            return None
        if self.forwarders(_address_of(connection)):
            return None
        # Where all is demanded, the name in the handshake excuses nothing: the certificate may not be for it, either.
        return HostCheck(connection.hosts, asked_for if self.strict_sni == "auto" else None)

    def _not_secured(self, base: Environ, connection: TlsConnection) -> None:
        self.refuse(connection, base, HttpError(400, "this port speaks TLS, and the request came without; use https"))

    def stop(self) -> None:
        """Give those on their way as long as an idle connection has; what they then ask is answered."""
        self.deadlines.shorten(PARTING_SECONDS)
        for reader in self.waiting:
            self.deadlines.add(reader)
        if self.tls is not None:
            self.tls.hurry(PARTING_SECONDS)


def _client_certificate(certificate: dict[str, Any], der: bytes) -> Environ:
    """The client's certificate, under the names that Apache's mod_ssl made common."""
    names = [(kind, value) for part in certificate["subject"] for kind, value in part]
    return {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": ",".join(f"{kind}={value}" for kind, value in names),
        "SSL_CLIENT_S_DN_CN": next((value for kind, value in names if kind == "commonName"), ""),
        "SSL_CLIENT_M_SERIAL": certificate["serialNumber"],
        "SSL_CLIENT_CERT": ssl.DER_cert_to_PEM_cert(der),
    }


def _address_of(connection: Connection) -> str:
    """The client's; "" at a Unix socket."""
    peer = connection.peer
    return str(peer[0]) if isinstance(peer, tuple) else ""


@dataclass(slots=True, eq=False)
class _ProxyHeaderReader:
    """A connection whose PROXY header is awaited."""

    _acceptor: Acceptor
    _connection: Connection
    _base: Environ
    _data: bytes = b""

    def __post_init__(self) -> None:
        self._acceptor.waiting.add(self)
        self._acceptor.deadlines.add(self)

    def data_received(self, data: bytes) -> None:
        """Read on, until the header is whole or it is clear that there is none."""
        self._data += data
        acceptor = self._acceptor
        assert acceptor.proxy_mode is not None
        # Before the header is read: a stranger's may be made to take long.
        if begins_with_proxy_header(self._data, acceptor.proxy_mode) and not acceptor.proxies(
            _address_of(self._connection)
        ):
            self._refuse(403, "a PROXY header is taken only from the addresses that --proxy-allow-from names")
            return
        try:
            found = read_proxy_header(self._data, acceptor.proxy_mode)
        except ProtocolError as error:
            self._refuse(400, str(error))
            return
        if found is None:
            return
        header, rest = found
        if header is not None:
            self._apply(header)
        self._leave()
        acceptor.proceed(self._connection, self._base, rest)

    def _apply(self, header: ProxyHeader) -> None:
        self._base = {**self._base, "PROXY_PROTOCOL": header.protocol}
        if header.source is not None and header.destination is not None:
            self._connection.peer = header.source
            self._base["PROXY_ADDR"] = header.destination[0]
            self._base["PROXY_PORT"] = str(header.destination[1])

    def _refuse(self, status: int, text: str) -> None:
        connection = self._connection
        if isinstance(connection, TlsConnection):
            # It waits for TLS, and would not understand plain words.
            connection.abort()
            log.info("%d from %s: %s", status, connection.client, text)
        else:
            self._leave()
            self._acceptor.refuse(connection, self._base, HttpError(status, text))

    def _leave(self) -> None:
        self._acceptor.waiting.discard(self)
        self._acceptor.deadlines.discard(self)

    def eof_received(self) -> None:
        """It ended before it began."""
        self._connection.abort()

    def connection_lost(self) -> None:
        """Forget it."""
        self._leave()

    def expired(self) -> None:
        """The header did not come in time."""
        self._connection.abort()

"""TLS on the loop: a connection whose bytes pass through OpenSSL's memory buffers on their way to and from the socket.

OpenSSL never touches the socket, so neither a read nor a write can get stuck half-way on the other's behalf: what it
wants to say, be it a handshake's step, a ticket or a key update, joins the connection's queue of unsent bytes. Each
read decrypts all that came, so nothing readable ever waits behind a socket that is silent.
"""

from __future__ import annotations

import _socket
import logging
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent

from offload.exceptions import ConfigurationError
from offload.observe.log_lines import RepeatedLines, SafeLogger
from offload.settings import TlsOptions
from offload.transport.connection import Connection
from offload.transport.timeouts import LeastRate, Timeouts

if TYPE_CHECKING:
    from gevent._types import _Loop

log = SafeLogger("offload.server")

RECORD_BYTES = 16384
"""The most that one TLS record carries."""
_MAX_ANSWERS_BYTES = 16384
"""What OpenSSL itself has to say may have this size while a client takes nothing."""
_PIECE_BYTES = 65536
"""Encrypted and queued at a time, so that OpenSSL's buffers stay small."""


class _Object(ssl.SSLObject):
    asked_for: str | None = None
    """The host that the client named, where there are several certificates to choose from."""

    def _sslsock(self) -> _Object:
        # gevent's contexts hand their callbacks what this returns: they expect one of gevent's sockets.
        return self


class _Context(ssl.SSLContext):
    sslobject_class = _Object
    hosts: frozenset[str] = frozenset()
    """Those that the certificate is for, lower case, where anybody has to know."""


def make_context(options: TlsOptions) -> ssl.SSLContext:
    """A server's context: TLS 1.2 and up, without renegotiation, HTTP/1.1 by ALPN.

    Args:
        options: the files. A certificate's file has those between it and the root, too. A client that names a host
            (SNI) gets the certificate for it; the first is for all others. With several certificates, or where each
            request is held to its certificate, connections tell the hosts of theirs.

    Raises:
        ConfigurationError: a file cannot be read or is none of its kind, or no cipher matches; or the hosts are to
            be known, and a certificate names none.
    """
    certfiles, keyfiles = options.certfile, options.keyfile
    knows_hosts = options.strict_sni == "on"
    if not certfiles:
        raise ConfigurationError("TLS needs a certificate; give --certfile")
    if keyfiles and len(keyfiles) != len(certfiles):
        raise ConfigurationError(
            f"there are {len(certfiles)} certificates (--certfile) and {len(keyfiles)} keys (--keyfile)"
        )
    contexts = [
        _context(certfile, keyfile, options.ca_certs, options.cert_reqs, options.ciphers)
        for certfile, keyfile in zip(certfiles, keyfiles or certfiles, strict=True)
    ]
    first = contexts[0]
    if len(contexts) > 1 or knows_hosts:
        for context, certfile in zip(contexts, certfiles, strict=True):
            context.hosts = _hosts_of(certfile)
            if knows_hosts and not context.hosts:
                raise ConfigurationError(f"the certificate {certfile!r} names no host (subjectAltName)")
    if len(contexts) > 1:
        certificates = {host: context for context in reversed(contexts) for host in context.hosts}

        def choose(tls: _Object, name: str | None, _: ssl.SSLContext) -> None:
            tls.asked_for = name
            host = (name or "").lower()
            tls.context = certificates.get(host) or certificates.get("*." + host.partition(".")[2]) or first

        # The type shed knows of no contexts that make objects of another class.
        first.sni_callback = choose  # type: ignore[assignment]
    return first


def _hosts_of(certfile: str) -> frozenset[str]:
    """The hosts that a certificate is for, lower case."""
    try:
        from cryptography import x509
    except ImportError as error:
        raise ConfigurationError(
            "to tell certificates' hosts needs the cryptography package; run: pip install 'django-offload[tls]'"
        ) from error
    certificate = x509.load_pem_x509_certificates(Path(certfile).read_bytes())[0]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return frozenset((*(name.lower() for name in names.get_values_for_type(x509.DNSName)), *addresses))


def _context(certfile: str, keyfile: str, ca_certs: str | None, cert_reqs: int, ciphers: str | None) -> _Context:
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    _load(context.load_cert_chain, certfile, keyfile, _no_password)
    if ca_certs is not None:
        _load(context.load_verify_locations, ca_certs)
    elif cert_reqs:
        raise ConfigurationError("client certificates need the file of those who vouch for them; give --ca-certs")
    context.verify_mode = ssl.VerifyMode(cert_reqs)
    if ciphers is not None:
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError as error:
            raise ConfigurationError(f"no cipher matches {ciphers!r} (--ciphers)") from error
    return context


def _load(load: Callable[..., object], *files: Any) -> None:
    names = " and ".join(dict.fromkeys(repr(name) for name in files if isinstance(name, str)))
    try:
        load(*files)
    except ssl.SSLError as error:
        why = "the key does not belong to the certificate" if error.reason == "KEY_VALUES_MISMATCH" else error.reason
        raise ConfigurationError(f"cannot use {names} for TLS: {why or 'there is no PEM text of that kind'}") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {names} for TLS: {error.strerror}") from error


def _no_password() -> str:
    raise ConfigurationError("the key for TLS is encrypted, and nobody is there to type its password; decrypt it")


class TlsAcceptor:
    """What all TLS connections of a process share.

    Args:
        context: for all of them.
        handshake_timeout: seconds for a whole handshake; None for no limit.

    Attributes:
        shaking_hands: connections whose handshake is not done.
    """

    def __init__(self, context: ssl.SSLContext, handshake_timeout: float | None) -> None:
        self.context = context
        self.failures = RepeatedLines(log, "TLS handshakes failed", partial(gevent.get_hub().loop.timer, ref=False))
        self.shaking_hands: set[TlsConnection] = set()
        self.deadlines: Timeouts[TlsConnection] = Timeouts(handshake_timeout, TlsConnection.handshake_expired)

    def hurry(self, seconds: float) -> None:
        """Give all handshakes this long from now."""
        self.deadlines.shorten(seconds)
        for connection in self.shaking_hands:
            self.deadlines.add(connection)


class TlsConnection(Connection):
    """A connection that speaks plainly until `begin_tls`, and only TLS from there on.

    Args:
        loop, sock, peer, left, sending: as `Connection`.
        acceptor: the process's.
    """

    sends_files = False

    __slots__ = ("_acceptor", "_answers", "_established", "_incoming", "_outgoing", "_plain", "_ready", "_soon", "_tls")

    def __init__(
        self,
        loop: _Loop,
        sock: _socket.socket,
        peer: object,
        left: Callable[[Connection], None],
        acceptor: TlsAcceptor,
        sending: LeastRate[Connection] | None = None,
    ) -> None:
        super().__init__(loop, sock, peer, left, sending)
        self._acceptor = acceptor
        self._ready: Callable[[TlsConnection], None] | None = None
        # Until the client's first bytes have come.
        self._plain: Callable[[TlsConnection], None] | None = None
        self._established = False
        # Bytes that OpenSSL itself had to say since the client last took everything.
        self._answers = 0
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        # What `write_soon` was given in this turn of the loop: it becomes one record.
        self._soon: list[bytes] | None = None

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The client's certificate, checked, as `ssl.SSLSocket.getpeercert` tells it; None without one."""
        return (self._tls.getpeercert() or None) if self._tls is not None else None

    @property
    def certificate_bytes(self) -> bytes | None:
        """The client's certificate, in DER form; None without one."""
        return self._tls.getpeercert(binary_form=True) if self._tls is not None else None

    @property
    def hosts(self) -> frozenset[str]:
        """Those that the certificate in use is for; none where `make_context` was not asked to know them."""
        context = self._tls.context if self._tls is not None else None
        return context.hosts if isinstance(context, _Context) else frozenset()

    @property
    def asked_for(self) -> str | None:
        """The host that the client named for the choice among several certificates."""
        return self._tls.asked_for if isinstance(self._tls, _Object) else None

    def begin_tls(
        self,
        ready: Callable[[TlsConnection], None],
        plain: Callable[[TlsConnection], None],
        early: bytes = b"",
    ) -> None:
        """Begin the handshake.

        Args:
            ready: called once the handshake is done; it gives the connection its handler.
            plain: called instead where the client began with a plain request; what it sent is dropped, and the
                connection speaks plainly, as before.
            early: what was read from the socket already.
        """
        self.handler = None
        self._ready = ready
        self._plain = plain
        self._source = self
        self._tls = self._acceptor.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._acceptor.shaking_hands.add(self)
        self._acceptor.deadlines.add(self)
        self.resume_reading()
        if early:
            self._begin(early)

    def _begin(self, data: bytes) -> None:
        """Take bytes of the handshake, if that is what they are."""
        plain, self._plain = self._plain, None
        if plain is not None and data[:1].isupper():
            # A method's first letter, which is no type of a TLS record.
            self._leave_handshake()
            self._tls = None
            plain(self)
        else:
            self._incoming.write(data)
            self._shake_hands()

    def _leave_handshake(self) -> None:
        self._acceptor.shaking_hands.discard(self)
        self._acceptor.deadlines.discard(self)
        self._ready = self._plain = None
        # Held by the connection, it would hold the connection.
        self._source = self._sock

    def handshake_expired(self) -> None:
        """The client took too long."""
        self.abort()
        self._acceptor.failures.write(
            logging.INFO, "took too long", "the TLS handshake with %s took too long", self.client
        )  # fmt: skip

    def _shake_hands(self) -> None:
        assert self._tls is not None
        assert self._ready is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send_outgoing()
            return
        except (ssl.SSLError, ssl.CertificateError) as error:
            reason = error.reason or error
            self._acceptor.failures.write(
                logging.INFO, "failed", "the TLS handshake with %s failed: %s", self.client, reason
            )  # fmt: skip
            # An alert tells the client why.
            self._send_outgoing()
            super().close()
            return
        self._established = True
        self._acceptor.shaking_hands.discard(self)
        self._acceptor.deadlines.discard(self)
        ready, self._ready = self._ready, None
        # Tickets for the client's next visits; it may be gone already.
        self._send_outgoing()
        if not self.closed:
            ready(self)

    def recv(self, size: int) -> bytes:
        """In the place of a socket's ``recv``: all that can be decrypted now, b"" at the end."""
        data = self._sock.recv(size)
        if not data:
            # Whether the client said goodbye first does not matter: HTTP's and WebSocket's own framing tells whole
            # messages from cut ones.
            if not self._established:
                self.abort()
                raise BlockingIOError
            return data
        incoming = self._incoming
        if self._established:
            incoming.write(data)
        else:
            self._begin(data)
            if not self._established or self.closed:
                raise BlockingIOError
        assert self._tls is not None
        read = self._tls.read
        pieces = []
        goodbye = False
        try:
            # A read takes a whole record: with the buffer empty, OpenSSL holds back a record's beginning at most.
            while incoming.pending:
                piece = read(RECORD_BYTES)
                if not piece:
                    goodbye = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass  # What is left is a record's beginning, or was between the two ends of TLS alone.
        except ssl.SSLZeroReturnError:
            goodbye = True
        if self._outgoing.pending:
            # For instance the answer to a key update. OpenSSL answers any number of them.
            if self._unsent is None:
                self._answers = 0
            self._answers += self._outgoing.pending
            if self._answers > _MAX_ANSWERS_BYTES:
                self.reset()
                log.info("%s is cut off: it reads none of the answers that its TLS asks for", self.client)
                raise BlockingIOError
            self._send_outgoing()
        if pieces:
            # A goodbye behind them is told again by the socket's end.
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if goodbye:
            return b""
        raise BlockingIOError

    def write(self, data: bytes) -> None:
        """See `Connection.write`."""
        if self.closed or self._end is not None or not self._established:
            if self._tls is None:
                super().write(data)
            return
        if self._soon is not None:
            self._encrypt_soon()
        self._encrypt(data)

    def write_soon(self, data: bytes) -> None:
        """See `Connection.write_soon`."""
        if self.closed or self._end is not None or not self._established:
            return
        if self._soon is None:
            self._soon = []
            self._loop.run_callback(self._encrypt_soon)
        self._soon.append(data)
        self.unsent_bytes += len(data)

    def _encrypt_soon(self) -> None:
        if self._soon is None or self.closed:
            return
        data, self._soon = b"".join(self._soon), None
        self.unsent_bytes -= len(data)
        self._encrypt(data)

    def flush(self) -> None:
        """See `Connection.flush`."""
        if self._soon is not None:
            self._encrypt_soon()
        super().flush()

    def _refilled(self, unsent: deque[bytes | memoryview]) -> bool:
        data = self.refill() if self.refill is not None else b""
        for piece in self._sealed(data) if data else ():
            unsent.append(piece)
            self.unsent_bytes += len(piece)
        return bool(unsent)

    def _encrypt(self, data: bytes) -> None:
        for piece in self._sealed(data):
            super().write(piece)

    def _sealed(self, data: bytes) -> list[bytes]:
        """The bytes that carry `data` over the wire; none, and the connection's end, where OpenSSL fails."""
        assert self._tls is not None
        write, outgoing = self._tls.write, self._outgoing
        try:
            if len(data) <= RECORD_BYTES:
                write(data)
                return [outgoing.read()]
            pieces = []
            view = memoryview(data)
            while view:
                view = view[write(view) :]
                if outgoing.pending >= _PIECE_BYTES or not view:
                    pieces.append(outgoing.read())
            return pieces
        except ssl.SSLError as error:
            self.abort()
            log.info("the TLS connection with %s failed: %s", self.client, error.reason or error)
            return []

    def _send_outgoing(self) -> None:
        if self._outgoing.pending:
            super().write(self._outgoing.read())

    def finish(self) -> None:
        """See `Connection.finish`."""
        self._say_goodbye()
        super().finish()

    def close(self) -> None:
        """See `Connection.close`."""
        self._say_goodbye()
        super().close()

    def _say_goodbye(self) -> None:
        """Tell the client that nothing was cut off."""
        if self.closed or self._end is not None or not self._established or self._tls is None:
            return
        if self._soon is not None:
            self._encrypt_soon()
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # The client has not said it yet, or the connection broke before: ours is all there is to send.
        self._send_outgoing()

    def _end_now(self) -> None:
        self._leave_handshake()
        super()._end_now()

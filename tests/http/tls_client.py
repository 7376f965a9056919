"""What tests of TLS share: an authority, and clients that see the bytes on the wire."""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import trustme

from tests.serving import Server

MIRROR = "tests.http.apps.mirror"
GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Files:
    """An authority, and files of what it has signed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        self.ca = str(directory / "ca.pem")
        self.pair = self.issue("localhost", "127.0.0.1")

    def issue(self, *names: str, file: str = "server") -> str:
        """Sign a certificate; the file has it and its key."""
        path = self.directory / f"{file}.pem"
        self.authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(path))
        return str(path)

    def client(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """A client's context that trusts the authority alone."""
        context = ssl.create_default_context(cafile=self.ca)
        if certificate is not None:
            certificate.configure_cert(context)
        return context


@contextlib.contextmanager
def tls(server: Server, context: ssl.SSLContext, name: str = "localhost") -> Iterator[ssl.SSLSocket]:
    """A connection on which an end without a goodbye is an error."""
    with context.wrap_socket(server.connect(), server_hostname=name, suppress_ragged_eofs=False) as sock:
        yield sock


def read_all(sock: ssl.SSLSocket) -> bytes:
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def body_of(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer[:500]
    return body


def environ_of(answer: bytes) -> dict[str, str]:
    environ: dict[str, str] = json.loads(body_of(answer))
    return environ


def ask(server: Server, context: ssl.SSLContext, path: bytes = b"/", name: str = "localhost") -> bytes:
    with tls(server, context, name) as sock:
        sock.sendall(LAST % path)
        return read_all(sock)


def ask_for_key_updates(wire: Wire, count: int) -> None:
    """Have the server answer this many updates of TLS 1.3's keys, which Python's module cannot ask for."""
    # The one that Python's module is bound to: packages bring copies of their own.
    library = ctypes.CDLL(_ssl.__file__)
    library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    # The first field behind the object's header.
    session = ctypes.c_void_p.from_address(id(wire.tls._sslobj) + object.__basicsize__ + 8).value  # type: ignore[attr-defined]
    for _ in range(count):
        assert library.SSL_key_update(session, 1) == 1
        with contextlib.suppress(ssl.SSLWantReadError):
            wire.tls.do_handshake()
        if wire.outgoing.pending > 20_000:
            wire.send()
    wire.send()


class Wire:
    """A client that sees the bytes on the wire."""

    def __init__(self, server: Server, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.sock = server.connect()
        self.piece_bytes = 1 << 20

    def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send()
                self.receive()
            else:
                self.send()
                return

    def send(self) -> None:
        data = self.outgoing.read()
        for at in range(0, len(data), self.piece_bytes):
            self.sock.sendall(data[at : at + self.piece_bytes])

    def receive(self) -> None:
        data = self.sock.recv(65536)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    def read_until(self, end: bytes) -> bytes:
        received = b""
        while end not in received:
            try:
                received += self.tls.read(65536)
            except ssl.SSLWantReadError:
                self.receive()
        return received

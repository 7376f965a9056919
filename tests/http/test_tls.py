"""TLS in front of a real server: handshakes, data both ways, ends, client certificates, SNI, and reloads."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

from offload.exceptions import ConfigurationError
from offload.transport.tls import make_context
from tests.serving import DEADLINE, Server, serving

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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(files: Files) -> Iterator[Server]:
    with serving(
        MIRROR, "--layer", "memory://", "--certfile", files.pair, "--tls-handshake-timeout", "0.5",
        "--keep-alive", "5", "--ws-send-buffer", "33554432",
    ) as running:  # fmt: skip
        yield running


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


# Handshakes and data.


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_request_is_served_over_tls_and_says_https(server: Server, files: Files, version: ssl.TLSVersion) -> None:
    context = files.client()
    context.minimum_version = context.maximum_version = version
    environ = environ_of(ask(server, context))
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert "SSL_CLIENT_VERIFY" not in environ


def test_alpn_is_http_1_1(server: Server, files: Files) -> None:
    context = files.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with tls(server, context) as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"


def test_tls_1_1_is_refused(server: Server, files: Files) -> None:
    context = files.client()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        ask(server, context)


def test_answer_larger_than_any_buffer_arrives_whole(server: Server, files: Files) -> None:
    assert body_of(ask(server, files.client(), b"/size/8388608")) == bytes(range(256)) * 32768


def test_body_larger_than_any_buffer_is_echoed(server: Server, files: Files) -> None:
    body = os.urandom(3_000_000)
    head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with tls(server, files.client()) as sock:
        sock.sendall(head + body)
        assert body_of(read_all(sock)) == body


def test_slow_reader_of_a_large_answer_gets_all_of_it(server: Server, files: Files) -> None:
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(DEADLINE)
    plain.connect(("127.0.0.1", server.port))
    with files.client().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as sock:
        sock.sendall(LAST % b"/size/2097152")
        received = b""
        while piece := sock.recv(1000):
            received += piece
    assert body_of(received) == bytes(range(256)) * 8192


def test_requests_keep_the_connection_and_its_goodbye_is_said(server: Server, files: Files) -> None:
    with tls(server, files.client()) as sock:
        for _ in range(3):
            sock.sendall(GET % b"/size/0")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        sock.sendall(LAST % b"/size/0")
        # A missing goodbye would raise.
        assert read_all(sock).startswith(b"HTTP/1.1 200 ")


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


def test_handshake_and_request_byte_by_byte_are_served(server: Server, files: Files) -> None:
    wire = Wire(server, files.client())
    with wire.sock:
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.piece_bytes = 1
        wire.shake_hands()
        wire.tls.write(GET % b"/")
        wire.send()
        assert wire.read_until(b"}").startswith(b"HTTP/1.1 200 ")


def test_many_records_in_one_segment_are_all_read(server: Server, files: Files) -> None:
    wire = Wire(server, files.client())
    with wire.sock:
        wire.shake_hands()
        # One record for each byte: what the first read of the socket brings is hundreds of records.
        for byte in GET % b"/size/0" + GET % b"/":
            wire.tls.write(bytes((byte,)))
        wire.send()
        assert wire.read_until(b"}").count(b"HTTP/1.1 200 ") == 2


def test_goodbye_of_the_client_ends_the_connection_though_its_socket_stays_open(server: Server, files: Files) -> None:
    wire = Wire(server, files.client())
    with wire.sock:
        wire.shake_hands()
        with pytest.raises(ssl.SSLWantReadError):
            wire.tls.unwrap()
        wire.send()
        # Before the keep-alive time is over.
        wire.sock.settimeout(4)
        while wire.sock.recv(65536):
            pass


def test_client_that_leaves_without_a_goodbye_harms_nobody(server: Server, files: Files) -> None:
    for _ in range(3):
        wire = Wire(server, files.client())
        wire.shake_hands()
        wire.tls.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123")
        wire.send()
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.sock.close()
    assert environ_of(ask(server, files.client()))["wsgi.url_scheme"] == "https"


def test_refusal_is_read_though_the_client_goes_on_sending(server: Server, files: Files) -> None:
    with tls(server, files.client()) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100_000)
        assert read_all(sock).startswith(b"HTTP/1.1 400 ")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program")
@pytest.mark.parametrize(
    ("version", "letter", "said", "is_served"),
    [("-tls1_3", b"K", b"KEYUPDATE", True), ("-tls1_2", b"R", b"no renegotiation", False)],
)
def test_key_update_is_answered_and_renegotiation_is_not(
    server: Server, files: Files, version: str, letter: bytes, said: bytes, is_served: bool
) -> None:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-CAfile", files.ca, version]
    with subprocess.Popen(
        command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        output = b""
        # One letter at a line's beginning is an order to the client.
        for order, end in ((b"", b"---\n"), (letter + b"\n", said), (LAST % b"/" if is_served else b"", b"")):
            client.stdin.write(order)
            while end and end not in output:
                piece = client.stdout.read(65536)
                assert piece, output
                output += piece
        output += client.stdout.read() or b""
        client.wait(DEADLINE)
    assert (b"HTTP/1.1 200 " in output) is is_served
    assert environ_of(ask(server, files.client()))["wsgi.url_scheme"] == "https"


# Handshakes that fail.


def test_slow_handshake_ends_with_its_timeout(server: Server, files: Files) -> None:
    silent, slow = server.connect(), Wire(server, files.client())
    with silent, slow.sock:
        began = time.monotonic()
        with pytest.raises(ssl.SSLWantReadError):
            slow.tls.do_handshake()
        slow.sock.sendall(slow.outgoing.read()[:50])
        assert silent.recv(100) == b""
        assert slow.sock.recv(100) == b""
        assert 0.4 < time.monotonic() - began < DEADLINE
    server.wait_for("the TLS handshake with .* took too long", times=2)


def test_plain_http_is_refused_and_logged(server: Server, files: Files) -> None:
    server.ask(GET % b"/")
    server.wait_for(r"the TLS handshake with \('127.0.0.1', \d+\) failed: HTTP_REQUEST")
    assert ask(server, files.client())


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\xff\xff" + b"\xff" * 200, b"\x00" * 100, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"]
)
def test_nonsense_instead_of_a_handshake_is_refused(server: Server, files: Files, data: bytes) -> None:
    with server.connect() as sock, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        sock.sendall(data)
        while sock.recv(1000):
            pass
    assert ask(server, files.client())


def test_nonsense_after_the_handshake_ends_the_connection(server: Server, files: Files) -> None:
    wire = Wire(server, files.client())
    with wire.sock:
        wire.shake_hands()
        wire.sock.sendall(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
        with contextlib.suppress(ConnectionResetError):
            while wire.sock.recv(1000):
                pass
    assert ask(server, files.client())


# WebSockets.


def test_websocket_over_tls_passes_messages_and_says_wss(server: Server, files: Files) -> None:
    with connect(
        server.url("/ws", "wss").replace("127.0.0.1", "localhost"),
        ssl=files.client(), open_timeout=DEADLINE, max_size=None, compression=None,
    ) as sock:  # fmt: skip
        told = json.loads(sock.recv(DEADLINE))
        assert told["scheme"] == "wss"
        assert told["client"][0] == "127.0.0.1"
        large = "x" * 1_000_000
        for text in ("a", "", large, "ä"):
            sock.send(text)
            assert sock.recv(DEADLINE) == text
        # Read late: the server has to wait for the socket.
        for _ in range(20):
            sock.send(large)
        assert sum(len(sock.recv(DEADLINE)) for _ in range(20)) == 20_000_000
        sock.close()
        with pytest.raises(ConnectionClosedOK):
            sock.recv(DEADLINE)


# Client certificates.


@pytest.mark.parametrize("required", [True, False])
def test_client_certificate_is_checked_and_told(files: Files, required: bool) -> None:
    arguments = ["--certfile", files.pair, "--ca-certs", files.ca, "--cert-reqs", "2" if required else "1"]
    known = files.authority.issue_cert("ann@example.org", common_name="Ann")
    stranger = trustme.CA().issue_cert("mallory@example.org")
    with serving(MIRROR, *arguments) as server:
        environ = environ_of(ask(server, files.client(known)))
        assert environ["SSL_CLIENT_VERIFY"] == "SUCCESS"
        assert environ["SSL_CLIENT_S_DN_CN"] == "Ann"
        assert "commonName=Ann" in environ["SSL_CLIENT_S_DN"]
        assert environ["SSL_CLIENT_CERT"].startswith("-----BEGIN CERTIFICATE-----")
        assert int(environ["SSL_CLIENT_M_SERIAL"], 16) > 0
        with pytest.raises(ssl.SSLError, match=r"(?i)unknown ca"):
            ask(server, files.client(stranger))
        if required:
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate required"):
                ask(server, files.client())
            server.wait_for("the TLS handshake with .* failed: PEER_DID_NOT_RETURN_A_CERTIFICATE")
        else:
            assert "SSL_CLIENT_VERIFY" not in environ_of(ask(server, files.client()))


def test_proxy_header_comes_before_tls(files: Files) -> None:
    with (
        serving(MIRROR, "--certfile", files.pair, "--proxy-protocol", "auto") as server,
        server.connect() as plain,
    ):
        plain.sendall(b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n")
        with files.client().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as sock:
            sock.sendall(LAST % b"/")
            environ = environ_of(read_all(sock))
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("203.0.113.9", "https")
        assert environ_of(ask(server, files.client()))["REMOTE_ADDR"] == "127.0.0.1"


def test_proxy_header_and_handshake_in_one_segment_are_told_apart(files: Files) -> None:
    with serving(MIRROR, "--certfile", files.pair, "--proxy-protocol", "v1") as server:
        wire = Wire(server, files.client())
        with wire.sock:
            with pytest.raises(ssl.SSLWantReadError):
                wire.tls.do_handshake()
            wire.sock.sendall(b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n" + wire.outgoing.read())
            wire.shake_hands()
            wire.tls.write(GET % b"/")
            wire.send()
            assert b'"REMOTE_ADDR": "203.0.113.9"' in wire.read_until(b"}")


# Certificates.


def served_names(server: Server, context: ssl.SSLContext, name: str) -> set[str]:
    with tls(server, context, name) as sock:
        certificate = sock.getpeercert()
    assert certificate is not None
    return {str(value) for kind, value in certificate["subjectAltName"] if kind == "DNS"}


def test_certificate_is_chosen_by_the_name_that_the_client_asks_for(files: Files) -> None:
    certificates = [
        files.pair,
        files.issue("shop.example", "www.shop.example", file="shop"),
        files.issue("*.blog.example", file="blog"),
    ]
    arguments = [part for file in certificates for part in ("--certfile", file)]
    careless = files.client()
    careless.check_hostname = False
    with serving(MIRROR, *arguments) as server:
        assert served_names(server, files.client(), "www.shop.example") == {"shop.example", "www.shop.example"}
        assert served_names(server, files.client(), "SHOP.example") == {"shop.example", "www.shop.example"}
        assert served_names(server, files.client(), "ann.blog.example") == {"*.blog.example"}
        assert served_names(server, files.client(), "localhost") == {"localhost"}
        assert served_names(server, careless, "other.example") == {"localhost"}
        assert served_names(server, careless, "a.b.blog.example") == {"localhost"}


def test_sighup_reloads_certificates_for_new_connections(tmp_path: Path) -> None:
    files = Files(tmp_path)
    with serving(MIRROR, "--layer", "memory://", "--certfile", files.pair, workers=2) as server:
        with tls(server, files.client()) as sock:
            # The request is on its way while the process that has it is replaced.
            sock.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\no")
            files.issue("localhost", "reloaded.example")
            server.signal(signal.SIGHUP)
            server.wait_for(r"server process \d+ is ready", times=4)
            sock.sendall(b"k")
            assert body_of(read_all(sock)) == b"ok"
        server.wait_for("was replaced and ended with status 0", times=2)
        for _ in range(4):
            assert served_names(server, files.client(), "reloaded.example") == {"localhost", "reloaded.example"}
        Path(files.pair).write_text("nonsense")
        server.signal(signal.SIGHUP)
        server.wait_for(r"not reloaded, the old .* go on: \d+ cannot use '.*server.pem' for TLS")
        assert served_names(server, files.client(), "reloaded.example") == {"localhost", "reloaded.example"}


def test_wrong_files_are_one_clear_sentence(files: Files, tmp_path: Path) -> None:
    other = trustme.CA().issue_cert("other")
    other.private_key_pem.write_to_path(str(tmp_path / "other.key"))
    (tmp_path / "empty").write_text("")
    missing, empty, key = (str(tmp_path / name) for name in ("none.pem", "empty", "other.key"))

    def why(certfiles: list[str], keyfiles: list[str], *more: Any) -> str:
        with pytest.raises(ConfigurationError) as caught:
            make_context(certfiles, keyfiles, *more)
        return str(caught.value)

    assert why([missing], []) == f"cannot read {missing!r} for TLS: No such file or directory"
    assert why([empty], []).startswith(f"cannot use {empty!r} for TLS: ")
    assert why([files.pair], [key]).endswith("the key does not belong to the certificate")
    assert why([files.pair], [], None, 2).endswith("give --ca-certs")
    assert why([files.pair], [], empty, 2).startswith(f"cannot use {empty!r} for TLS: ")
    assert why([files.pair], [], None, 0, "NONSENSE") == "no cipher matches 'NONSENSE' (--ciphers)"
    assert why([files.pair], [key, key]) == "there are 1 certificates (--certfile) and 2 keys (--keyfile)"


def test_encrypted_key_is_refused_without_asking_for_its_password(files: Files, tmp_path: Path) -> None:
    key = load_pem_private_key(Path(files.pair).read_bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    (tmp_path / "key").write_bytes(key)
    with pytest.raises(ConfigurationError, match="the key for TLS is encrypted"):
        make_context([files.pair], [str(tmp_path / "key")])


def test_server_does_not_start_without_its_certificate(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    with pytest.raises(AssertionError, match=f"offload: error: cannot read '{missing}' for TLS"):
        Server(MIRROR, "--certfile", missing)
    with pytest.raises(AssertionError, match="offload: error: TLS needs a certificate; give --certfile"):
        Server(MIRROR, "--ca-certs", missing, "--cert-reqs", "2")


def test_key_in_its_own_file_and_ciphers_are_used(files: Files, tmp_path: Path) -> None:
    certificate = files.authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    cipher = "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
    arguments = ["--certfile", str(tmp_path / "cert"), "--keyfile", str(tmp_path / "key"), "--ciphers", cipher]
    context = files.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(MIRROR, *arguments) as server, tls(server, context) as sock:
        chosen = sock.cipher()
        assert chosen is not None
        assert chosen[0] in cipher


# The server's end.


def test_stopping_server_answers_what_is_on_its_way_and_waits_for_nobody_else(files: Files) -> None:
    with serving(MIRROR, "--certfile", files.pair) as server:
        silent = server.connect()
        wire = Wire(server, files.client())
        with silent, wire.sock:
            with pytest.raises(ssl.SSLWantReadError):
                wire.tls.do_handshake()
            wire.send()
            wire.receive()
            server.signal(signal.SIGTERM)
            server.wait_for("stopping: SIGTERM")
            wire.shake_hands()
            wire.tls.write(GET % b"/")
            wire.send()
            assert wire.read_until(b"}").startswith(b"HTTP/1.1 200 ")
            wire.sock.close()
            began = time.monotonic()
            assert server.wait() == 0
            # The silent one has no more time than an idle connection.
            assert time.monotonic() - began < 8

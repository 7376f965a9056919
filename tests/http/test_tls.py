"""TLS in front of a real server: handshakes, data both ways, WebSockets, and ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

from tests.http.tls_client import (
    GET,
    LAST,
    MIRROR,
    Files,
    Wire,
    ask,
    ask_for_key_updates,
    body_of,
    environ_of,
    read_all,
    tls,
)
from tests.serving import DEADLINE, Server, reset, serving
from tests.serving import read_all as read_plain


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
        reset(wire.sock)
    assert environ_of(ask(server, files.client()))["wsgi.url_scheme"] == "https"


def test_client_that_resets_behind_its_handshake_harms_nobody(server: Server, files: Files) -> None:
    for _ in range(20):
        wire = Wire(server, files.client())
        while True:
            try:
                wire.tls.do_handshake()
            except ssl.SSLWantReadError:
                wire.send()
                wire.receive()
            else:
                break
        # Its last word and the reset come together.
        wire.send()
        reset(wire.sock)
    assert environ_of(ask(server, files.client()))["wsgi.url_scheme"] == "https"
    assert "Traceback" not in server.log


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


def test_client_that_asks_for_key_updates_and_reads_nothing_is_cut_off(files: Files) -> None:
    options = ("--keep-alive", "60", "--certfile", files.pair, "--layer", "memory://")
    with serving(MIRROR, *options) as server:
        wire = Wire(server, files.client())
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.shake_hands()
        wire.tls.write(GET % b"/")
        wire.send()
        wire.read_until(b"}")
        with pytest.raises(ConnectionError):
            ask_for_key_updates(wire, 100_000)
        server.wait_for("is cut off: it reads none of the answers that its TLS asks for")
        wire.sock.close()
        assert server.stop() == 0


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


@pytest.mark.parametrize("method", [b"GET", b"OPTIONS", b"CONNECT"])
def test_plain_http_is_refused_in_plain_words(server: Server, files: Files, method: bytes) -> None:
    sentence = "this port speaks TLS, and the request came without; use https"
    before = server.log.count(sentence)
    answer = server.ask(method + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in head
    assert body.decode() == f"400 Bad Request: {sentence}\n"
    server.wait_for(rf"400 from 127.0.0.1:\d+: {sentence}", times=before + 1)
    assert server.log.count(sentence) == before + 1
    assert ask(server, files.client())


def test_client_reads_that_refusal_although_it_goes_on_sending(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        for _ in range(50):
            sock.sendall(b"x" * 10_000)
        sock.shutdown(socket.SHUT_WR)
        assert read_plain(sock).startswith(b"HTTP/1.1 400 ")


def test_plain_http_behind_a_proxy_header_is_refused_in_plain_words(files: Files) -> None:
    with serving(MIRROR, "--certfile", files.pair, "--proxy-protocol", "v1") as server:
        answer = server.ask(b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n" + GET % b"/")
        assert answer.startswith(b"HTTP/1.1 400 ")
        server.wait_for("400 from 203.0.113.9:4711: this port speaks TLS")


def test_tls_to_a_plain_port_is_refused_and_logged_as_what_it_is(files: Files) -> None:
    with serving(MIRROR) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = files.client()
            context.minimum_version = context.maximum_version = version
            with pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number|record layer failure"):
                ask(server, context)
        sentence = "this port speaks plain HTTP, and the client TLS"
        server.wait_for(rf"400 from 127.0.0.1:\d+: {sentence}", times=2)
        answer = server.ask(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n")
        assert answer.endswith(f"\r\n\r\n400 Bad Request: {sentence}\n".encode())
        server.wait_for(sentence, times=3)


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


# Behind a proxy.


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


def test_handshake_that_ends_behind_the_stop_does_not_hold_it_up(files: Files) -> None:
    with serving(MIRROR, "--certfile", files.pair, "--header-timeout", "60", "--graceful-timeout", "60") as server:
        late = server.connect()
        with tls(server, files.client()):
            # Accepted behind the other one.
            server.signal(signal.SIGTERM)
            server.wait_for("stopping: SIGTERM")
            with files.client().wrap_socket(late, server_hostname="localhost"):
                assert server.wait() == 0

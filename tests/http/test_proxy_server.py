"""Proxies in front of a real server: the client that the application, its consumers and the access log see."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.serving import DEADLINE, ROOT, Server, read_all, serving

MIRROR = "tests.http.apps.mirror"
REQUEST = b"GET /a HTTP/1.1\r\nHost: own.example\r\nConnection: close\r\n%b\r\n"
V1 = b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n"
V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n"
    + struct.pack(">BBH", 0x21, 0x11, 12)
    + bytes((203, 0, 113, 9, 198, 51, 100, 1))
    + struct.pack(">HH", 4711, 443)
)


def environ_of(answer: bytes) -> dict[str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer
    environ: dict[str, str] = json.loads(body)
    return environ


def code_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.fixture(scope="module")
def proxied() -> Iterator[Server]:
    with serving(MIRROR, "--layer", "memory://", "--proxy-protocol", "auto", "--header-timeout", "0.5") as server:
        yield server


def test_forwarded_client_reaches_application_consumers_and_access_log(tmp_path: object) -> None:
    log = f"{tmp_path}/access.log"
    fields = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example"}
    lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in fields.items())
    asked_for = ("--forwarded-fields", "for,proto,host")
    with serving(MIRROR, "--layer", "memory://", "--access-logfile", log, *asked_for) as server:
        environ = environ_of(server.ask(REQUEST % lines))
        assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("203.0.113.9", "https")
        assert environ["HTTP_HOST"] == "shop.example"
        # The page's origin is the host that the proxy was asked for.
        with connect(
            server.url("/ws", "ws"), additional_headers=fields, origin="https://shop.example", open_timeout=DEADLINE
        ) as socket:
            told = json.loads(socket.recv(DEADLINE))
        assert told["client"] == ["203.0.113.9", 0]
        assert told["scheme"] == "wss"
        assert server.stop() == 0
    with open(log, encoding="ascii") as file:
        first, second = file.read().splitlines()
    assert first.startswith("203.0.113.9 - - [")
    assert '"GET /a HTTP/1.1" 200 ' in first
    assert second.startswith("203.0.113.9 - - [")
    assert '"GET /ws HTTP/1.1" 101 ' in second


def test_mount_point_is_the_forwarders_alone_for_requests_and_behind_a_proxy_header() -> None:
    lines = b"Script-Name: /a\r\nX-Forwarded-For: 203.0.113.9\r\nRemote-User: root\r\n"
    options = ("--forwarder-headers", "SCRIPT_NAME,REMOTE_USER", "--proxy-protocol", "auto")
    with serving(MIRROR, "--layer", "memory://", *options) as server:
        for before in (b"", b"PROXY TCP4 127.0.0.1 127.0.0.1 4711 80\r\n", V1):
            environ = environ_of(server.ask(before + REQUEST % lines))
            assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/a")
            assert "HTTP_REMOTE_USER" not in environ
        environ = environ_of(server.ask(REQUEST % (lines + b"Script_Name: /a\r\nRemote_User: ann\r\n")))
        assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["HTTP_REMOTE_USER"]) == ("/a", "", "ann")


def test_contradictory_schemes_are_refused_for_requests_and_handshakes() -> None:
    lines = b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n"
    upgrade = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n" + lines + b"\r\n"
    with serving(MIRROR, "--layer", "memory://") as server:
        assert code_of(server.ask(REQUEST % lines)) == 400
        assert code_of(server.ask(upgrade)) == 400


def test_scheme_of_a_target_is_held_to_the_connections_for_requests_and_handshakes() -> None:
    upgrade = (
        b"GET %b://a/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%b\r\n"
    )
    request = b"GET %b://a/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%b\r\n"
    secure = b"X-Forwarded-Proto: https\r\n"
    with serving(MIRROR, "--layer", "memory://") as server:
        for wrong in ((b"https", b""), (b"http", secure)):
            assert code_of(server.ask(request % wrong)) == 421
            assert code_of(server.ask(upgrade % wrong)) == 421
        for right in ((b"http", b""), (b"https", secure)):
            assert code_of(server.ask(request % right)) == 200
            with server.connect() as sock:
                sock.sendall(upgrade % right)
                assert sock.recv(65536).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("allowed", ["10.0.0.0/8,192.0.2.1", ""])
def test_forwarding_fields_of_others_are_not_believed(allowed: str) -> None:
    lines = b"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nRemote_User: root\r\n"
    with serving(MIRROR, "--forwarded-allow-ips", allowed, "--forwarder-headers", "*") as server:
        environ = environ_of(server.ask(REQUEST % lines))
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("127.0.0.1", "http")
    assert "HTTP_REMOTE_USER" not in environ


def test_forwarded_allow_ips_is_read_from_gunicorns_variable() -> None:
    with serving(MIRROR, env={"FORWARDED_ALLOW_IPS": "10.0.0.0/8"}) as server:
        environ = environ_of(server.ask(REQUEST % b"X-Forwarded-For: 203.0.113.9\r\n"))
    assert environ["REMOTE_ADDR"] == "127.0.0.1"


# The PROXY protocol.


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_proxy_header_names_the_client(proxied: Server, header: bytes) -> None:
    environ = environ_of(proxied.ask(header + REQUEST % b""))
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("203.0.113.9", "4711")
    assert (environ["PROXY_PROTOCOL"], environ["PROXY_ADDR"], environ["PROXY_PORT"]) == ("TCP4", "198.51.100.1", "443")


@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_proxy_header_byte_by_byte_names_the_client(proxied: Server, header: bytes) -> None:
    with proxied.connect() as sock:
        for byte in header + REQUEST % b"":
            sock.sendall(bytes((byte,)))
        assert environ_of(read_all(sock))["REMOTE_ADDR"] == "203.0.113.9"


def test_client_of_a_proxy_header_is_not_trusted_as_the_proxy_is(proxied: Server) -> None:
    lines = b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n"
    environ = environ_of(proxied.ask(V1 + REQUEST % lines))
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("203.0.113.9", "http")


def test_proxy_that_speaks_for_itself_keeps_its_address(proxied: Server) -> None:
    local = b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack(">BBH", 0x20, 0, 0)
    for header in (b"PROXY UNKNOWN\r\n", local):
        assert environ_of(proxied.ask(header + REQUEST % b""))["REMOTE_ADDR"] == "127.0.0.1"


def test_request_without_proxy_header_is_served(proxied: Server) -> None:
    environ = environ_of(proxied.ask(REQUEST % b""))
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert "PROXY_PROTOCOL" not in environ


def test_further_requests_of_the_connection_are_the_same_clients(proxied: Server) -> None:
    with proxied.connect() as sock:
        sock.sendall(V1 + b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n" + REQUEST % b"")
        answers = read_all(sock)
    assert answers.count(b'"REMOTE_ADDR": "203.0.113.9"') == 2


def test_malformed_proxy_header_is_refused(proxied: Server) -> None:
    answer = proxied.ask(b"PROXY TCP4 localhost 198.51.100.1 1 2\r\n" + REQUEST % b"")
    assert code_of(answer) == 400
    proxied.wait_for("400 from .*a PROXY header's address is not one of its protocol")


def test_checksum_of_a_proxy_header_is_verified(proxied: Server) -> None:
    right = b"\r\n\r\n\x00\r\nQUIT\n" + bytes.fromhex("21110013 c0000207 c6336401 1267 01bb 030004 6acdf61c")
    assert environ_of(proxied.ask(right + REQUEST % b""))["REMOTE_ADDR"] == "192.0.2.7"
    wrong = right[:-1] + b"\x1d"
    assert code_of(proxied.ask(wrong + REQUEST % b"")) == 400
    proxied.wait_for("400 from .*a PROXY header's checksum is wrong")
    assert proxied.log.count("checksum") == 1


def test_slow_proxy_header_ends_with_the_header_timeout(proxied: Server) -> None:
    with proxied.connect() as sock:
        began = time.monotonic()
        sock.sendall(V1[:20])
        assert read_all(sock) == b""
        assert 0.4 < time.monotonic() - began < DEADLINE


def test_proxy_header_of_a_stranger_is_forbidden() -> None:
    with serving(MIRROR, "--proxy-protocol", "v1", "--proxy-allow-from", "10.0.0.0/8") as server:
        assert code_of(server.ask(V1 + REQUEST % b"")) == 403
        assert code_of(server.ask(REQUEST % b"")) == 200
        # Whatever else it says is not looked at.
        assert code_of(server.ask(b"PROXY TCP4 localhost" + REQUEST % b"")) == 403
        # Version 2 is not looked for, and is no HTTP.
        assert code_of(server.ask(V2 + REQUEST % b"")) == 400


def test_proxy_header_is_no_request_where_it_is_not_expected() -> None:
    with serving(MIRROR) as server:
        assert code_of(server.ask(V1 + REQUEST % b"")) == 400


def test_proxy_headers_client_reaches_consumers(proxied: Server) -> None:
    upgrade = (
        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with proxied.connect() as sock:
        sock.sendall(V2 + upgrade)
        received = b""
        while b"}" not in received:
            received += sock.recv(65536)
    assert b'"client": ["203.0.113.9", 4711]' in received


# The command line.


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--forwarded-allow-ips", "192.168.1.1/24"], "--forwarded-allow-ips has '192.168.1.1/24'"),
        (["--proxy-allow-from", "proxy.example"], "--proxy-allow-from has 'proxy.example'"),
        (["--proxy-protocol", "v3"], "--proxy-protocol is 'v3'; choose one of off, v1, v2, auto"),
        (["--cert-reqs", "3"], "--cert-reqs is 3, but it must be from 0 to 2"),
    ],
)
def test_wrong_value_is_one_line_and_nothing_starts(arguments: list[str], text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "offload", MIRROR, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_proxy_protocol_alone_means_either_version() -> None:
    with serving(MIRROR, "--proxy-protocol") as server:
        assert environ_of(server.ask(V2 + REQUEST % b""))["REMOTE_ADDR"] == "203.0.113.9"

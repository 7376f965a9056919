"""``--strict-sni`` over real TLS: which hosts a connection's certificate is good for."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload.exceptions import ConfigurationError
from offload.protocol.http.misdirected import HostCheck
from offload.protocol.http.request import HttpError, Request
from offload.settings import TlsOptions
from offload.transport.tls import make_context
from tests.http.tls_client import MIRROR, Files
from tests.serving import Server, read_all, serving

STRANGER = ("--forwarded-allow-ips", "192.0.2.1")
"""This machine is a trusted proxy otherwise, and those may bring requests for any host."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


def _several(files: Files) -> list[str]:
    certificates = [
        files.pair,
        files.issue("shop.example", "www.shop.example", file="shop"),
        files.issue("*.blog.example", file="blog"),
    ]
    return [part for file in certificates for part in ("--certfile", file)]


@contextlib.contextmanager
def _connected(server: Server, files: Files, name: str | None) -> Iterator[ssl.SSLSocket]:
    context = files.client()
    # Not the client's own check of the certificate, but the server's is looked at.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(server.connect(), server_hostname=name) as sock:
        yield sock


def _ask(server: Server, files: Files, name: str | None, host: str, target: str = "/", fields: str = "") -> bytes:
    with _connected(server, files, name) as sock:
        request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}"
        sock.sendall(request.encode("latin-1") + (b"" if fields else b"Connection: close\r\n") + b"\r\n")
        return read_all(sock)


def _status(server: Server, files: Files, name: str | None, host: str, target: str = "/", fields: str = "") -> int:
    return int(_ask(server, files, name, host, target, fields).split(b" ", 2)[1])


@pytest.fixture(scope="module")
def several(files: Files) -> Iterator[Server]:
    with serving(MIRROR, "--layer", "memory://", *_several(files), *STRANGER) as server:
        yield server


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("shop.example", "shop.example"),
        ("shop.example", "shop.example:8443"),
        ("shop.example", "SHOP.example."),
        ("SHOP.example", "www.shop.example"),
        ("ann.blog.example", "ann.blog.example"),
        ("ann.blog.example", "ben.blog.example"),
        ("localhost", "127.0.0.1:8000"),
        # No certificate of ours, but what the client asked for.
        ("other.example", "other.example"),
        # Without a name in the handshake: old clients, health checks, proxies that encrypt anew.
        (None, "shop.example"),
        (None, "other.example"),
        (None, "127.0.0.1"),
        # A request that names no host.
        ("shop.example", ""),
    ],
)
def test_request_for_a_host_of_its_certificate_is_served(
    several: Server, files: Files, name: str | None, host: str
) -> None:
    assert _status(several, files, name, host) == 200


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("shop.example", "localhost"),
        ("shop.example", "ann.blog.example"),
        ("localhost", "shop.example:443"),
        ("ann.blog.example", "blog.example"),
        ("ann.blog.example", "a.ben.blog.example"),
        ("other.example", "shop.example"),
        ("shop.example", "hidden.example"),
        ("shop.example", "[::1]:443"),
        ("shop.example", "shop.example.evil"),
    ],
)
def test_request_for_another_host_is_misdirected(several: Server, files: Files, name: str, host: str) -> None:
    head, _, body = _ask(several, files, name, host).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
    assert b"\r\nConnection: close\r\n" in head
    host = host.strip("[]").removesuffix(":443").removesuffix("]")
    assert body.decode() == f"421 Misdirected Request: the certificate of this connection is not for {host}\n"


def test_absolute_target_counts_instead_of_the_host_field(several: Server, files: Files) -> None:
    assert _status(several, files, "shop.example", "shop.example", "https://localhost/") == 421
    assert _status(several, files, "shop.example", "localhost", "https://shop.example/") == 200


def test_forwarded_host_of_a_stranger_changes_nothing(several: Server, files: Files) -> None:
    fields = "X-Forwarded-Host: shop.example\r\nConnection: close\r\n"
    assert _status(several, files, "shop.example", "localhost", fields=fields) == 421


def test_handshake_of_a_websocket_is_held_to_the_certificate_too(several: Server, files: Files) -> None:
    fields = (
        "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    assert _status(several, files, "shop.example", "localhost", "/ws", fields) == 421
    with _connected(several, files, "shop.example") as sock:
        sock.sendall(f"GET /ws HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n".encode())
        assert sock.recv(65536).startswith(b"HTTP/1.1 101 ")


def test_later_request_is_refused_after_the_answers_before_it(several: Server, files: Files) -> None:
    with _connected(several, files, "shop.example") as sock:
        for host in ("shop.example", "shop.example", "localhost", "shop.example"):
            sock.sendall(f"GET /size/0 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answers = read_all(sock)
    assert [answer[:3] for answer in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"421"]
    several.wait_for(r"421 from 127.0.0.1:\d+: the certificate of this connection is not for localhost")


def test_trusted_proxy_brings_requests_for_any_host(files: Files) -> None:
    with serving(MIRROR, *_several(files), "--strict-sni") as server:
        assert _status(server, files, "localhost", "shop.example") == 200


def test_client_behind_a_proxy_header_is_no_trusted_proxy(files: Files) -> None:
    with serving(MIRROR, *_several(files), "--proxy-protocol", "v1") as server, server.connect() as plain:
        plain.sendall(b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n")
        with files.client().wrap_socket(plain, server_hostname="shop.example") as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_all(sock).startswith(b"HTTP/1.1 421 ")


def test_one_certificate_serves_all_hosts_unless_told_otherwise(files: Files) -> None:
    with serving(MIRROR, "--certfile", files.pair, *STRANGER) as server:
        assert _status(server, files, "localhost", "shop.example") == 200
        assert _status(server, files, None, "shop.example") == 200


def test_strict_server_holds_every_request_to_the_certificate(files: Files) -> None:
    with serving(MIRROR, "--certfile", files.pair, *STRANGER, "--strict-sni") as server:
        assert _status(server, files, "localhost", "localhost") == 200
        assert _status(server, files, None, "127.0.0.1") == 200
        assert _status(server, files, None, "shop.example") == 421
        assert _status(server, files, "shop.example", "shop.example") == 421


def test_check_can_be_turned_off(files: Files) -> None:
    with serving(MIRROR, *_several(files), *STRANGER, "--strict-sni", "off") as server:
        assert _status(server, files, "localhost", "shop.example") == 200


def test_default_is_that_of_the_documentation() -> None:
    assert TlsOptions().strict_sni == "auto"


def test_certificate_without_hosts_is_of_no_use_to_a_strict_server(files: Files, tmp_path: Path) -> None:
    path = str(tmp_path / "nameless.pem")
    files.authority.issue_cert("ann@example.org").private_key_and_cert_chain_pem.write_to_path(path)
    make_context(TlsOptions((path,)))
    with pytest.raises(ConfigurationError) as caught:
        make_context(TlsOptions((path,), strict_sni="on"))
    assert str(caught.value) == f"the certificate {path!r} names no host (subjectAltName)"
    make_context(TlsOptions((files.pair, path)))
    with pytest.raises(ConfigurationError) as caught:
        make_context(TlsOptions((files.pair, path), strict_sni="on"))
    assert str(caught.value) == f"the certificate {path!r} names no host (subjectAltName)"


def test_addresses_of_ipv6_are_hosts_of_a_certificate() -> None:
    check = HostCheck({"2001:db8::1"}, None)
    request = Request("GET", b"/", b"/", b"", "1.1")
    for host in (b"[2001:db8::1]", b"[2001:DB8::1]:443", b"[2001:db8:0::1]"):
        request.host = host
        check(request)
    request.host = b"[2001:db8::2]"
    with pytest.raises(HttpError, match="is not for 2001:db8::2") as caught:
        check(request)
    assert caught.value.status == 421

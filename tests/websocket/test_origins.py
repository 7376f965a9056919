"""Which Origins may open WebSockets."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from offload.exceptions import ConfigurationError
from offload.origins import Origins
from offload.settings import OPTIONS
from tests.http.tls_client import Files, tls
from tests.serving import serving
from tests.websocket.raw import ROUTED, RawClient, ask, refusal
from tests.websocket.sockets import upgrade


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://example.com", "example.com"),
        ("https://example.com", "example.com"),
        ("http://EXAMPLE.com", "Example.COM"),
        ("http://example.com:80", "example.com"),
        ("https://example.com", "example.com:443"),
        ("http://example.com:8000", "example.com:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://[::1]", "[::1]"),
        # What clients send that are no browsers.
        ("ws://example.com", "example.com"),
        ("ws://example.com:8000/", "example.com:8000"),
        ("wss://example.com", "example.com"),
        ("wss://example.com", "example.com:443"),
        ("https://example.com/", "example.com"),
    ],
)
def test_same_host_is_allowed_by_default(origin: str, host: str) -> None:
    assert Origins(())(origin, host, secure=False)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.com", "example.com"),
        ("http://example.com:8001", "example.com:8000"),
        ("http://sub.example.com", "example.com"),
        ("http://example.com.evil.com", "example.com"),
        ("http://example.com@evil.com", "example.com"),
        ("null", "null"),
        ("null", ""),
        ("", ""),
        ("file://", ""),
        ("http://[::1", "[::1"),
        ("http://example.com:99999", "example.com:99999"),
        ("example.com", "example.com"),
        ("http://example.com//", "example.com"),
        ("file:///", ""),
        ("wss://evil.com", "example.com"),
        ("http://example.com/path", "example.com"),
        ("http://user@example.com", "user@example.com"),
        ("http://", "example.com"),
        ("app://example.com", "example.com"),
        ("http://example.com", "http://example.com"),
        ("http://example.com", ""),
        ("http://example.com", "example.com:0x50"),
    ],
)
def test_others_are_refused_by_default(origin: str, host: str) -> None:
    assert not Origins(())(origin, host, secure=False)
    assert not Origins(())(origin, host, secure=True)


@pytest.mark.parametrize(
    ("origin", "host", "plain", "secure"),
    [
        ("https://example.com", "example.com", True, True),
        ("https://example.com", "example.com:443", True, True),
        ("https://example.com:8443", "example.com:8443", True, True),
        # Where TLS protects a host, its pages of plain HTTP are others' to write.
        ("http://example.com", "example.com", True, False),
        ("http://example.com", "example.com:80", True, False),
        ("http://example.com:443", "example.com", False, False),
        ("http://example.com", "example.com:443", False, False),
        ("https://example.com:80", "example.com", False, False),
        ("https://example.com", "example.com:80", False, False),
    ],
)
def test_ports_left_out_are_those_of_the_scheme(origin: str, host: str, plain: bool, secure: bool) -> None:
    origins = Origins(())
    assert (origins(origin, host, secure=False), origins(origin, host, secure=True)) == (plain, secure)


@pytest.mark.parametrize(
    ("entry", "origin", "allowed"),
    [
        ("*", "http://anything", True),
        ("example.com", "https://example.com", True),
        ("example.com", "https://example.com:8443", True),
        ("example.com", "https://sub.example.com", False),
        (".example.com", "https://sub.example.com", True),
        (".example.com", "https://example.com", True),
        (".example.com", "https://badexample.com", False),
        ("example.com:8443", "https://example.com:8443", True),
        ("example.com:443", "https://example.com", True),
        ("example.com:443", "http://example.com", False),
        ("https://example.com", "https://example.com", True),
        ("https://example.com", "http://example.com", False),
        ("[::1]", "http://[::1]:8000", True),
        ("EXAMPLE.com", "http://example.com", True),
        ("https://EXAMPLE.com:443", "https://example.com", True),
        ("https://example.com", "https://example.com:8443", False),
        ("https://example.com:8443", "https://example.com:8443", True),
        ("https://.example.com", "https://sub.example.com", True),
        ("https://.example.com", "http://sub.example.com", False),
        (".example.com:8443", "https://sub.example.com:8443", True),
        (".example.com:8443", "https://sub.example.com", False),
        ("[0:0:0:0:0:0:0:1]:8000", "http://[::1]:8000", True),
        ("app://localhost", "app://localhost", True),
        ("app://localhost", "http://localhost", False),
        ("*", "null", True),
        ("example.com", "null", False),
        ("example.com", "https://example.com/path", False),
        ("https://example.com", "wss://example.com", True),
        ("https://example.com", "ws://example.com", False),
        ("https://example.com", "https://example.com/", True),
        ("example.com:8000", "ws://example.com:8000", True),
        ("null", "null", True),
        ("null", "http://null", False),
        ("null", "file://", False),
        ("file://", "file://", True),
        ("FILE://", "file://", True),
        ("file://", "null", False),
        ("file://", "http://file", False),
        ("capacitor://localhost", "capacitor://localhost", True),
    ],
)
def test_entry_allows_what_it_names(entry: str, origin: str, allowed: bool) -> None:
    assert Origins([entry])(origin, "other.host", secure=True) is allowed


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("https://example.com/", "an Origin has no path; write 'https://example.com'"),
        ("example.com/chat", "an Origin has no path; write 'example.com'"),
        ("https://", "it names no host; write for instance 'https://example.com'"),
        ("https:", "it names no host; write for instance 'https://example.com'"),
        (":8000", "it names no host; write for instance 'https://example.com'"),
        ("https:///chat", "it names no host; write for instance 'https://example.com'"),
        ("a.example b.example", "there is a space in it; entries are separated by commas"),
        ("example.com:99999", "the port 99999 is not from 1 to 65535"),
        ("example.com:0", "the port 0 is not from 1 to 65535"),
        ("example.com:", "it is not HOST, HOST:PORT or SCHEME://HOST[:PORT]"),
        ("example.com:http", "it is not HOST, HOST:PORT or SCHEME://HOST[:PORT]"),
        ("wss://example.com", "an Origin has the scheme of the page; write 'https://example.com'"),
        ("ws://example.com", "an Origin has the scheme of the page; write 'http://example.com'"),
        ("*.example.com", "a host and all below it are written '.example.com'"),
        ("https://*.example.com", "a host and all below it are written 'https://.example.com'"),
        ("::1", "an IPv6 address stands in brackets: '[::1]'"),
        ("[::1", "it is not HOST, HOST:PORT or SCHEME://HOST[:PORT]"),
        ("[nowhere]", "At least 3 parts expected in 'nowhere'"),
        ("127.1", "Expected 4 octets in '127.1'"),
        ("a..b", "'a..b' is not a host name"),
        (".", "'' is not a host name"),
        ("user@example.com", "'user@example.com' is not a host name"),
        ("m\u00fcller.example", "browsers write this host 'xn--mller-kva.example'"),
    ],
)
def test_entry_that_no_page_could_match_is_told(entry: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        OPTIONS["ws_origins"].read(entry, "--ws-origins")
    assert str(caught.value) == f"--ws-origins has {entry!r}: {problem}"


def test_failing_policy_refuses_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(origin: str, host: str) -> bool:
        raise ValueError(origin)

    with caplog.at_level(logging.ERROR, "offload.websocket"):
        logging.getLogger("offload").propagate = True
        assert not Origins((), fail)("http://a", "a", secure=False)
    assert "check of Origins failed" in caplog.text


def test_wrong_origin_is_403_logged_and_counted_and_none_is_allowed() -> None:
    with serving(ROUTED, "--layer", "memory://") as server:
        status, _ = refusal(server, upgrade("/echo", "Origin: http://evil.example"))
        assert status == 403
        server.wait_for(
            r"refused a WebSocket at '/echo' from origin 'http://evil.example': "
            r"it is not among the allowed ones for host 'example.com'"
        )
        assert ask(server)["wrong_origins"] == 1
        for fields in ([], ["Origin: http://example.com"]):
            client = RawClient(server, "/echo", *fields)
            assert client.head.startswith(b"HTTP/1.1 101 ")
            client.close()


@pytest.mark.parametrize("app", [ROUTED, "tests.websocket.apps.raw"])
def test_scheme_is_the_one_that_a_trusted_proxy_tells(app: str) -> None:
    with serving(app, "--layer", "memory://") as server:
        for forwarded, origin, status in (
            ("https", "https://example.com", 101),
            ("https", "http://example.com", 403),
            ("http", "http://example.com", 101),
            # A proxy that ended TLS, and does not say so.
            (None, "https://example.com", 101),
            (None, "https://example.com:8443", 403),
        ):
            fields = [f"Origin: {origin}", *([f"X-Forwarded-Proto: {forwarded}"] if forwarded else [])]
            with server.connect() as sock:
                sock.sendall(upgrade("/echo", *fields))
                assert sock.recv(65536).startswith(b"HTTP/1.1 %d " % status), (forwarded, origin)


def test_page_of_plain_http_opens_nothing_where_tls_is_served(tmp_path: Path) -> None:
    files = Files(tmp_path)
    with serving(ROUTED, "--layer", "memory://", "--certfile", files.pair) as server:
        for origin, status in (("https://example.com", 101), ("http://example.com", 403)):
            with tls(server, files.client()) as sock:
                sock.sendall(upgrade("/echo", f"Origin: {origin}"))
                assert sock.recv(65536).startswith(b"HTTP/1.1 %d " % status)

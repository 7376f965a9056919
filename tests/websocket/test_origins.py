"""Which Origins may open WebSockets."""

from __future__ import annotations

import logging

import pytest

from offload.gateway.origins import Origins
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
    ],
)
def test_same_host_is_allowed_by_default(origin: str, host: str) -> None:
    assert Origins(())(origin, host)


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
    ],
)
def test_others_are_refused_by_default(origin: str, host: str) -> None:
    assert not Origins(())(origin, host)


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
    ],
)
def test_entry_allows_what_it_names(entry: str, origin: str, allowed: bool) -> None:
    assert Origins([entry])(origin, "other.host") is allowed


def test_failing_policy_refuses_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(origin: str, host: str) -> bool:
        raise ValueError(origin)

    with caplog.at_level(logging.ERROR, "offload.websocket"):
        logging.getLogger("offload").propagate = True
        assert not Origins((), fail)("http://a", "a")
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

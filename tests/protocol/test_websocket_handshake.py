"""The opening handshake, by RFC 6455, section 4."""

from __future__ import annotations

import pytest

from offload.protocol.http.request import HttpError, Request, parse_request
from offload.protocol.websocket.handshake import read_handshake, wants_websocket
from offload.settings import HttpOptions

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def request(*fields: str, line: str = "GET /chat HTTP/1.1", **replace: str | None) -> Request:
    known: dict[str, str | None] = {
        "Host": "example.com",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        **{name.replace("_", "-"): value for name, value in replace.items()},
    }
    lines = [f"{name}: {value}" for name, value in known.items() if value is not None]
    return parse_request("\r\n".join([line, *lines, *fields, "", ""]).encode("latin-1"), HttpOptions())


def refused(made: Request) -> int:
    with pytest.raises(HttpError) as caught:
        read_handshake(made)
    return caught.value.status


def test_example_of_the_standard_is_answered() -> None:
    handshake = read_handshake(
        request("Origin: http://example.com", "Sec-WebSocket-Protocol: chat, superchat", Host="server.example.com")
    )
    assert handshake.origin == "http://example.com"
    assert handshake.subprotocols == ["chat", "superchat"]
    assert handshake.answer("chat") == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )


@pytest.mark.parametrize("value", ["websocket", "WebSocket", "WEBSOCKET", "h2c, websocket"])
def test_upgrade_is_read_whatever_its_case(value: str) -> None:
    assert wants_websocket(request(Upgrade=value))


@pytest.mark.parametrize("value", ["keep-alive, Upgrade", "upgrade", "Upgrade , close"])
def test_connection_may_name_more(value: str) -> None:
    assert wants_websocket(request(Connection=value))


@pytest.mark.parametrize("more", [{"Upgrade": "h2c"}, {"Upgrade": None}, {"Connection": "keep-alive"}])
def test_other_requests_are_not_websockets(more: dict[str, str | None]) -> None:
    assert not wants_websocket(request(**more))


@pytest.mark.parametrize("version", ["12", "8", "0", "14", "013", "", "13, 8", None])
def test_other_versions_get_426(version: str | None) -> None:
    assert refused(request(Sec_WebSocket_Version=version)) == 426


def test_version_that_is_given_twice_is_refused() -> None:
    assert refused(request("Sec-WebSocket-Version: 8")) == 400


@pytest.mark.parametrize(
    "key",
    [None, "", "x", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25j", KEY + KEY, "!!!!", "dGhl IHNhbXBsZSBub25jZQ=="],
)
def test_key_that_is_not_16_bytes_is_refused(key: str | None) -> None:
    assert refused(request(Sec_WebSocket_Key=key)) == 400


def test_key_that_is_given_twice_is_refused() -> None:
    assert refused(request(f"Sec-WebSocket-Key: {KEY}")) == 400


def test_origin_that_is_given_twice_is_refused() -> None:
    assert refused(request("Origin: http://a", "Origin: http://b")) == 400


@pytest.mark.parametrize("line", ["POST / HTTP/1.1", "HEAD / HTTP/1.1", "GET / HTTP/1.0"])
def test_other_methods_and_versions_of_http_are_refused(line: str) -> None:
    assert refused(request(line=line)) == 400


def test_body_is_refused() -> None:
    assert refused(request("Content-Length: 5")) == 400


@pytest.mark.parametrize("value", ["chat,(", "a b", "a/b", "été"])
def test_subprotocols_that_are_no_tokens_are_refused(value: str) -> None:
    assert refused(request(f"Sec-WebSocket-Protocol: {value}")) == 400


def test_subprotocols_of_several_fields_keep_their_order() -> None:
    made = read_handshake(request("Sec-WebSocket-Protocol: b,,a", "Sec-WebSocket-Protocol: c , "))
    assert made.subprotocols == ["b", "a", "c"]


@pytest.mark.parametrize("wrong", ["Chat", "cha", "chat2", ""])
def test_subprotocol_is_chosen_by_its_exact_token(wrong: str) -> None:
    handshake = read_handshake(request("Sec-WebSocket-Protocol: chat"))
    with pytest.raises(ValueError, match="was not offered"):
        handshake.answer(wrong)


def test_offer_to_compress_is_agreed_to_where_wanted() -> None:
    made = request("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
    assert read_handshake(made).extension is None
    assert (
        b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
    ) in read_handshake(made, compresses=True).answer()


def test_extensions_that_break_the_grammar_are_refused() -> None:
    assert refused(request("Sec-WebSocket-Extensions: a b")) == 400

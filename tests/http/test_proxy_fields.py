"""What trusted and other peers can say of a client by X-Forwarded-*, Forwarded, and names with underscores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.http.environ import EnvironBuilder, environ_base
from offload.protocol.http.forwarded import Forwarders, TrustedPeers, read_forwarded
from offload.protocol.http.request import HttpError, parse_request
from offload.settings import HttpOptions, ProxyOptions
from offload.settings.groups import STATEMENTS

LOCAL = ("127.0.0.1", "::1")
PROXY = "10.0.0.1"


def build(
    *lines: str,
    peer: object = (PROXY, 999),
    allowed: Sequence[str] = (PROXY,),
    names: Sequence[str] = ("SCRIPT_NAME", "PATH_INFO"),
    statements: Sequence[str] = STATEMENTS,
    path: str = "/shop/cart",
    host: str = "own.example",
    server: tuple[str, str] = ("own.example", "8000"),
    secure: dict[str, str] | None = None,
) -> dict[str, Any]:
    head = "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("latin-1")
    builder = EnvironBuilder(Forwarders(TrustedPeers(allowed), statements, names, secure))
    return builder.build(environ_base(server, False), parse_request(head, HttpOptions()), peer, None)


def client(*lines: str, **more: Any) -> tuple[str, str]:
    environ = build(*lines, **more)
    return environ["REMOTE_ADDR"], environ["REMOTE_PORT"]


def status(*lines: str, **more: Any) -> int:
    with pytest.raises(HttpError) as caught:
        build(*lines, **more)
    return caught.value.status


def seen(*lines: str, peer: object = (PROXY, 999), names: Sequence[str] = ("REMOTE_USER",)) -> list[list[bytes]]:
    """The header fields that consumers see."""
    head = "\r\n".join(["GET /ws HTTP/1.1", "Host: own.example", *lines, "", ""]).encode("latin-1")
    builder = EnvironBuilder(Forwarders(TrustedPeers((PROXY,)), STATEMENTS, names))
    request = parse_request(head, HttpOptions())
    environ = builder.build(environ_base(("own.example", "8000"), False), request, peer, None)
    return builder.fields(request, environ, peer)


def test_consumers_see_the_fields_that_applications_see() -> None:
    lines = ("Remote-User: eve", "REMOTE_USER: ada", "X-Forwarded-Host: shop.example", "Cookie: a=b", "Cookie: c=d")
    assert seen(*lines) == [
        [b"host", b"shop.example"],
        [b"remote_user", b"ada"],
        [b"x-forwarded-host", b"shop.example"],
        [b"cookie", b"a=b"],
        [b"cookie", b"c=d"],
    ]
    assert [name for name, _ in seen(*lines, peer=("192.0.2.1", 999))] == [
        b"host", b"x-forwarded-host", b"cookie", b"cookie"
    ]  # fmt: skip


# The client's address.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("203.0.113.9", ("203.0.113.9", "0")),
        ("203.0.113.9:4711", ("203.0.113.9", "4711")),
        ("2001:db8::9", ("2001:db8::9", "0")),
        ("[2001:DB8::9]:4711", ("2001:db8::9", "4711")),
        ("[2001:db8::9]", ("2001:db8::9", "0")),
        ("6.6.6.6, 203.0.113.9", ("203.0.113.9", "0")),
        ("6.6.6.6, 203.0.113.9, 10.0.0.2, 10.0.0.3", ("203.0.113.9", "0")),
        ("10.0.0.3, 10.0.0.2", ("10.0.0.3", "0")),
        (" , 203.0.113.9 ,", ("203.0.113.9", "0")),
        ("nonsense, 203.0.113.9, 10.0.0.2", ("203.0.113.9", "0")),
        ("203.0.113.9, nonsense, 10.0.0.2", ("10.0.0.2", "0")),
        ("nonsense", (PROXY, "999")),
        ("unknown", (PROXY, "999")),
        ("203.0.113.9:", (PROXY, "999")),
        ("203.0.113.999", (PROXY, "999")),
        ("", (PROXY, "999")),
    ],
)
def test_x_forwarded_for_is_read_from_its_end_up_to_the_first_untrusted(value: str, expected: tuple[str, str]) -> None:
    assert client(f"X-Forwarded-For: {value}", allowed=("10.0.0.0/8",)) == expected


def test_x_forwarded_for_in_several_lines_is_one_list() -> None:
    lines = ("X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 203.0.113.9, 10.0.0.1")
    assert client(*lines) == ("203.0.113.9", "0")


def test_x_forwarded_for_of_an_untrusted_peer_is_passed_on_and_not_believed() -> None:
    environ = build("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", allowed=LOCAL)
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == (PROXY, "999")
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["HTTP_HOST"] == "own.example"
    assert environ["HTTP_X_FORWARDED_FOR"] == "203.0.113.9"
    assert environ["HTTP_X_FORWARDED_HOST"] == "evil"


def test_star_trusts_whoever_connects_and_the_hops_inside_but_no_address_of_the_world() -> None:
    more: dict[str, Any] = {"peer": ("198.51.100.1", 1), "allowed": ("*",)}
    assert client("X-Forwarded-For: 203.0.113.9", **more) == ("203.0.113.9", "0")
    assert client("X-Forwarded-For: 203.0.113.9, 10.1.2.3, 192.168.0.1", **more) == ("203.0.113.9", "0")
    assert client("X-Forwarded-For: 6.6.6.6, 203.0.113.9", **more) == ("203.0.113.9", "0")


@pytest.mark.parametrize(
    ("allowed", "peer", "trusted"),
    [
        (("10.0.0.0/8",), "10.255.0.1", True),
        (("10.0.0.0/8",), "11.0.0.1", False),
        (("2001:db8::/32",), "2001:db8:1::1", True),
        (("2001:db8::/32",), "2001:db9::1", False),
        (LOCAL, "::1", True),
        (LOCAL, "::ffff:127.0.0.1", True),
        (("fe80::/10",), "fe80::1%eth0", True),
        ((), "127.0.0.1", False),
        (("*",), "8.8.8.8", True),
    ],
)
def test_peers_are_trusted_by_address_and_network(allowed: Sequence[str], peer: str, trusted: bool) -> None:
    assert TrustedPeers(allowed)(peer) is trusted


def test_unix_sockets_are_trusted_and_named_after_the_host() -> None:
    environ = build("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", peer="", server=("localhost", ""))
    assert environ["REMOTE_ADDR"] == "203.0.113.9"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("own.example", "443")
    environ = build(peer="", server=("localhost", ""), host="[2001:db8::1]:81")
    assert (environ["REMOTE_ADDR"], environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("", "[2001:db8::1]", "81")
    environ = build(peer="", server=("localhost", ""), host="[2001:db8::1]")
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("[2001:db8::1]", "80")


# The scheme.


@pytest.mark.parametrize(
    ("line", "scheme"),
    [
        ("X-Forwarded-Proto: https", "https"),
        ("X-Forwarded-Proto: HTTPS", "https"),
        ("X-Forwarded-Proto: wss", "https"),
        ("X-Forwarded-Proto: http", "http"),
        ("X-Forwarded-Proto: ws", "http"),
        ("X-Forwarded-Proto: gopher", "http"),
        ("X-Forwarded-Protocol: ssl", "https"),
        ("X-Forwarded-Protocol: http", "http"),
        ("X-Forwarded-Ssl: on", "https"),
        ("X-Forwarded-Ssl: off", "http"),
        ("Forwarded: for=203.0.113.9;proto=https", "https"),
        ("X-Forwarded-Proto: https, https", "https"),
    ],
)
def test_scheme_is_the_trusted_proxys(line: str, scheme: str) -> None:
    assert build(line)["wsgi.url_scheme"] == scheme


@pytest.mark.parametrize(
    "lines",
    [
        ("X-Forwarded-Proto: https", "X-Forwarded-Ssl: off"),
        ("X-Forwarded-Proto: http", "X-Forwarded-Protocol: ssl"),
        ("X-Forwarded-Proto: https", "X-Forwarded-Proto: http"),
        ("X-Forwarded-Proto: https, http",),
        ("X-Forwarded-Proto: https", "Forwarded: proto=http"),
    ],
)
def test_contradictory_schemes_are_refused_from_a_trusted_peer_alone(lines: tuple[str, ...]) -> None:
    assert status(*lines) == 400
    assert build(*lines, allowed=LOCAL)["wsgi.url_scheme"] == "http"


# The host.


def test_forwarded_host_takes_the_hosts_place() -> None:
    assert build("X-Forwarded-Host: shop.example:8443")["HTTP_HOST"] == "shop.example:8443"
    assert build("X-Forwarded-Host: evil.example, shop.example")["HTTP_HOST"] == "shop.example"
    assert build('Forwarded: for=203.0.113.9;host="shop.example:8443"')["HTTP_HOST"] == "shop.example:8443"


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", "a:b", "[::1", "a:1:2", "ä"])
def test_forwarded_host_that_is_none_is_refused(host: str) -> None:
    assert status(f"X-Forwarded-Host: {host}") == 400


# Which statements are used.

CLIENTS_OWN = {
    "for": ("X-Forwarded-For: 6.6.6.6",),
    "proto": ("X-Forwarded-Proto: https", "X-Forwarded-Protocol: ssl", "X-Forwarded-Ssl: on"),
    "host": ("X-Forwarded-Host: evil.example",),
    "forwarded": ("Forwarded: for=6.6.6.6;proto=https;host=evil.example",),
}


def told(environ: dict[str, Any]) -> tuple[str, str, str]:
    return environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTP_HOST"]


NOTHING = (PROXY, "http", "own.example")


def test_a_proxys_host_and_forwarded_are_used_only_where_they_are_asked_for() -> None:
    assert ProxyOptions().forwarded_fields == ("for", "proto")
    lines = [line for lines in CLIENTS_OWN.values() for line in lines]
    assert told(build(*lines, statements=ProxyOptions().forwarded_fields)) == ("6.6.6.6", "https", "own.example")
    assert told(build(*lines, statements=())) == NOTHING


@pytest.mark.parametrize("unread", STATEMENTS)
def test_a_statement_that_is_not_asked_for_changes_nothing_and_is_passed_on(unread: str) -> None:
    others = [name for name in STATEMENTS if name != unread]
    environ = build(*CLIENTS_OWN[unread], statements=others)
    assert told(environ) == NOTHING
    for line in CLIENTS_OWN[unread]:
        name, _, value = line.partition(": ")
        assert environ["HTTP_" + name.upper().replace("-", "_")] == value


@pytest.mark.parametrize(
    "lines",
    [
        ("X-Forwarded-Proto: https", "X-Forwarded-Ssl: off"),
        ("Forwarded: for=a b",),
        ("Forwarded: proto=https", "X-Forwarded-Proto: http"),
        ("X-Forwarded-Host: no host",),
        ("X-Forwarded-For: nonsense",),
    ],
)
def test_no_untrusted_or_unread_field_costs_an_answer(lines: tuple[str, ...]) -> None:
    assert told(build(*lines, allowed=LOCAL)) == NOTHING
    assert told(build(*lines, statements=())) == NOTHING


# Forwarded (RFC 7239).


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=192.0.2.60;proto=http;by=203.0.113.43", [{"for": "192.0.2.60", "proto": "http", "by": "203.0.113.43"}]),
        ("for=192.0.2.43, for=198.51.100.17", [{"for": "192.0.2.43"}, {"for": "198.51.100.17"}]),
        ('For="[2001:db8:cafe::17]:4711"', [{"for": "[2001:db8:cafe::17]:4711"}]),
        ('for="_a\\"b,c;d"', [{"for": '_a"b,c;d'}]),
        ("for=_hidden ; proto=https", [{"for": "_hidden", "proto": "https"}]),
        (", for=a,, for=b;", [{"for": "a"}, {"for": "b"}]),
        ("", []),
    ],
)
def test_forwarded_is_read(value: str, expected: list[dict[str, str]]) -> None:
    assert read_forwarded(value) == expected


@pytest.mark.parametrize("value", ["for", "=a", "for=a b", 'for="a', "for=a for=b", "for=a;for=b", 'for=a"b"', "a@=b"])
def test_malformed_forwarded_is_refused(value: str) -> None:
    with pytest.raises(HttpError, match="the Forwarded field is malformed"):
        read_forwarded(value)


@given(st.text(alphabet='for=;,"\\ \t[]:.1a', max_size=200))
def test_any_forwarded_is_read_or_refused(value: str) -> None:
    try:
        elements = read_forwarded(value)
    except HttpError:
        return
    assert all(elements)


def test_forwarded_is_read_from_its_end_and_its_words_belong_together() -> None:
    value = (
        'for=6.6.6.6;host=evil, for="203.0.113.9:4711";proto=https;host=shop.example, for=10.0.0.1;proto=http;host=lb'
    )
    environ = build(f"Forwarded: {value}")
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("203.0.113.9", "4711")
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTP_HOST"] == "shop.example"


def test_forwarded_stops_at_a_hidden_address() -> None:
    assert client("Forwarded: for=203.0.113.9, for=unknown, for=10.0.0.1") == ("10.0.0.1", "0")
    assert client("Forwarded: for=_hidden") == (PROXY, "999")


def test_x_forwarded_for_stands_above_a_forwarded_that_the_client_may_have_made_up() -> None:
    assert client("Forwarded: for=6.6.6.6", "X-Forwarded-For: 203.0.113.9") == ("203.0.113.9", "0")


# Names with underscores.


def test_names_with_underscores_are_dropped() -> None:
    environ = build("X_Forwarded_For: 6.6.6.6", "X-Real-Ip: 1.1.1.1", "X_Real_Ip: 6.6.6.6", "Remote_User: root")
    assert environ["REMOTE_ADDR"] == PROXY
    assert environ["HTTP_X_REAL_IP"] == "1.1.1.1"
    assert not {"HTTP_X_FORWARDED_FOR", "HTTP_REMOTE_USER"} & environ.keys()


def test_names_with_underscores_pass_from_a_trusted_forwarder_where_they_are_expected() -> None:
    assert build("Remote_User: ann", names=("REMOTE_USER",))["HTTP_REMOTE_USER"] == "ann"
    assert build("Remote_User: ann", names=("*",))["HTTP_REMOTE_USER"] == "ann"
    assert "HTTP_REMOTE_USER" not in build("Remote_User: ann", names=("*",), allowed=LOCAL)
    assert "HTTP_OTHER_NAME" not in build("Other_Name: ann", names=("REMOTE_USER",))


def test_script_name_of_a_trusted_forwarder_is_taken_off_the_path() -> None:
    environ = build("Script_Name: /shop")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/cart")
    environ = build("SCRIPT_NAME: /shop/", path="/shop")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "")
    assert build("SCRIPT_NAME: /shop", allowed=LOCAL)["SCRIPT_NAME"] == ""
    assert status("SCRIPT_NAME: /shop", path="/shopping") == 404
    assert status("SCRIPT_NAME: /shop", path="/other") == 404


@pytest.mark.parametrize("allowed", [(PROXY,), LOCAL])
@pytest.mark.parametrize("names", [("SCRIPT_NAME", "PATH_INFO"), ("*",), ("*", "SCRIPT_NAME"), ("X_OTHER",), ()])
@pytest.mark.parametrize("name", ["Script-Name", "SCRIPT-NAME", "script-name", "X-Script-Name", "Script-Name-"])
def test_script_name_is_never_a_clients(name: str, names: Sequence[str], allowed: Sequence[str]) -> None:
    """What decides is the name as it was sent; any field that the forwarder adds has the others looked at."""
    for more in ((), ("X-Forwarded-For: 203.0.113.9",), ("Forwarded: for=203.0.113.9",), ("Other_Name: a",)):
        environ = build(f"{name}: /shop", *more, names=names, allowed=allowed)
        assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/shop/cart")
        environ = build(*more, f"{name}: /shop", f"{name}: /shop", names=names, allowed=allowed)
        assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/shop/cart")


def test_script_name_of_a_client_does_not_stand_beside_the_forwarders(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in (("SCRIPT_NAME",), ("*",)):
        for lines in (("Script_Name: /shop", "Script-Name: /shop/cart"), ("Script-Name: /a", "Script_Name: /shop")):
            environ = build(*lines, names=names)
            assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/cart")
            assert environ["HTTP_SCRIPT_NAME"] == "/shop"
    monkeypatch.setenv("SCRIPT_NAME", "/shop")
    environ = build("Script-Name: /shop/cart", "X-Forwarded-For: 203.0.113.9")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/cart")


def test_names_that_a_forwarder_may_set_are_nobody_elses_in_any_spelling() -> None:
    for line in ("Remote-User: root", "REMOTE-USER: root", "Remote-user: root"):
        for allowed in ((PROXY,), LOCAL):
            environ = build(line, "X-Forwarded-For: 203.0.113.9", names=("REMOTE_USER",), allowed=allowed)
            assert "HTTP_REMOTE_USER" not in environ
        for names in (("REMOTE_USER",), ("*",)):
            assert build(line, "REMOTE_USER: ann", names=names)["HTTP_REMOTE_USER"] == "ann"
            assert build("REMOTE_USER: ann", line, names=names)["HTTP_REMOTE_USER"] == "ann"
    assert build("Remote-User: bob")["HTTP_REMOTE_USER"] == "bob"


def test_star_lets_no_underscores_stand_in_for_a_forwarding_field() -> None:
    lines = ("X-Forwarded-For: 203.0.113.9", "X_Forwarded_For: 6.6.6.6", "X_Forwarded-Proto: https")
    environ = build(*lines, names=("*",))
    assert environ["HTTP_X_FORWARDED_FOR"] == environ["REMOTE_ADDR"] == "203.0.113.9"
    assert environ["wsgi.url_scheme"] == "http"
    environ = build(*lines, names=("X_FORWARDED_FOR",))
    assert environ["HTTP_X_FORWARDED_FOR"] == environ["REMOTE_ADDR"] == "6.6.6.6"


def test_script_name_of_the_environment_is_taken_off_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPT_NAME", "/shop")
    environ = build()
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/cart")


def test_fields_that_tell_of_https_may_be_named() -> None:
    own = {"X-SCHEME": "secure"}

    def scheme(*lines: str, **more: Any) -> str:
        return str(build(*lines, **more)["wsgi.url_scheme"])

    assert scheme("X-Scheme: Secure", secure=own) == "https"
    assert scheme("X-Scheme: plain", secure=own) == "http"
    # The proxy does not write this one, so a client may have.
    assert scheme("X-Forwarded-Proto: https", secure=own) == "http"
    assert scheme("X-Scheme: secure", secure=own, allowed=()) == "http"
    gunicorns = {"X-FORWARDED-PROTOCOL": "ssl", "X-FORWARDED-PROTO": "https", "X-FORWARDED-SSL": "on"}
    for line in ("X-Forwarded-Proto: wss", "X-Forwarded-Ssl: on", "X-Forwarded-Protocol: ssl"):
        assert scheme(line, secure=gunicorns) == scheme(line) == "https"
    assert scheme("X-Forwarded-Proto: https", secure={}) == "http"

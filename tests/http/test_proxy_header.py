"""The PROXY protocol's header, alone: what is one, what is none, and what only looks like one."""

from __future__ import annotations

import ipaddress
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.exceptions import ProtocolError
from offload.protocol.proxy import AUTO, V1, V2, ProxyHeader, begins_with_proxy_header, crc32c, read_proxy_header

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def version_2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, family, len(block)) + block


def tcp4(source: str = "192.0.2.7", destination: str = "198.51.100.1", extra: bytes = b"") -> bytes:
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return version_2(0x21, 0x11, addresses + struct.pack(">HH", 4711, 443) + extra)


def summed(header: bytes, before: bytes = b"", behind: bytes = b"") -> bytes:
    """The header with a checksum among its further fields."""
    size = struct.pack(">H", len(header) - 16 + len(before) + 7 + len(behind))
    start = header[:14] + size + header[16:] + before + b"\x03\x00\x04"
    return start + struct.pack(">I", crc32c(start + bytes(4) + behind)) + behind


def tcp6() -> bytes:
    addresses = ipaddress.ip_address("2001:db8::7").packed + ipaddress.ip_address("2001:db8::1").packed
    return version_2(0x21, 0x21, addresses + struct.pack(">HH", 4711, 443))


FROM_7 = ProxyHeader("TCP4", ("192.0.2.7", 4711), ("198.51.100.1", 443))
UNKNOWN = ProxyHeader("UNKNOWN")
VALID = {
    "v1 tcp4": (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", FROM_7),
    "v1 tcp6": (
        b"PROXY TCP6 2001:DB8::7 2001:db8:0:0::1 4711 443\r\n",
        ProxyHeader("TCP6", ("2001:db8::7", 4711), ("2001:db8::1", 443)),
    ),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", UNKNOWN),
    "v1 unknown with addresses": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", UNKNOWN),
    "v1 longest": (
        b"PROXY TCP6 " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n",
        ProxyHeader("TCP6", *[("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535)] * 2),
    ),
    "v2 tcp4": (tcp4(), FROM_7),
    "v2 tcp4 with fields": (tcp4(extra=b"\x04\x00\x01\x00" + b"\x01\x00\x02h2"), FROM_7),
    "v2 checksum": (summed(tcp4()), FROM_7),
    "v2 checksum among fields": (summed(tcp4(), b"\x04\x00\x03abc", b"\x02\x00\x09a.example"), FROM_7),
    "v2 checksum in numbers": (
        # Summed bit by bit, elsewhere.
        SIGNATURE + bytes.fromhex("21110013 c0000207 c6336401 1267 01bb 030004 6acdf61c"),
        FROM_7,
    ),
    "v2 tcp6 with a checksum": (
        summed(tcp6()),
        ProxyHeader("TCP6", ("2001:db8::7", 4711), ("2001:db8::1", 443)),
    ),
    "v2 tcp6": (tcp6(), ProxyHeader("TCP6", ("2001:db8::7", 4711), ("2001:db8::1", 443))),
    "v2 local": (version_2(0x20, 0x00, b""), UNKNOWN),
    "v2 local with addresses": (version_2(0x20, 0x11, bytes(12)), UNKNOWN),
    "v2 unspecified": (version_2(0x21, 0x00, bytes(7)), UNKNOWN),
    "v2 unix": (version_2(0x21, 0x31, bytes(216)), ProxyHeader("UNIX")),
    "v2 unix with a checksum": (summed(version_2(0x21, 0x31, bytes(216))), ProxyHeader("UNIX")),
    "v2 local with a wrong checksum": (version_2(0x20, 0x00, b"\x03\x00\x04abcd"), UNKNOWN),
}
INVALID = {
    "no addresses": b"PROXY TCP4\r\n",
    "one word": b"PROXY \r\n",
    "five words": b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
    "seven words": b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 1\r\n",
    "two spaces": b"PROXY TCP4  192.0.2.7 198.51.100.1 4711 443\r\n",
    "UDP": b"PROXY UDP4 192.0.2.7 198.51.100.1 4711 443\r\n",
    "lower case": b"PROXY tcp4 192.0.2.7 198.51.100.1 4711 443\r\n",
    "families mixed": b"PROXY TCP4 2001:db8::1 198.51.100.1 4711 443\r\n",
    "a leading zero": b"PROXY TCP4 192.0.2.07 198.51.100.1 4711 443\r\n",
    "a scope": b"PROXY TCP6 fe80::1%eth0 2001:db8::1 4711 443\r\n",
    "a host name": b"PROXY TCP4 localhost 198.51.100.1 4711 443\r\n",
    "a port too large": b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
    "a port with a zero ahead": b"PROXY TCP4 192.0.2.7 198.51.100.1 047 443\r\n",
    "a negative port": b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n",
    "other digits": "PROXY TCP4 192.0.2.7 198.51.100.1 ٤٧ 443\r\n".encode(),
    "a bare line feed": b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n",
    "too long": b"PROXY TCP4 " + b"1" * 200,
    "too long, with an end": b"PROXY UNKNOWN " + b"1" * 100 + b"\r\n",
    "version 1 in version 2": version_2(0x11, 0x11, bytes(12)),
    "version 3": version_2(0x31, 0x11, bytes(12)),
    "an unknown command": version_2(0x22, 0x11, bytes(12)),
    "datagrams": version_2(0x21, 0x12, bytes(12)),
    "an unknown family": version_2(0x21, 0x41, bytes(12)),
    "a short block": version_2(0x21, 0x11, bytes(11)),
    "a short block of IPv6": version_2(0x21, 0x21, bytes(35)),
    "a short block of Unix sockets": version_2(0x21, 0x31, bytes(215)),
    "a wrong checksum": tcp4(extra=b"\x03\x00\x04\x00\x00\x00\x00"),
    "a short checksum": tcp4(extra=b"\x03\x00\x03abc"),
    "a second checksum that is wrong": summed(tcp4(), behind=b"\x03\x00\x04abcd"),
    "a field longer than the header": tcp4(extra=b"\x04\x00\x02a"),
    "a field without its size": tcp4(extra=b"\x04\x00"),
}
SUMS = {
    "32 zeros": (bytes(32), 0x8A9136AA),
    "32 ones": (b"\xff" * 32, 0x62A8AB43),
    "rising": (bytes(range(32)), 0x46DD794E),
    "falling": (bytes(reversed(range(32))), 0x113FDB5C),
    "an order to read": (
        bytes.fromhex(
            "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018 28000000 00000000 02000000"
        )
        + bytes(4),
        0xD9963A56,
    ),
    "nothing": (b"", 0),
}
"""The examples of RFC 3720, appendix B.4; its bytes stand there the other way round."""


@pytest.mark.parametrize("name", SUMS)
def test_checksum_is_that_of_the_standard(name: str) -> None:
    data, crc = SUMS[name]
    assert crc32c(data) == crc


def test_checksum_tells_every_flipped_bit() -> None:
    header = summed(tcp4(), b"\x04\x00\x03abc")
    assert read_proxy_header(header) == (FROM_7, b"")
    # The addresses, the value of a field, and the checksum itself; other bytes say what is to be read.
    for byte in (*range(16, 28), *range(31, 34), *range(37, 41)):
        for bit in range(8):
            flipped = bytearray(header)
            flipped[byte] ^= 1 << bit
            with pytest.raises(ProtocolError, match="a PROXY header's checksum is wrong"):
                read_proxy_header(bytes(flipped))


@pytest.mark.parametrize("name", VALID)
def test_header_is_read_and_what_follows_is_left(name: str) -> None:
    data, header = VALID[name]
    assert read_proxy_header(data + REQUEST) == (header, REQUEST)


@pytest.mark.parametrize("name", VALID)
def test_header_in_parts_asks_for_more_until_it_is_whole(name: str) -> None:
    data, header = VALID[name]
    for end in range(len(data)):
        assert read_proxy_header(data[:end]) is None
    assert read_proxy_header(data) == (header, b"")


@pytest.mark.parametrize("name", INVALID)
def test_header_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError):
        read_proxy_header(INVALID[name])


def test_second_checksum_is_refused_unread() -> None:
    with pytest.raises(ProtocolError, match="a PROXY header has two checksums"):
        read_proxy_header(summed(tcp4(), behind=b"\x03\x00\x04abcd"))


@pytest.mark.parametrize("name", VALID)
def test_header_is_known_by_its_beginning(name: str) -> None:
    data, _ = VALID[name]
    mode, size = (V2, 12) if data.startswith(SIGNATURE) else (V1, 6)
    assert not any(begins_with_proxy_header(data[:end]) for end in range(size))
    assert all(begins_with_proxy_header(data[:end], mode) for end in range(size, len(data)))
    assert begins_with_proxy_header(data)
    assert not begins_with_proxy_header(data, V1 if mode == V2 else V2)


@pytest.mark.parametrize(
    "data",
    [REQUEST, b"PROXYING / HTTP/1.1\r\n", b"PUT /", b"\r\nGET / HTTP/1.1\r\n", b"\x16\x03\x01\x02", SIGNATURE[1:]],
)
def test_connection_without_header_keeps_its_bytes(data: bytes) -> None:
    assert read_proxy_header(data) == (None, data)
    assert not begins_with_proxy_header(data)


def test_modes_look_for_their_own_version_only() -> None:
    text, binary = VALID["v1 tcp4"][0], tcp4()
    assert read_proxy_header(text, V1) == read_proxy_header(text, AUTO) == (FROM_7, b"")
    assert read_proxy_header(binary, V2) == read_proxy_header(binary, AUTO) == (FROM_7, b"")
    assert read_proxy_header(text, V2) == (None, text)
    assert read_proxy_header(binary, V1) == (None, binary)


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"]))
def test_any_bytes_are_read_refused_or_asked_to_go_on(data: bytes, prefix: bytes) -> None:
    try:
        found = read_proxy_header(prefix + data)
    except ProtocolError:
        return
    if found is not None:
        assert (prefix + data).endswith(found[1])
    else:
        # More is asked for only while a header may still become whole.
        assert len(prefix + data) < 16 + 65535


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_splits_do_not_change_what_is_read(randomness: random.Random) -> None:
    data, header = VALID[randomness.choice(list(VALID))]
    stream, received, found = data + REQUEST, b"", None
    while found is None:
        size = randomness.randint(1, 40)
        received, stream = received + stream[:size], stream[size:]
        found = read_proxy_header(received)
    assert found[0] == header
    assert found[1] + stream == REQUEST

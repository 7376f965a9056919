"""The PROXY protocol's header, versions 1 and 2: who connected to the proxy that connected to us.

Pure: no sockets, no clock. Follows the specification that comes with HAProxy (``proxy-protocol.txt``). Of version 2's
additional fields the checksum is verified where there is one; the others are not needed. Where the proxy speaks for
itself, or leaves the family unspecified, all that follows is ignored, a checksum, too.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass

from offload.exceptions import ProtocolError

V1, V2, AUTO = "v1", "v2", "auto"

_V1_PREFIX = b"PROXY "
_V1_MAX_BYTES = 107
"""With its CR LF, as the specification says."""
_V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED = struct.Struct(">12sBBH")
_INET = struct.Struct(">4s4sHH")
_INET6 = struct.Struct(">16s16sHH")
_UNIX_BYTES = 216
_FIELD = struct.Struct(">BH")
_CHECKSUM = 0x03
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6, _UNIX_STREAM = 0x00, 0x11, 0x21, 0x31
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")

Address = tuple[str, int]


@dataclass(frozen=True)
class ProxyHeader:
    """What a proxy says of a connection.

    Attributes:
        protocol: "TCP4", "TCP6" or "UNIX"; "UNKNOWN" where the proxy speaks for itself, for instance to see whether
            the server is alive, or does not know: the connection's own addresses stand.
        source: the client's address, or None where there is none.
        destination: the address that the client connected to, or None.
    """

    protocol: str
    source: Address | None = None
    destination: Address | None = None


_UNKNOWN = ProxyHeader("UNKNOWN")


def read_proxy_header(data: bytes, mode: str = AUTO) -> tuple[ProxyHeader | None, bytes] | None:
    """Take the header off the beginning of what a connection brought.

    Args:
        data: everything that has arrived.
        mode: which versions to look for: ``V1``, ``V2`` or ``AUTO``.

    Returns:
        None for "more data, please"; else the header, or None where the connection begins without one, and the
        bytes that follow.

    Raises:
        ProtocolError: it began as a header and is none.
    """
    if mode != V2 and _may_begin(data, _V1_PREFIX):
        return _read_v1(data)
    if mode != V1 and _may_begin(data, _V2_SIGNATURE):
        return _read_v2(data)
    return None, data


def begins_with_proxy_header(data: bytes, mode: str = AUTO) -> bool:
    """Whether what a connection brought begins as a header that `read_proxy_header` would read, right or wrong."""
    return (mode != V2 and data.startswith(_V1_PREFIX)) or (mode != V1 and data.startswith(_V2_SIGNATURE))


def _may_begin(data: bytes, prefix: bytes) -> bool:
    return data.startswith(prefix) if len(data) >= len(prefix) else prefix.startswith(data)


def _read_v1(data: bytes) -> tuple[ProxyHeader, bytes] | None:
    end = data.find(b"\n", 0, _V1_MAX_BYTES)
    if end < 0:
        if len(data) >= _V1_MAX_BYTES:
            raise ProtocolError(f"a PROXY header has over {_V1_MAX_BYTES} bytes")
        return None
    line, rest = data[:end], data[end + 1 :]
    if not line.endswith(b"\r"):
        raise ProtocolError("a PROXY header ends without CR LF")
    # Whatever the six words are, they are compared with plain ones.
    words = line[:-1].decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return _UNKNOWN, rest
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ProtocolError("a PROXY header is not PROXY, TCP4 or TCP6, two addresses and two ports")
    kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]
    kind = ipaddress.IPv4Address if words[1] == "TCP4" else ipaddress.IPv6Address
    source, destination = (_address(kind, words[at], words[at + 2]) for at in (2, 3))
    return ProxyHeader(words[1], source, destination), rest


def _address(kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address], host: str, port: str) -> Address:
    try:
        # A scope names an interface of the proxy's machine, which means nothing here.
        address = kind(host) if "%" not in host else None
    except ValueError:
        address = None
    if address is None:
        raise ProtocolError("a PROXY header's address is not one of its protocol")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise ProtocolError("a PROXY header's port is not a number from 0 to 65535")
    return str(address), int(port)


def _read_v2(data: bytes) -> tuple[ProxyHeader, bytes] | None:
    if len(data) < _V2_FIXED.size:
        return None
    _, command, family, length = _V2_FIXED.unpack_from(data)
    if command not in (_LOCAL, _PROXY):
        raise ProtocolError(f"a PROXY header has the version and command 0x{command:02x}")
    end = _V2_FIXED.size + length
    if len(data) < end:
        return None
    if command == _LOCAL or family == _UNSPECIFIED:
        # What stands behind this is to be ignored, whatever it is.
        return _UNKNOWN, data[end:]
    return _read_v2_block(family, data[:end]), data[end:]


def _read_v2_block(family: int, header: bytes) -> ProxyHeader:
    layout = {_TCP4: _INET, _TCP6: _INET6}.get(family)
    if layout is None and family != _UNIX_STREAM:
        raise ProtocolError(f"a PROXY header has the address family and protocol 0x{family:02x}, which is not TCP")
    fields = _V2_FIXED.size + (_UNIX_BYTES if layout is None else layout.size)
    if len(header) < fields:
        raise ProtocolError("a PROXY header is too short for its addresses")
    _check_fields(header, fields)
    if layout is None:
        # Paths on the proxy's machine: there is no address to tell.
        return ProxyHeader("UNIX")
    source, destination, source_port, destination_port = layout.unpack_from(header, _V2_FIXED.size)
    return ProxyHeader(
        "TCP4" if family == _TCP4 else "TCP6",
        (str(ipaddress.ip_address(source)), source_port),
        (str(ipaddress.ip_address(destination)), destination_port),
    )


def _check_fields(header: bytes, at: int) -> None:
    """Verify the checksum, if one of the fields from `at` on is one."""
    has_checksum = False
    while at < len(header):
        begin = at + _FIELD.size
        kind, size = _FIELD.unpack_from(header, at) if begin <= len(header) else (0, len(header))
        at = begin + size
        if at > len(header):
            raise ProtocolError("a PROXY header's last field is longer than the header")
        if kind == _CHECKSUM:
            # Each costs a walk through the whole header.
            if has_checksum:
                raise ProtocolError("a PROXY header has two checksums")
            has_checksum = True
            if not _is_right(header, begin, at):
                raise ProtocolError("a PROXY header's checksum is wrong")


def _is_right(header: bytes, begin: int, end: int) -> bool:
    """Whether a checksum is that of the whole header with zeros in its own place."""
    return end - begin == 4 and int.from_bytes(header[begin:end], "big") == crc32c(
        header[:begin] + bytes(4) + header[end:]
    )


_CRC32C_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, reversed. The standard library's CRC-32 has another, and the few hundred bytes that are summed once for
a connection do not earn a compiled dependency."""


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ _CRC32C_POLYNOMIAL if byte & 1 else byte >> 1
        table.append(byte)
    return tuple(table)


_CRC32C_TABLE = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The checksum of `data`, as an unsigned number; follows RFC 3720, appendix B.4."""
    table, crc = _CRC32C_TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[crc & 0xFF ^ byte] ^ crc >> 8
    return crc ^ 0xFFFFFFFF

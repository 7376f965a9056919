"""CRC-32C (Castagnoli), the checksum of PROXY headers. Pure; follows RFC 3720, appendix B.4.

A table here, since the standard library's CRC-32 has another polynomial, and the few hundred bytes that are summed once
in a connection do not earn a compiled dependency.
"""

from __future__ import annotations

_POLYNOMIAL = 0x82F63B78
"""Reversed, as the table wants it."""


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ _POLYNOMIAL if byte & 1 else byte >> 1
        table.append(byte)
    return tuple(table)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """The checksum of `data`, as an unsigned number."""
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[crc & 0xFF ^ byte] ^ crc >> 8
    return crc ^ 0xFFFFFFFF

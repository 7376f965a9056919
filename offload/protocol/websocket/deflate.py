"""permessage-deflate: a client's offers to an agreement, payloads to compressed ones and back.

Neither side keeps its context between messages, so an agreement holds no state: it is one of a few shared objects, and
an idle connection costs no compressor. Pure: no sockets, no clock. Follows RFC 7692, and RFC 6455, section 9.1, for the
header field.
"""

from __future__ import annotations

import re
import zlib

_NAME = b"permessage-deflate"
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = re.compile(_TOKEN)
_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(" + _TOKEN + rb')(?:[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|(' + _TOKEN + rb")))?")
_EXTENSION = re.compile(rb"[ \t]*(" + _TOKEN + rb")((?:" + _PARAMETER.pattern + rb")*)[ \t]*(?:,|\Z)")
_EMPTY_ELEMENT = re.compile(rb"[ \t]*(?:,|\Z)")
_ESCAPE = re.compile(rb"\\(.)")
_BITS = re.compile(rb"8|9|1[0-5]")

_LEVEL = 3
"""A third of the time of zlib's default, for a tenth more bytes."""
_TAIL = b"\x00\x00\xff\xff"
_FINAL = b"\x03\x00"
"""A final block without content: what comes before it was whole if this one is read as the end."""
_WINDOW_BYTES = 32768
_MAX_RESTARTS = 16
"""A message may have final blocks before its end. No known client makes any; each costs a new decompressor."""


class TooBig(ValueError):
    """A message is larger than the limit once it is inflated."""


class Deflate:
    """An agreement to compress.

    Attributes:
        bits: the largest window, as a power of two, that the client wants to keep for what it gets.
        answer: the value of the answer's Sec-WebSocket-Extensions.
    """

    __slots__ = ("_strategy", "_window", "answer", "bits")

    def __init__(self, bits: int, is_asked: bool) -> None:
        self.bits = bits
        self.answer = _NAME + b"; server_no_context_takeover; client_no_context_takeover"
        if is_asked:
            self.answer += b"; server_max_window_bits=%d" % bits
        # zlib has no raw window of 256 bytes. What has no back references at all fits into any window.
        self._strategy = zlib.Z_HUFFMAN_ONLY if bits == 8 else zlib.Z_DEFAULT_STRATEGY
        self._window = -max(bits, 9)

    def compress(self, payload: bytes) -> bytes:
        """A message's compressed payload."""
        compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, self._window, strategy=self._strategy)
        # The end of a sync flush is left out on the wire (7.2.1).
        return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def inflate(self, payload: bytes | bytearray, max_size: int) -> bytes:
        """A message's payload before it was compressed; see `inflate` below.

        Raises:
            TooBig: as it says.
            ValueError: the payload is damaged.
        """
        try:
            return inflate(payload, max_size)
        except zlib.error as error:
            raise ValueError(str(error)) from error


_UNASKED = Deflate(15, False)
_ASKED = {bits: Deflate(bits, True) for bits in range(8, 16)}


def inflate(payload: bytes | bytearray, max_size: int) -> bytes:
    """A message's payload before it was compressed.

    Args:
        payload: the whole message's, without the frames.
        max_size: bytes that the result may have; no more are ever inflated.

    Raises:
        TooBig: the result has more.
        zlib.error: the payload is no DEFLATE data, or not whole.
    """
    if not payload:
        # Against the grammar, but what a compressor says that has just been flushed and was given nothing since.
        return b""
    decompressor = zlib.decompressobj(-15)
    data = decompressor.decompress(payload + _TAIL + _FINAL, max_size + 1)
    restarts = 0
    while decompressor.eof and decompressor.unused_data and len(data) <= max_size:
        restarts += 1
        if restarts > _MAX_RESTARTS:
            raise zlib.error(f"a message has over {_MAX_RESTARTS} final blocks")
        rest = decompressor.unused_data
        if rest == _TAIL + _FINAL:
            # A final block was the last, and nothing behind it says that the message ends on a whole byte. It does.
            break
        # What follows may still refer back to what came before (7.2.3.5).
        decompressor = zlib.decompressobj(-15, zdict=data[-_WINDOW_BYTES:])
        data += decompressor.decompress(rest, max_size + 1 - len(data))
    if len(data) > max_size:
        raise TooBig(f"a message has over {max_size} bytes")
    if not decompressor.eof:
        raise zlib.error("a message ends in the middle of a block")
    return data


def read_offers(values: list[bytes]) -> list[tuple[bytes, list[tuple[bytes, bytes | None]]]]:
    """The extensions that a client offers, in its order, with their parameters.

    Args:
        values: of the fields Sec-WebSocket-Extensions.

    Raises:
        ValueError: they break the field's grammar.
    """
    offers = []
    for value in values:
        at = 0
        while at < len(value):
            match = _EXTENSION.match(value, at)
            if match is None:
                empty = _EMPTY_ELEMENT.match(value, at)
                if empty is None:
                    raise ValueError("Sec-WebSocket-Extensions is not a list of extensions")
                at = empty.end()
                continue
            at = match.end()
            parameters: list[tuple[bytes, bytes | None]] = []
            for name, quoted, token in _PARAMETER.findall(match[2]):
                plain = _ESCAPE.sub(rb"\1", quoted) if quoted else token
                if quoted and not _VALUE.fullmatch(plain):
                    raise ValueError("a quoted value in Sec-WebSocket-Extensions is not a token")
                parameters.append((name.lower(), plain or None))
            offers.append((match[1].lower(), parameters))
    return offers


def negotiate(values: list[bytes]) -> Deflate | None:
    """The agreement to the first offer that can be met, or None where there is none.

    Raises:
        ValueError: as `read_offers`.
    """
    found = None
    for name, parameters in read_offers(values):
        if name == _NAME and found is None:
            found = _agree(parameters)
    return found


def _agree(parameters: list[tuple[bytes, bytes | None]]) -> Deflate | None:
    """Section 7.1: an offer with a parameter that is unknown, repeated, or has a wrong value, is declined."""
    given = dict(parameters)
    if len(given) < len(parameters):
        return None
    agreement = _UNASKED
    for name, value in parameters:
        if name in (b"server_no_context_takeover", b"client_no_context_takeover"):
            if value is not None:
                return None
        elif name == b"server_max_window_bits":
            if value is None or not _BITS.fullmatch(value):
                return None
            agreement = _ASKED[int(value)]
        elif name == b"client_max_window_bits":
            # A hint only. Every window is inflated in a passing buffer of the largest.
            if value is not None and not _BITS.fullmatch(value):
                return None
        else:
            return None
    return agreement

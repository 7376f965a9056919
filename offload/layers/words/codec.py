"""Message contents to bytes and back, and the check of what a content may hold.

Knows no layer and no name. What the first byte of a message says:

=========================  ==========================================================================
first byte                 the message is
=========================  ==========================================================================
0x80-0x8f, 0xde, 0xdf      a bare msgpack map: what `Codec.encode` writes
0x7b ``{`` or white space  JSON text: what any other language may write (never the start of a map)
0xc1                       an envelope; the next byte names its kind. 0x01: what follows is one of the above, sealed
                           (``offload.layers.words.seal``). 0xc1 is the byte that msgpack promises never to use.
=========================  ==========================================================================

A content is a dict of str keys to None, bool, int (of any size), float, str, bytes, list and dict, nested at most
`MAX_DEPTH` deep. Subclasses of these (Django's ``SafeString``, an ``IntEnum``, an ``OrderedDict``) are accepted and
arrive as the plain type; a tuple arrives as a list. ``bytearray`` and ``memoryview`` are refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]

from offload.exceptions import MessageTooLarge, OffloadError
from offload.interfaces import Content
from offload.layers.words.seal import QUEUE, Seal, Unsealable

MAX_DEPTH = 100
ENVELOPE = 0xC1

_SEALED = bytes((ENVELOPE, 1))
_LEAVES = (str, bytes, int, float, type(None))  # bool is an int
_PLAIN = frozenset({str, bytes, int, float, bool, type(None)})
_BIG_INT = 1  # msgpack extension type: a signed big-endian integer beyond 64 bits
_NO_KEYS = "message is sealed, and this layer has no encryption_keys"
_JSON_STARTS = frozenset(b"{ \t\r\n")


class UndecodableMessage(OffloadError):
    """Bytes that are no message: made by another program, another version, or with another key."""


class Codec:
    """Encodes and decodes within a size limit.

    Args:
        max_size: most bytes that one encoded message may have, before it is sealed.
        keys: to seal messages with the first, and to open them with any. With keys, only sealed messages are decoded.

    Raises:
        ConfigurationError: there are keys, but not the package for them.
    """

    __slots__ = ("_seal", "max_size")

    def __init__(self, max_size: int, keys: Sequence[str] = ()) -> None:
        self.max_size = max_size
        self._seal = Seal(keys) if keys else None

    @property
    def max_encoded_size(self) -> int:
        """Most bytes of what `encode` returns."""
        if self._seal is None:
            return self.max_size
        return len(_SEALED) + self._seal.sealed_size(self.max_size)

    def encode(self, content: Content, kind: bytes = QUEUE, name: str = "") -> bytes:
        """
        Args:
            kind, name: what the message is for; with keys it is decoded for nothing else.
                See ``offload.layers.words.seal``.

        Raises:
            TypeError: for what no content may hold.
            MessageTooLarge: over the limit.
        """
        check_content(content, self.max_size)
        # Lone surrogates are legal in a str, and in JSON; they come back as they were.
        data: bytes = msgpack.packb(content, use_bin_type=True, unicode_errors="surrogatepass", default=_pack_big_int)
        if len(data) > self.max_size:
            raise _too_large(len(data), self.max_size)
        return data if self._seal is None else self.seal(data, kind, name)

    def decode(self, data: bytes, kind: bytes = QUEUE, name: str = "") -> Content:
        """Raises ``UndecodableMessage``."""
        if self._seal is not None:
            data = self.unseal(data, kind, name)
        if not data:
            raise UndecodableMessage("message is empty")
        if len(data) > self.max_size:
            raise UndecodableMessage(f"message of {len(data)} bytes is over the limit of {self.max_size}")
        first = data[0]
        if data.startswith(_SEALED):
            raise UndecodableMessage(_NO_KEYS)
        if first == ENVELOPE:
            raise UndecodableMessage(f"message has an envelope of unknown kind {data[1:2].hex() or 'none'}")
        try:
            content: Content
            if first in _JSON_STARTS:
                content = json.loads(data)
            else:
                content = msgpack.unpackb(data, unicode_errors="surrogatepass", ext_hook=_unpack_ext)
            check_content(content, self.max_size)
        except (ValueError, TypeError, RecursionError, MessageTooLarge, msgpack.UnpackException) as error:
            raise UndecodableMessage(f"message is no valid content: {error}") from error
        return content

    def seal(self, data: bytes, kind: bytes, name: str) -> bytes:
        """Any bytes; they stay as they are when there are no keys."""
        return data if self._seal is None else _SEALED + self._seal.close(data, kind, name)

    def unseal(self, data: bytes, kind: bytes, name: str) -> bytes:
        """Raises ``UndecodableMessage``, as for what is not sealed when there are keys."""
        is_sealed = data.startswith(_SEALED)
        if self._seal is None:
            if is_sealed:
                raise UndecodableMessage(_NO_KEYS)
            return data
        if not is_sealed:
            # Whoever can write to the server could make such a message.
            raise UndecodableMessage("message is not sealed, which this layer's encryption_keys ask for")
        if len(data) > 2 * self.max_size + 1000:
            raise UndecodableMessage(f"sealed message of {len(data)} bytes is over the limit of {self.max_size}")
        try:
            return self._seal.open(data[len(_SEALED) :], kind, name)
        except Unsealable as error:
            raise UndecodableMessage(str(error)) from None


def check_content(content: object, max_size: int) -> bool:
    """The check for a message that is delivered without being encoded.

    The size counts the characters and bytes of the values only, which is less than the encoded size, and costs nothing.

    Returns:
        Whether the content is a flat dict of plain types only.

    Raises:
        TypeError: names the offending key path and type.
        MessageTooLarge: the values alone are over the limit.
    """
    if type(content) is dict:
        size = 0
        for key, value in content.items():
            kind = type(value)
            if type(key) is not str or kind not in _PLAIN:
                break
            if kind is str or kind is bytes:
                size += len(value)
        else:
            if size > max_size:
                raise _too_large(size, max_size)
            return True
    elif not isinstance(content, dict):
        raise TypeError(f"content is a {_type_name(content)}, not a dict")
    size = _check_dict(content, (), 1)
    if size > max_size:
        raise _too_large(size, max_size)
    return False


def checked_copy(content: Content, max_size: int) -> Content:
    """`check_content`, and `copy_content` of it."""
    return content.copy() if check_content(content, max_size) else copy_content(content)


def copy_content(content: Content) -> Content:
    """A copy that later changes to the original do not reach, of plain types as `Codec.decode` makes them; for a
    checked content."""
    copied: Content = _copy(content)
    return copied


Path = tuple[Any, ...]


def _check_dict(value: dict[Any, Any], path: Path, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise TypeError(f"content is nested more than {MAX_DEPTH} levels deep")
    size = 0
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{_at(path)} has the key {key!r} of type {_type_name(key)}; keys must be str")
        size += _check_value(item, (*path, key), depth)
    return size


def _check_value(value: object, path: Path, depth: int) -> int:
    if isinstance(value, _LEAVES):
        return len(value) if isinstance(value, (str, bytes)) else 0
    if isinstance(value, dict):
        return _check_dict(value, path, depth + 1)
    # An extension type of msgpack's own is a tuple, too, and would come back as what the sender chose.
    if isinstance(value, (list, tuple)) and not isinstance(value, msgpack.ExtType):
        if depth >= MAX_DEPTH:
            raise TypeError(f"content is nested more than {MAX_DEPTH} levels deep")
        return sum(_check_value(item, (*path, index), depth + 1) for index, item in enumerate(value))
    raise TypeError(
        f"{_at(path)} is a {_type_name(value)}, but messages carry None, bool, int, float, str, bytes, list"
        " and dict only"
    )


def _at(path: Path) -> str:
    return "content" + "".join(f"[{step!r}]" for step in path)


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _too_large(size: int, limit: int) -> MessageTooLarge:
    return MessageTooLarge(f"message of {size} bytes is over the layer's limit of {limit} (setting 'max_size')")


def _copy(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, dict):
        return {_copy(key): _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(item) for item in value]
    # The value itself, whatever a subclass shows it as.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else bytes(memoryview(value))


def _pack_big_int(value: object) -> msgpack.ExtType:
    # msgpack asks for a default for integers beyond 64 bits; check_content has let nothing else get here.
    if not isinstance(value, int):
        raise TypeError(f"content holds a {_type_name(value)}")
    return msgpack.ExtType(_BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _unpack_ext(code: int, data: bytes) -> int:
    if code != _BIG_INT:
        raise ValueError(f"unknown msgpack extension type {code}")
    return int.from_bytes(data, "big", signed=True)

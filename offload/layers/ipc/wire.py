"""What an IPC layer and its hub say to each other: frames, their kinds, and their limit.

A frame is four bytes of length (big endian), then one msgpack array, whose first item is the kind. Requests carry a
number that their answer repeats; those with the number 0 get none. Pure: bytes in, lists out; the caller has the
socket. Both ends are the same user's, so a frame is checked for its form, not for malice.

==========================  ===============================================================  ========================
client to hub               arguments after kind and number                                  value of the answer
==========================  ===============================================================  ========================
HELLO                       version, prefix, process token, settings                         version
PING                                                                                         None
PUSH                        channel, payload, expiry, capacity                               None, or status FULL
TAKE                        channels, seconds to wait or None                                channel, payload; None
TAKEN, CANCEL               number of a TAKE
SUBSCRIBE                   topics, whether they were lost                                   publications missed
UNSUBSCRIBE                 topic
PUBLISH                     topic, payload                                                   processes that get it
GROUP_SEND                  group, payload                                                   full channels
SET_MEMBER                  group, channel, whether it is one                                None
SESSION_LOAD                key                                                              payload or None
SESSION_SAVE                key, payload, expiry                                             None
SESSION_EXPIRE              key, seconds                                                     None
KEEP                        channel, payload, seconds                                        None
TAKE_DUE                    taker, batch received, number of this one                        batch, messages, seconds
FLUSH                                                                                        None
STATISTICS                                                                                   dict of counters
==========================  ===============================================================  ========================

The hub's frames: ``ANSWER number status value``, ``MESSAGE topic payload`` and ``LOST count``.
"""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]

from offload.exceptions import ChannelFull, LayerUnavailable, OffloadError

VERSION = 3
MAX_FRAME_BYTES = 64 * 1024 * 1024
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - 64 * 1024  # leaves room for names and settings

HELLO = 1  # the same in all versions, with its first three items
PING = 2
PUSH = 3
TAKE = 4
TAKEN = 5
CANCEL = 6
SUBSCRIBE = 7
UNSUBSCRIBE = 8
PUBLISH = 9
GROUP_SEND = 10
SET_MEMBER = 11
SESSION_LOAD = 13
SESSION_SAVE = 14
SESSION_EXPIRE = 15
FLUSH = 16
STATISTICS = 17
KEEP = 18
TAKE_DUE = 19

ANSWER = 64  # likewise
MESSAGE = 65
LOST = 66

OK = 0
FULL = 1
ERROR = 2

_LENGTH_BYTES = 4


class BrokenFrame(OffloadError):
    """What came is no frame, so nothing after it can be read either."""


def pack(*items: Any) -> bytes:
    """One frame."""
    # Session keys are free text, and a str may hold lone surrogates.
    body: bytes = msgpack.packb(items, use_bin_type=True, unicode_errors="surrogatepass")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def value_of(answer: list[Any] | None) -> Any:
    """What an answer says. Raises ``ChannelFull`` and ``LayerUnavailable`` by its status."""
    assert answer is not None
    _, _, status, value = answer
    if status == ERROR:
        raise LayerUnavailable(value)
    if status == FULL:
        raise ChannelFull(value)
    return value


class FrameReader:
    """Collects received bytes until they are whole frames."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[list[Any]]:
        """The frames that are complete now.

        Raises:
            BrokenFrame: also for a frame over the limit.
        """
        source: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            source = self._buffer
        frames: list[list[Any]] = []
        start, end = 0, len(source)
        with memoryview(source) as view:
            while end - start >= _LENGTH_BYTES:
                body = start + _LENGTH_BYTES
                size = int.from_bytes(view[start:body], "big")
                if size > MAX_FRAME_BYTES:
                    raise BrokenFrame(f"frame of {size} bytes is over the limit of {MAX_FRAME_BYTES}")
                if end - body < size:
                    break
                frames.append(_unpack(bytes(view[body : body + size])))
                start = body + size
        if source is self._buffer:
            del self._buffer[:start]
        else:
            self._buffer += data[start:]
        return frames


def _unpack(body: bytes) -> list[Any]:
    try:
        items = msgpack.unpackb(body, unicode_errors="surrogatepass")
    except (ValueError, msgpack.UnpackException) as error:
        raise BrokenFrame(f"frame is no msgpack: {error}") from error
    if not isinstance(items, list) or not items or not isinstance(items[0], int):
        raise BrokenFrame("frame does not begin with its kind")
    return items

"""Client frames for tests, made by the sans-I/O side of the `websockets` library, and its reading of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close as TheirClose
from websockets.frames import Frame, Opcode
from websockets.protocol import Side
from websockets.server import ServerProtocol

from offload.protocol.websocket.connection import Close, Event, Failure, Ping, Pong, WebSocketProtocol
from offload.protocol.websocket.deflate import Deflate, negotiate

CONT, TEXT, BINARY, CLOSE, PING, PONG = (
    Opcode.CONT,
    Opcode.TEXT,
    Opcode.BINARY,
    Opcode.CLOSE,
    Opcode.PING,
    Opcode.PONG,
)


def agreement(offer: bytes = b"permessage-deflate") -> Deflate:
    """What an offer leads to."""
    found = negotiate([offer])
    assert found is not None
    return found


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """One frame; the library refuses to make wrong ones, so a wrong first byte is put in afterwards."""
    opcode_made = Opcode(opcode) if opcode in Opcode.__members__.values() else BINARY
    made = Frame(opcode_made, payload, True).serialize(mask=mask) if opcode_made >= 8 and len(payload) <= 125 else None
    if made is None:
        made = Frame(BINARY, payload, True).serialize(mask=mask)
    return bytes(((0x80 if fin else 0) | rsv << 4 | opcode,)) + made[1:]


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    """A close frame."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


def deflated(payload: bytes, bits: int = 15) -> bytes:
    """The compressed payload of a message."""
    compressor = zlib.compressobj(wbits=-bits)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def message(payload: str | bytes, pieces: Sequence[int] = (), compressed: bool = False) -> list[bytes]:
    """A message as frames; `pieces` are the lengths of all fragments but the last."""
    opcode = TEXT if isinstance(payload, str) else BINARY
    data = payload.encode() if isinstance(payload, str) else payload
    if compressed:
        data = deflated(data)
    frames = []
    rsv = 4 if compressed else 0
    for size in pieces:
        frames.append(frame(opcode, data[:size], fin=False, rsv=rsv))
        data, opcode, rsv = data[size:], CONT, 0
    return [*frames, frame(opcode, data, rsv=rsv)]


def read(stream: bytes, cuts: Iterable[int] = (), **more: object) -> list[Event]:
    """Our events for a stream that arrives in pieces."""
    protocol = WebSocketProtocol(**{"max_size": 1 << 20, **more})  # type: ignore[arg-type]
    events: list[Event] = []
    begin = 0
    for end in (*sorted(cuts), len(stream)):
        events += protocol.receive(stream[begin:end])
        begin = end
        while protocol.held:
            events += protocol.receive(b"")
    return events


def octets(stream: bytes) -> range:
    """Cuts between all bytes."""
    return range(1, len(stream))


def theirs(stream: bytes, *, compresses: bool = False, max_size: int = 1 << 20) -> list[Event]:
    """The same events as the `websockets` library sees them; it leaves UTF-8 of messages to its caller."""
    protocol = ServerProtocol(max_size=max_size)
    protocol.state = protocol.state.__class__.OPEN
    assert protocol.side is Side.SERVER
    if compresses:
        protocol.extensions = [PerMessageDeflate(True, True, 15, 15)]
    parser = protocol.parse()
    next(parser)
    protocol.parser = parser
    protocol.receive_data(stream)
    events: list[Event] = []
    pieces: list[bytes] = []
    opcode = 0
    for item in protocol.events_received():
        assert isinstance(item, Frame)
        if item.opcode is PING:
            events.append(Ping(bytes(item.data)))
        elif item.opcode is PONG:
            events.append(Pong(bytes(item.data)))
        elif item.opcode is not CLOSE:
            if item.opcode is not CONT:
                opcode, pieces = item.opcode, []
            pieces.append(bytes(item.data))
            if item.fin:
                whole = b"".join(pieces)
                try:
                    events.append(whole.decode() if opcode == TEXT else whole)
                except UnicodeDecodeError:
                    events.append(Failure(1007, ""))
                    return events
    if protocol.close_rcvd is not None:
        # Theirs takes a close frame inside a fragmented message for a fault; section 5.4 does not.
        assert isinstance(protocol.close_rcvd, TheirClose)
        events.append(Close(int(protocol.close_rcvd.code), protocol.close_rcvd.reason))
    elif protocol.close_sent is not None:
        events.append(Failure(int(protocol.close_sent.code), ""))
    return events


def codes(events: Iterable[Event]) -> list[Event]:
    """Events without the wording of failures."""
    return [Failure(event.code, "") if isinstance(event, Failure) else event for event in events]


def check_not_laxer(stream: bytes, ours: list[Event], other: list[Event], **more: object) -> None:
    """Where the other library sees a stream otherwise, we may be stricter and quicker, but accept no more than it does.

    Args:
        stream: as `ours` came from it with the arguments `more`, and `other` by `theirs`.
    """
    ours = codes(ours)
    if ours == other:
        return
    if len(other) > len(ours):
        # It judges a length before the mask behind it is there; we see the same as soon as the header is whole.
        ours = codes(read(stream + bytes(14), **more))
    # Lengths in their shortest form, and UTF-8 in the middle of a message, are what we are stricter about.
    assert ours, other
    assert isinstance(ours[-1], Failure), (ours, other)
    assert ours[-1].code in (1002, 1007, 1008, 1009)
    assert other[: len(ours) - 1] == ours[:-1]

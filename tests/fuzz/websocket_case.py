"""What holds for the WebSocket protocol whatever bytes come: a case of the fuzzer, and of the test that replays it."""

from __future__ import annotations

import time

from offload.protocol.websocket.deflate import negotiate
from tests.protocol.frames import PING, agreement, check_not_laxer, codes, frame, read, theirs
from tests.protocol.test_websocket_properties import check_events

MAX_SIZE = 20_000
SLOW_SECONDS = 1.0
_PLAIN = agreement()


def check(data: bytes) -> None:
    """One case: its first byte says where it is cut, the others are what a client sends."""
    if len(data) < 2:
        return
    # With more behind it, so that whoever looks closer at a header that is not whole has no advantage.
    step, raw = data[0] or 1, _masked(data[1:]) + frame(PING) * 5
    began = time.process_time()
    cuts = range(step, len(raw), step)
    for deflate in (None, _PLAIN):
        events = read(raw, extension=deflate, max_size=MAX_SIZE)
        check_events(events)
        assert codes(read(raw, cuts, extension=deflate, max_size=MAX_SIZE)) == codes(events)
        assert codes(read(raw, cuts, extension=deflate, max_size=MAX_SIZE, is_lazy=True)) == codes(events)
        if deflate is None:
            check_not_laxer(raw, events, theirs(raw, max_size=MAX_SIZE), max_size=MAX_SIZE)
    try:
        negotiate([data])
    except ValueError:
        pass
    assert time.process_time() - began < SLOW_SECONDS, "too slow"


def _masked(data: bytes) -> bytes:
    """The same frames with every mask bit set: without, nearly every case would end at its second byte."""
    pieces, at = [], 0
    while at + 2 <= len(data):
        length = data[at + 1] & 0x7F
        wide = {126: 2, 127: 8}.get(length, 0)
        if wide:
            length = int.from_bytes(data[at + 2 : at + 2 + wide], "big")
        end = at + 6 + wide + length
        pieces.append(bytes((data[at], data[at + 1] | 0x80)) + data[at + 2 : end])
        at = end
    return b"".join(pieces) + data[at:]

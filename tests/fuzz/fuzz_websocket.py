"""Coverage-guided fuzzing of the WebSocket protocol: bytes in, and nothing but events or a close code out.

Run it by ``make fuzz``, or ``python -m tests.fuzz.fuzz_websocket -runs=1000000``. Each case is read whole and in
pieces, with and without compression; all must give the same, and the `websockets` library must agree with what is
accepted. The same bytes are tried as the fields of a handshake. New inputs go to ``build/fuzz/websocket``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["offload"]):
    import offload.protocol.websocket  # noqa: F401 -- for its coverage
    from offload.protocol.deflate import negotiate

from tests.protocol.frames import PING, agreement, check_not_laxer, close, codes, frame, message, read, theirs
from tests.protocol.test_websocket_properties import check_events

MAX_SIZE = 20_000
SLOW_SECONDS = 1.0
_FRESH = Path("build/fuzz/websocket")
_PLAIN = agreement()


def one_input(data: bytes) -> None:
    """One case: its first byte says where it is cut, the others are what a client sends."""
    if len(data) < 2:
        return
    # With more behind it, so that whoever looks closer at a header that is not whole has no advantage.
    step, raw = data[0] or 1, _masked(data[1:]) + frame(PING) * 5
    began = time.process_time()
    cuts = range(step, len(raw), step)
    for deflate in (None, _PLAIN):
        events = read(raw, deflate=deflate, max_size=MAX_SIZE)
        check_events(events)
        assert codes(read(raw, cuts, deflate=deflate, max_size=MAX_SIZE)) == codes(events)
        assert codes(read(raw, cuts, deflate=deflate, max_size=MAX_SIZE, is_lazy=True)) == codes(events)
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


def main() -> None:
    """Fuzz from frames of each kind."""
    _FRESH.mkdir(parents=True, exist_ok=True)
    seeds = Path("build/fuzz/websocket-samples")
    seeds.mkdir(parents=True, exist_ok=True)
    streams = [
        b"".join(message("text", (1, 2)) + message("€" * 50)),
        b"".join(message(b"binary" * 30, (), True) + message("compressed " * 40, (5, 9), True)),
        b"".join(message(b"x" * 300, (130,))) + frame(PING, b"ping") + close(1000, b"bye"),
        frame(PING, b"x" * 125) + close(),
        b"permessage-deflate; server_max_window_bits=9; client_max_window_bits, permessage-deflate",
    ]
    for number, stream in enumerate(streams):
        (seeds / str(number)).write_bytes(b"\x07" + stream)
    arguments = sys.argv[1:]
    if not any(argument.startswith("-merge") for argument in arguments):
        arguments += [str(_FRESH), str(seeds)]
    atheris.Setup([sys.argv[0], "-max_len=2048", "-timeout=10", "-artifact_prefix=build/fuzz/", *arguments], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

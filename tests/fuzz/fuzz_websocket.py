"""Coverage-guided fuzzing of the WebSocket protocol: bytes in, and nothing but events or a close code out.

Run it by ``make fuzz``, or ``python -m tests.fuzz.fuzz_websocket -runs=1000000``. Each case is read whole and in
pieces, with and without compression; all must give the same, and the `websockets` library must agree with what is
accepted. The same bytes are tried as the fields of a handshake. New inputs go to ``build/fuzz/websocket``;
``python -m tests.fuzz.fuzz_websocket -merge=1 tests/fuzz/corpus/websocket build/fuzz/websocket`` keeps those that reach
new code.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["offload"]):
    from tests.fuzz.websocket_case import check

from tests.protocol.frames import PING, close, frame, message

_CORPUS = Path(__file__).parent / "corpus" / "websocket"
_FRESH = Path("build/fuzz/websocket")


def main() -> None:
    """Fuzz from the kept corpus, and frames of each kind."""
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
    # What it calls itself by, in a shell, to merge.
    program = f"{sys.executable} -m tests.fuzz.fuzz_websocket"
    arguments = sys.argv[1:]
    if not any(argument.startswith("-merge") for argument in arguments):
        arguments += [str(_FRESH), str(_CORPUS), str(seeds)]
    atheris.Setup([program, "-max_len=2048", "-timeout=10", "-artifact_prefix=build/fuzz/", *arguments], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

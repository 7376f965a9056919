"""Coverage-guided fuzzing of the HTTP protocol: bytes in, and nothing but requests or an `HttpError` out.

Run it by ``make fuzz``, or ``python -m tests.fuzz.fuzz_http -runs=1000000``. Each case is read whole and in pieces;
both must give the same, h11 must agree with what is accepted, and nothing may be kept beyond the limits. New inputs go
to ``build/fuzz/http``; ``python -m tests.fuzz.fuzz_http -merge=1 tests/fuzz/corpus/http build/fuzz/http`` keeps those
that reach new code.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["offload"]):
    from offload.protocol.body import MAX_TRAILER_BYTES
    from offload.protocol.request import HttpLimits

from tests.protocol.oracle import by_h11, by_us
from tests.protocol.reading import Reading
from tests.protocol.samples import samples

LIMITS = HttpLimits(line_bytes=200, fields=10, field_bytes=200, head_bytes=1000, body_bytes=5000)
SLOW_SECONDS = 1.0
_CORPUS = Path(__file__).parent / "corpus" / "http"
_FRESH = Path("build/fuzz/http")


def one_input(data: bytes) -> None:
    """One case: its first byte says where it is cut, the others are what a client sends."""
    if len(data) < 2:
        return
    raw = data[1:]
    # A hundred pieces at most: the work for single bytes is the square of their number.
    step = max(data[0], len(raw) // 100, 1)
    began = time.perf_counter()
    whole = Reading([raw], LIMITS)
    split = Reading([raw[at : at + step] for at in range(0, len(raw), step)], LIMITS)
    assert time.perf_counter() - began < SLOW_SECONDS, "too slow"
    assert _outline(whole) == _outline(split)
    for reading in (whole, split):
        assert reading.error is not None or len(reading.rest) <= max(LIMITS.head_bytes, MAX_TRAILER_BYTES)
        assert all(len(body) <= 5000 for _, body in reading.requests)
    ours = by_us(raw)
    if ours is not None:
        assert by_h11(raw) == ours


def _outline(reading: Reading) -> object:
    status = reading.error.status if reading.error is not None else None
    if status in (414, 431):
        # Of something that is both too large and wrong, what is seen first depends on how it arrives.
        status = 400
    return [(request.method, request.target, request.headers, body) for request, body in reading.requests], status


def main() -> None:
    """Fuzz from the kept corpus and the wire samples."""
    _FRESH.mkdir(parents=True, exist_ok=True)
    seeds = Path("build/fuzz/http-samples")
    seeds.mkdir(parents=True, exist_ok=True)
    for kind in ("valid", "invalid"):
        for sample in samples(kind):
            (seeds / f"{kind}-{sample.name}").write_bytes(b"\x10" + sample.raw)
    arguments = sys.argv[1:]
    if not any(argument.startswith("-merge") for argument in arguments):
        arguments += [str(_FRESH), str(_CORPUS), str(seeds)]
    atheris.Setup([sys.argv[0], "-max_len=4096", "-timeout=10", "-artifact_prefix=build/fuzz/", *arguments], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

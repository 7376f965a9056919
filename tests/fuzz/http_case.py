"""What holds for the HTTP protocol whatever bytes come: one case of the fuzzer, and of the test that replays it."""

from __future__ import annotations

import time

from offload.protocol.http.body import MAX_TRAILER_BYTES
from offload.settings import HttpOptions
from tests.protocol.oracle import by_h11, by_us
from tests.protocol.reading import Reading

LIMITS = HttpOptions(
    limit_request_line=200,
    limit_request_fields=10,
    limit_request_field_size=200,
    limit_request_head=1000,
    limit_request_body=5000,
)
SLOW_SECONDS = 1.0


def check(data: bytes) -> None:
    """One case: its first byte says where it is cut, the others are what a client sends."""
    if len(data) < 2:
        return
    raw = data[1:]
    # A hundred pieces at most: the work for single bytes is the square of their number.
    step = max(data[0], len(raw) // 100, 1)
    began = time.process_time()
    whole = Reading([raw], LIMITS)
    split = Reading([raw[at : at + step] for at in range(0, len(raw), step)], LIMITS)
    assert time.process_time() - began < SLOW_SECONDS, "too slow"
    assert _outline(whole) == _outline(split)
    for reading in (whole, split):
        assert reading.error is not None or len(reading.rest) <= max(LIMITS.limit_request_head, MAX_TRAILER_BYTES)
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

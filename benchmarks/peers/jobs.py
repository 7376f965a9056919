"""P9: how many messages there are, and the count that every consumer keeps. The last one writes the rate to Redis."""

from __future__ import annotations

import itertools
import os
import time

import redis

TOTAL = 10_000
WARM = 1_000
"""So many go by before the time is taken."""
TEXT = "x" * 64
RATE_KEY = "benchmark:rate"

_numbers = itertools.count(1)
_began = 0.0


def count(text: str) -> None:
    global _began
    if text != TEXT:
        raise ValueError(f"a message of {len(text)} characters, expected {len(TEXT)}")
    number = next(_numbers)
    if number == WARM:
        _began = time.monotonic()
    elif number == TOTAL:
        rate = (TOTAL - WARM) / (time.monotonic() - _began)
        redis.Redis.from_url(os.environ["BENCHMARK_REDIS"]).set(RATE_KEY, rate)

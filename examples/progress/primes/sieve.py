"""The sieve of Eratosthenes, a part of the numbers at a time."""

import math
from collections.abc import Iterator

PARTS = 100


def count_primes(limit: int) -> Iterator[int]:
    """How many primes have been found below `limit`, after each of `PARTS` parts."""
    factors = _primes(math.isqrt(limit) + 1)
    found = 0
    for part in range(PARTS):
        first, end = limit * part // PARTS, limit * (part + 1) // PARTS
        sieve = bytearray(b"\1") * (end - first)
        for number in range(first, min(2, end)):
            sieve[number] = 0  # 0 and 1 are no primes
        for factor in factors:
            if factor * factor >= end:
                break
            start = max(factor * factor, -(-first // factor) * factor)
            sieve[start - first :: factor] = bytes(len(range(start, end, factor)))
        found += sieve.count(1)
        yield found


def _primes(limit: int) -> list[int]:
    sieve = bytearray(b"\1") * limit
    sieve[:2] = bytes(min(2, limit))
    for number in range(2, math.isqrt(limit) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, limit, number)))
    return [number for number in range(limit) if sieve[number]]

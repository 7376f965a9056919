"""Wire samples: what clients send, as files, each with what a strict server makes of it.

A sample is ``requests/{valid,invalid}/NAME.http``: a line ``# why``, a line of JSON, a line ``---``, and then the bytes
as they are. For a valid sample the JSON has ``requests``, each with what is to be compared (``method``, ``target``,
``body`` and any attribute of `Request`); for an invalid one the ``status`` of the refusal, and how many requests are
``served`` before it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "requests"


@dataclass(frozen=True)
class Sample:
    """One file."""

    name: str
    expected: dict[str, Any]
    raw: bytes


def samples(kind: str) -> list[Sample]:
    """All samples of a kind, "valid" or "invalid"."""
    found = []
    for path in sorted((DIRECTORY / kind).glob("*.http")):
        why, expected, rest = path.read_bytes().split(b"\n", 2)
        separator, raw = rest.split(b"\n", 1)
        assert why.startswith(b"# ")
        assert separator == b"---"
        found.append(Sample(path.stem, json.loads(expected), raw))
    return found


def ways(raw: bytes, seed: str) -> Iterator[tuple[str, list[bytes]]]:
    """The ways in which the same bytes may arrive, each with its name."""
    yield "whole", [raw]
    yield "lines", raw.splitlines(keepends=True)
    yield "bytes", [raw[at : at + 1] for at in range(len(raw))]
    for number in range(3):
        yield f"splits {number}", random_splits(raw, random.Random(f"{seed} {number}"))


def random_splits(raw: bytes, chance: random.Random) -> list[bytes]:
    """The bytes cut at random places; the same for the same seed."""
    places = sorted(chance.sample(range(1, len(raw)), min(len(raw) - 1, chance.randint(1, 12))))
    return [raw[begin:end] for begin, end in zip([0, *places], [*places, len(raw)], strict=True)]

"""The wire samples over the protocol alone, however they arrive."""

from __future__ import annotations

import pytest

from offload.protocol.http.request import Request
from tests.protocol.reading import Reading
from tests.protocol.samples import Sample, samples, ways

VALID, INVALID = samples("valid"), samples("invalid")


def _attribute(request: Request, body: bytes, name: str) -> object:
    if name == "body":
        return body.decode("latin-1")
    if name == "headers":
        return [[key.decode("latin-1"), value.decode("latin-1")] for key, value in request.headers]
    value = getattr(request, name)
    return value.decode("latin-1") if isinstance(value, bytes) else value


def test_there_are_enough_samples() -> None:
    assert len(VALID) >= 60
    assert len(INVALID) >= 80


@pytest.mark.parametrize("sample", VALID, ids=lambda sample: sample.name)
def test_valid_sample_is_read_in_every_way(sample: Sample) -> None:
    for way, pieces in ways(sample.raw, sample.name):
        reading = Reading(pieces)
        assert reading.error is None, (way, reading.error)
        assert not reading.begun, way
        assert reading.rest == b"", way
        seen = [
            {name: _attribute(request, body, name) for name in expected}
            for (request, body), expected in zip(reading.requests, sample.expected["requests"], strict=True)
        ]
        assert seen == sample.expected["requests"], way


@pytest.mark.parametrize("sample", INVALID, ids=lambda sample: sample.name)
def test_invalid_sample_is_refused_in_every_way(sample: Sample) -> None:
    for way, pieces in ways(sample.raw, sample.name):
        reading = Reading(pieces)
        assert reading.error is not None, way
        assert reading.error.status == sample.expected["status"], (way, reading.error)
        assert len(reading.requests) == sample.expected.get("served", 0), way
        # What is said goes to the client and into the log: it is one line, and none of the client's words.
        assert str(reading.error).isprintable(), way

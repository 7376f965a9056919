"""The wire samples over a real socket, however they arrive."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest

from tests.http.client import Answer, Client
from tests.protocol.samples import Sample, samples, ways
from tests.serving import Server

VALID, INVALID = samples("valid"), samples("invalid")
_MAX_PIECES = 400


def _send(client: Client, pieces: list[bytes]) -> None:
    # The server may have answered and closed before the last piece.
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for piece in pieces:
            client.send(piece)


def _told(answer: Answer) -> dict[str, object]:
    assert answer.status == 200
    environ = json.loads(answer.body)
    told = {"method": environ["REQUEST_METHOD"], "target": environ["RAW_URI"], "body": environ["body"]}
    return {**told, "query": environ["QUERY_STRING"], "host": environ.get("HTTP_HOST")}


@pytest.mark.parametrize("sample", VALID, ids=lambda sample: sample.name)
def test_valid_sample_is_answered_in_every_way(server: Server, sample: Sample) -> None:
    for way, pieces in ways(sample.raw, sample.name):
        if len(pieces) > _MAX_PIECES:
            continue
        with Client(server) as client:
            _send(client, pieces)
            for expected in sample.expected["requests"]:
                if expected["method"] == "HEAD":
                    assert client.read("HEAD").status == 200, way
                    continue
                answer = client.read()
                told = _told(answer)
                assert {name: told[name] for name in told if name in expected} == {
                    name: value for name, value in expected.items() if name in told
                }, way
                if "keep_alive" in expected:
                    assert (answer.headers.get("connection") != "close") == expected["keep_alive"], way
            client.sock.shutdown(socket.SHUT_WR)
            assert client.rest() == b"", way


@pytest.mark.parametrize("sample", INVALID, ids=lambda sample: sample.name)
def test_invalid_sample_is_refused_in_every_way(server: Server, sample: Sample) -> None:
    for way, pieces in ways(sample.raw, sample.name):
        if len(pieces) > _MAX_PIECES:
            continue
        with Client(server) as client:
            _send(client, pieces)
            for _ in range(sample.expected.get("served", 0)):
                assert client.read().status == 200, way
            answer = client.read()
            assert answer.status == sample.expected["status"], way
            assert answer.headers["connection"] == "close", way
            assert answer.whole, way
            # The server ends the connection, and nothing that follows is taken for a request.
            assert client.rest() == b"", way

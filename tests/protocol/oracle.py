"""The first request in some bytes, as h11 reads it and as we do."""

from __future__ import annotations

from typing import NamedTuple

import h11

from offload.settings import HttpOptions
from tests.protocol.reading import Reading


class Seen(NamedTuple):
    """What was read of a first request."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


def by_h11(raw: bytes) -> Seen | None:
    """The first request as h11 reads it, None when it refuses it or finds it unfinished."""
    if raw.startswith(b"\r\n"):
        # h11 overlooks no empty line in front.
        raw = raw[2:]
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(raw)
    request: h11.Request | None = None
    body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                return Seen(request.method, request.target, list(request.headers), body)
            else:
                return None
    except h11.RemoteProtocolError:
        return None


def by_us(raw: bytes) -> Seen | None:
    """The first request as we read it, without limits to speak of."""
    reading = Reading(
        [raw], HttpOptions(limit_request_line=1 << 20, limit_request_field_size=1 << 20, limit_request_head=1 << 20)
    )
    if not reading.requests:
        return None
    request, body = reading.requests[0]
    # h11 tells the coding in lower case.
    headers = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in request.headers]
    return Seen(request.method.encode(), request.target, headers, body)

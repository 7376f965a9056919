"""Feeding the HTTP protocol as a connection does, and noting what comes out."""

from __future__ import annotations

from collections.abc import Iterable

from offload.protocol.http.connection import END, Event, HttpProtocol, Received
from offload.protocol.http.request import HttpError, Request
from offload.settings import HttpOptions


class Reading:
    """What a protocol made of some bytes.

    Attributes:
        requests: ``(request, body)`` of the whole requests.
        begun: whether a further request had a head but no end.
        error: what was refused, or None.
        rest: bytes of a head that is not whole.
    """

    def __init__(self, pieces: Iterable[bytes], limits: HttpOptions | None = None) -> None:
        self.protocol = HttpProtocol(limits or HttpOptions())
        self.requests: list[tuple[Request, bytes]] = []
        self.error: HttpError | None = None
        self._request: Request | None = None
        self._body: list[bytes] = []
        try:
            for piece in pieces:
                self._note(self.protocol.receive(piece))
        except HttpError as error:
            self.error = error

    @property
    def begun(self) -> bool:
        return self._request is not None

    @property
    def rest(self) -> bytes:
        return self.protocol.rest

    def _note(self, received: Received) -> None:
        while events := [received, END] if isinstance(received, Request) else received:
            last: Event | None = None
            for event in events:
                last = event
                if isinstance(event, Request):
                    assert self._request is None
                    self._request = event
                elif isinstance(event, bytes):
                    assert self._request is not None
                    assert event
                    self._body.append(event)
                else:
                    assert self._request is not None
                    self.requests.append((self._request, b"".join(self._body)))
                    self._request, self._body = None, []
            # As a connection that has answered at once.
            received = self.protocol.next_request() if last is END else []

"""`Counters`: an observer that counts, in plain numbers for whoever shows them."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from offload.observe.observer import Answer, Environ, Observer, WebSocketEvent


class Counters(Observer):
    """Counts since the process began."""

    __slots__ = ("_body_bytes", "_refused", "_requests", "_seconds", "_websocket")

    def __init__(self) -> None:
        self._requests = 0
        self._body_bytes = 0
        self._seconds = 0.0
        self._refused: Counter[int] = Counter()
        self._websocket: dict[str, int] = dict.fromkeys(get_args(WebSocketEvent), 0)

    def request(self, environ: Environ, peer: object, answer: Answer, seconds: float) -> None:
        """See `Observer`."""
        self._requests += 1
        self._body_bytes += answer.body_bytes
        self._seconds += seconds

    def refusal(self, environ: Environ | None, peer: object, status: int) -> None:
        """See `Observer`."""
        self._refused[status] += 1

    def websocket(self, event: WebSocketEvent, number: int = 1) -> None:
        """See `Observer`."""
        self._websocket[event] += number

    def statistics(self) -> dict[str, float]:
        """The counts by name; `docs/reference/statistics.md` says what each means."""
        return {
            "http.requests": self._requests,
            "http.bytes": self._body_bytes,
            "http.seconds": self._seconds,
            "http.refused": self._refused.total(),
            **{f"http.refused.{status}": number for status, number in sorted(self._refused.items())},
            **{f"websocket.{event}": number for event, number in self._websocket.items()},
        }

"""`Observer`: the methods that a server process calls as things happen, each of which does nothing.

A subclass overrides those that it wants to hear of. All are called in the loop's thread, in the loop or a greenlet;
they must not wait, and must not raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

Environ = dict[str, Any]

WebSocketEvent = Literal[
    "opened",
    "denied",
    "failed_handshakes",
    "bad_handshakes",
    "wrong_origins",
    "too_many_handshakes",
    "too_many_per_address",
    "broken",
    "too_big",
    "too_many_frames",
    "too_fast",
    "too_slow",
    "dropped_oldest",
    "dropped_newest",
    "silent",
    "unanswered_closes",
]
"""What is counted of WebSockets; `docs/reference/statistics.md` says what each means."""


class Answer(Protocol):
    """What is known of an answer; `offload.http.response.Response` is one."""

    @property
    def status(self) -> str:
        """``200 OK``, or the code alone."""

    @property
    def body_bytes(self) -> int:
        """Bytes of body sent."""

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The application's fields."""


class Observer:
    """Hears what happens in a server process."""

    __slots__ = ()

    def request(self, environ: Environ, peer: object, answer: Answer, seconds: float) -> None:
        """The application's answer to a request has been sent, as far as its client took it.

        Args:
            environ: the request's.
            peer: the client's address, as the socket module gives it.
            answer: what was sent.
            seconds: since a greenlet took the request.
        """

    def refusal(self, environ: Environ | None, peer: object, status: int) -> None:
        """The server itself has answered a request that it could not read, as a whole or while the application read it.

        Args:
            environ: the request's; None where it could not be read.
            peer: as for `request`.
            status: of the answer.
        """

    def handshake(self, environ: Environ | None, peer: object, status: int) -> None:
        """A WebSocket's handshake has been answered, as its consumer or the server decided; as for `refusal`."""

    def websocket(self, event: WebSocketEvent, number: int = 1) -> None:
        """Something happened to `number` WebSockets, or messages of one."""


class Observers(Observer):
    """Tells several observers.

    Args:
        observers: in the order in which they are told.
    """

    __slots__ = ("_observers",)

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def request(self, environ: Environ, peer: object, answer: Answer, seconds: float) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.request(environ, peer, answer, seconds)

    def refusal(self, environ: Environ | None, peer: object, status: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.refusal(environ, peer, status)

    def handshake(self, environ: Environ | None, peer: object, status: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.handshake(environ, peer, status)

    def websocket(self, event: WebSocketEvent, number: int = 1) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.websocket(event, number)

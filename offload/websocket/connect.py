"""The handshake of one routed WebSocket: from the upgrade request to the connect consumer's decision.

Its own words decide, at once: data or an acceptance opens the WebSocket, a close or a denial refuses it. What others
send meanwhile waits for the decision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from greenlet import getcurrent, greenlet

from offload.exceptions import DenyConnection, LayerUnavailable, WorkersUnavailable
from offload.http.environ import Environ, request_content
from offload.interfaces import DECIDES_KEY, Content, Delivery
from offload.observe.log_lines import SafeLogger, address_text
from offload.protocol.http.request import Request
from offload.protocol.http.response_head import last_answer, plain_answer
from offload.protocol.websocket.frames import INTERNAL_ERROR, NORMAL, TRY_AGAIN_LATER
from offload.protocol.websocket.handshake import Handshake
from offload.websocket.connection import WebSocketConnection
from offload.websocket.encode import Reply
from offload.websocket.routed import RoutedReceiver

log = SafeLogger("offload.websocket")

_REFUSALS = {
    403: "the WebSocket was refused",
    500: "the server failed to open the WebSocket",
    503: "the server cannot open WebSockets now",
}
_CLOSES = {403: NORMAL, 500: INTERNAL_ERROR, 503: TRY_AGAIN_LATER}
"""The same, for a consumer that had accepted by hand."""
_DENIED = "its connect consumer refused it"
_SILENT = "no connect consumer accepted it (--accept explicit)"


class _Outcome(Enum):
    ACCEPTED = "answered with 101"
    REFUSED = "answered with another status, or nobody is there to be answered"
    LOST = "the client left while the consumer ran, or the server did not let it wait any longer"


_MAX_EARLY_BYTES = 65536


def connect_content(request: Request, environ: Environ, fields: list[list[bytes]]) -> Content:
    """The connect message of a handshake, without its reply channel; `fields` are the header fields it has."""
    scheme = "wss" if environ["wsgi.url_scheme"] == "https" else "ws"
    return {**request_content(request, environ, fields), "scheme": scheme, "order": 0}


@dataclass(slots=True, eq=False)
class PendingHandshake:
    """What there is only until the connect consumer has returned; until its decision it hears the connection.

    Args:
        receiver: whose handshake it is.
        handshake: the checked request.
        client: the client's address, as the connect message has it.
        early: what the client sent behind it.
        answered: called with the status of the answer.
    """

    _receiver: RoutedReceiver
    _handshake: Handshake
    _client: object
    _early: bytes
    _answered: Callable[[int], None]
    _websocket: WebSocketConnection = field(init=False)
    # Header lines that the consumers have for the answer.
    _fields: bytes = b""
    _held: list[Delivery] = field(default_factory=list)
    _outcome: _Outcome | None = None
    # What it is to be closed with when it is accepted.
    _leaving: int | None = None
    # The greenlet of the connect consumer, by which its own words are known.
    _decider: greenlet | None = None
    # Whether the connect consumer was asked, so that the disconnect consumer is due unless it refuses.
    _has_begun: bool = False

    def __post_init__(self) -> None:
        self._websocket = self._receiver.websocket
        self._websocket.handshake = self
        self._websocket.connection.handler = self

    # Called by the connection, in the loop.

    def data_received(self, data: bytes) -> None:
        """Frames ahead of the answer: they wait for it."""
        self._early += data
        if len(self._early) > _MAX_EARLY_BYTES:
            self._websocket.connection.pause_reading()

    def eof_received(self) -> None:
        """The client will send nothing more, not even a close frame."""
        self._websocket.connection.abort()

    def connection_lost(self) -> None:
        """The client is gone."""
        if self._outcome is None:
            self._decide(_Outcome.LOST if self._has_begun else _Outcome.REFUSED)
        if not self._has_begun:
            self._websocket.protocol.abandon()
        self._websocket.connection_lost()

    # Called by the server, in the loop.

    def close(self, code: int) -> None:
        """The process is about to stop. The consumer decides first, since one that has run, and has not refused, is to
        be followed by the disconnect consumer."""
        self._leaving = code

    def abort(self) -> None:
        """The client need not wait any longer, whatever the consumer decides."""
        self._answer(503, _Outcome.LOST if self._has_begun else _Outcome.REFUSED)

    # The decision, in a greenlet of the pool.

    def run(self, content: Content) -> None:
        """Run the connect consumer, in a greenlet of the pool, and do as it decides."""
        receiver = self._receiver
        if self._outcome is not None:
            # Refused before it began.
            receiver.forget()
            return
        self._has_begun = True
        self._decider = getcurrent()
        status: int | None = 500
        reason = ""
        try:
            status, reason = self._connect(content)
        finally:
            self._decider = None
            if status is None and receiver.server.accepts_by_returning:
                self._accept(None)
            elif self._outcome is _Outcome.ACCEPTED:
                # By hand; and then the consumer may have failed.
                if status is not None:
                    self._websocket.close(_CLOSES[status])
            else:
                self._refuse(status or 403, reason)
            if self._outcome is _Outcome.REFUSED:
                # No message came, and no disconnect is due.
                receiver.forget()
                receiver.consumers.end()
            else:
                receiver.consume_next()

    def _connect(self, content: Content) -> tuple[int | None, str]:
        """Run the connect consumer. Returns the status to refuse with, or None; and the reason for the log."""
        receiver = self._receiver
        try:
            receiver.attach()
        except Exception:
            log.exception("the handshake at %s failed", ascii(receiver.path))
            return 503, ""
        try:
            receiver.consumers.connect(content)
        except DenyConnection as error:
            # Without what could end the line.
            return 403, repr(str(error))[1:-1] or _DENIED
        except (LayerUnavailable, WorkersUnavailable) as error:
            log.error("the handshake at %s failed: %s", ascii(receiver.path), error)
            return 503, ""
        except Exception:  # noqa: BLE001 -- the consumers have put it into the log, with its traceback
            return 500, ""
        return None, _SILENT

    def _decide(self, outcome: _Outcome) -> None:
        self._outcome = outcome
        self._websocket.handshake = None
        self._receiver.server.connection_limit.decided()

    def _accept(self, subprotocol: str | None, first: Delivery | None = None) -> None:
        if self._outcome is not None:
            return
        handshake, receiver, websocket = self._handshake, self._receiver, self._websocket
        try:
            answer = handshake.answer(subprotocol, self._fields)
        except ValueError as error:
            log.error("the handshake at %s goes on without a subprotocol: %s", ascii(receiver.path), error)
            answer = handshake.answer(fields=self._fields)
        self._decide(_Outcome.ACCEPTED)
        self._answered(101)
        websocket.open(handshake.extension, answer)
        for delivery in self._held:
            receiver.deliver_here(delivery)
        websocket.connection.resume_reading()
        if self._early:
            websocket.data_received(self._early)
        if first is not None:
            receiver.deliver_here(first)
        if self._leaving is not None:
            websocket.close(self._leaving)

    def _refuse(self, status: int, reason: str = "", reply: Reply | None = None) -> None:
        """Refuse, unless the handshake is decided.

        Args:
            status: 403, 500 or 503, where the reply has none.
            reason: for the log; "" where that has it already.
            reply: the consumer's, which may bring an answer of its own.
        """
        if self._outcome is _Outcome.LOST:
            self._outcome = _Outcome.REFUSED
        elif self._outcome is None:
            self._answer(status, _Outcome.REFUSED, reason, reply)

    def _answer(self, status: int, outcome: _Outcome, reason: str = "", reply: Reply | None = None) -> None:
        self._decide(outcome)
        receiver = self._receiver
        server = receiver.server
        if reply is not None and reply.status is not None:
            status = reply.status
        server.refused(status, receiver.path, address_text(self._client), reason)
        self._answered(status)
        self._websocket.connection.handler = self._websocket
        date = server.date()
        if reply is None or reply.body is None:
            answer = plain_answer(status, _REFUSALS.get(status, _REFUSALS[403]), date, self._fields)
        else:
            answer = last_answer(status, reply.body, date, self._fields)
        self._websocket.refuse(answer)
        if outcome is _Outcome.LOST:
            receiver.ended()

    def deliver(self, delivery: Delivery, reply: bytes | Reply) -> None:
        """Something is sent to the client. ``accept`` decides whoever says it, since it means nothing else."""
        is_own = self._is_own(delivery)
        if not isinstance(reply, Reply):
            # A small message's frame; here it matters whether there is one.
            reply = Reply(reply or None, None)
        is_data, closes = reply.has_data, reply.close is not None
        if reply.fields and (is_own or reply.accept is not None):
            self._fields = reply.fields
        if reply.accept is False or (is_own and closes and not is_data and not reply.accept):
            self._refuse(403, _DENIED if reply.status is None else f"it was answered with {reply.status}", reply)
        elif reply.accept or (is_own and is_data):
            self._accept(reply.subprotocol, delivery)
        elif is_own or not (is_data or closes):
            # Nothing that decides, and nothing to send.
            return
        elif len(self._held) < self._receiver.server.options.queue:
            self._held.append(delivery)
        else:
            log.warning("a message for %s was dropped: its handshake takes too long", address_text(self._client))

    def misspoken(self, delivery: Delivery) -> None:
        """A reply was no reply. If the connect consumer meant to refuse by it, accepting would let the client in."""
        if self._is_own(delivery):
            self._refuse(500)

    def _is_own(self, delivery: Delivery) -> bool:
        """Whether the connect consumer says it: in the greenlet that runs it, or in a worker, which marks it."""
        return getcurrent() is self._decider or delivery.content.get(DECIDES_KEY) is True

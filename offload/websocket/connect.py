"""The opening of one routed WebSocket: from the upgrade request to what the connect consumer decides.

Its own words decide, at once: data or an acceptance opens the WebSocket, a close or a denial refuses it. What others
send meanwhile waits for the decision.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from greenlet import getcurrent, greenlet

from offload.exceptions import DenyConnection, LayerUnavailable, WorkersUnavailable
from offload.interfaces import DECIDES_KEY, Content, Delivery, WebSocketConsumers
from offload.protocol.http.response_head import last_answer, plain_answer
from offload.protocol.websocket.connection import INTERNAL_ERROR, NORMAL, TRY_AGAIN_LATER
from offload.protocol.websocket.handshake import Handshake
from offload.websocket.reply import Reply

if TYPE_CHECKING:
    from offload.websocket.routed import WebSocketHandler

log = logging.getLogger("offload.websocket")

Answered = Callable[[int], None]

_REFUSALS = {
    403: "the WebSocket was refused",
    500: "the server failed to open the WebSocket",
    503: "the server cannot open WebSockets now",
}
_CLOSES = {403: NORMAL, 500: INTERNAL_ERROR, 503: TRY_AGAIN_LATER}
"""The same, for a consumer that had accepted by hand."""


class _Outcome(Enum):
    ACCEPTED = "answered with 101"
    REFUSED = "answered with another status, or nobody is there to be answered"
    LOST = "the client left while the consumer ran, or was not let wait any longer"


_MAX_EARLY_BYTES = 65536


class Opening:
    """What there is only until the connect consumer has returned; until its decision it hears the connection.

    Args:
        handler: whose opening it is.
        consumers: its consumers.
        handshake: the checked request.
        early: what the client sent behind it.
        answered: called with the status of the answer.

    Attributes:
        has_begun: whether the connect consumer was asked.
    """

    __slots__ = (
        "_answered",
        "_consumers",
        "_decider",
        "_early",
        "_fields",
        "_handler",
        "_handshake",
        "_held",
        "_leaving",
        "_outcome",
        "has_begun",
    )

    def __init__(
        self,
        handler: WebSocketHandler,
        consumers: WebSocketConsumers,
        handshake: Handshake,
        early: bytes,
        answered: Answered | None,
    ) -> None:
        self._handler = handler
        self._consumers = consumers
        self._handshake = handshake
        # Header lines that the consumers have for the answer.
        self._fields = b""
        self._held: list[Delivery] = []
        self._outcome: _Outcome | None = None
        # What it is to be closed with when it is accepted.
        self._leaving: int | None = None
        # The greenlet of the connect consumer, by which its own words are known.
        self._decider: greenlet | None = None
        self._early = early
        self.has_begun = False
        self._answered = answered

    # Called by the connection, in the loop.

    def data_received(self, data: bytes) -> None:
        """Frames ahead of the answer: they wait for it."""
        self._early += data
        if len(self._early) > _MAX_EARLY_BYTES:
            self._handler.connection.pause_reading()

    def eof_received(self) -> None:
        """The client will send nothing more, not even a close frame."""
        self._handler.connection.abort()

    def connection_lost(self) -> None:
        """The client is gone."""
        if self._outcome is None:
            self._decide(_Outcome.LOST if self.has_begun else _Outcome.REFUSED)
        self._handler.lost(self.has_begun)

    # Called by the gateway, in the loop.

    def close(self, code: int) -> None:
        """The process is about to stop. The consumer decides first, since one that has run, and has not refused, is to
        be followed by the disconnect consumer."""
        self._leaving = code

    def cut_off(self) -> None:
        """The client need not wait any longer, whatever the consumer decides."""
        self._answer(503, _Outcome.LOST if self.has_begun else _Outcome.REFUSED)

    # The decision, in a greenlet of the pool.

    def run(self, content: Content) -> None:
        """Run the connect consumer, in a greenlet of the pool, and do as it decides."""
        handler = self._handler
        self.has_begun = True
        self._decider = getcurrent()
        status: int | None = 500
        try:
            status = self._connect(content)
        finally:
            self._decider = None
            if status is None:
                self._accept(None)
            elif self._outcome is _Outcome.ACCEPTED:
                # By hand, before the consumer failed.
                handler.close(_CLOSES[status])
            else:
                self.refuse(status)
            if self._outcome is _Outcome.REFUSED:
                # No message came, and no disconnect is due.
                handler.forget()
                self._consumers.end()
            else:
                handler.consume_next()

    def _connect(self, content: Content) -> int | None:
        """Run the connect consumer. Returns the status to refuse with, or None."""
        handler = self._handler
        try:
            handler.gateway.layer.attach(handler.reply_channel, handler.deliver)
        except Exception:
            log.exception("the handshake at %s failed", ascii(handler.path))
            return 503
        try:
            self._consumers.connect(content)
        except DenyConnection:
            return 403
        except (LayerUnavailable, WorkersUnavailable) as error:
            log.error("the handshake at %s failed: %s", ascii(handler.path), error)
            return 503
        except Exception:  # noqa: BLE001 -- the consumers have put it into the log, with its traceback
            return 500
        return None

    def _decide(self, outcome: _Outcome) -> None:
        self._outcome = outcome
        self._handler.gateway.admission.decided()

    def _accept(self, subprotocol: str | None, first: Delivery | None = None) -> None:
        if self._outcome is not None:
            return
        handshake, handler = self._handshake, self._handler
        try:
            answer = handshake.answer(subprotocol, self._fields)
        except ValueError as error:
            log.error("the handshake at %s goes on without a subprotocol: %s", ascii(handler.path), error)
            answer = handshake.answer(fields=self._fields)
        self._decide(_Outcome.ACCEPTED)
        if self._answered is not None:
            self._answered(101)
        handler.opened(answer, self._held, self._early)
        if first is not None:
            handler.deliver_here(first)
        if self._leaving is not None:
            handler.close(self._leaving)

    def refuse(self, status: int, reply: Reply | None = None) -> None:
        """Refuse, unless the handshake is decided.

        Args:
            status: 403, 500 or 503, where the reply has none.
            reply: the consumer's, which may bring an answer of its own.
        """
        if self._outcome is _Outcome.LOST:
            self._outcome = _Outcome.REFUSED
        elif self._outcome is None:
            self._answer(status, _Outcome.REFUSED, reply)

    def _answer(self, status: int, outcome: _Outcome, reply: Reply | None = None) -> None:
        self._decide(outcome)
        handler = self._handler
        gateway = handler.gateway
        if reply is not None and reply.status is not None:
            status = reply.status
        if status < 500:
            gateway.counters.denied += 1
        else:
            gateway.counters.failed_handshakes += 1
        if self._answered is not None:
            self._answered(status)
        date = gateway.date().encode("ascii")
        if reply is None or reply.body is None:
            answer = plain_answer(status, _REFUSALS.get(status, _REFUSALS[403]), date, self._fields)
        else:
            answer = last_answer(status, reply.body, date, self._fields)
        handler.refused(answer, is_known=outcome is _Outcome.LOST)

    def deliver(self, delivery: Delivery, reply: bytes | Reply) -> None:
        """Something is sent to the client. ``accept`` decides whoever says it, since it means nothing else."""
        is_own, whole = self._is_own(delivery), None
        if isinstance(reply, Reply):
            whole = reply
            is_data, accept, subprotocol, closes = (
                reply.has_data,
                reply.accept,
                reply.subprotocol,
                reply.close is not None,
            )
        else:
            is_data, accept, subprotocol, closes = bool(reply), None, None, False
        if whole is not None and whole.fields and (is_own or accept is not None):
            self._fields = whole.fields
        if accept is False or (is_own and closes and not is_data and not accept):
            self.refuse(403, whole)
        elif accept or (is_own and is_data):
            self._accept(subprotocol, delivery)
        elif is_own or not (is_data or closes):
            # Nothing that decides, and nothing to send.
            return
        elif len(self._held) < self._handler.gateway.queue:
            self._held.append(delivery)
        else:
            log.warning("a message for %s was dropped: its handshake takes too long", self._handler.peer)

    def misspoken(self, delivery: Delivery) -> None:
        """A reply was no reply. If the connect consumer meant to refuse by it, accepting would let the client in."""
        if self._is_own(delivery):
            self.refuse(500)

    def _is_own(self, delivery: Delivery) -> bool:
        """Whether the connect consumer says it: in the greenlet that runs it, or in a worker, which says so."""
        return getcurrent() is self._decider or delivery.content.get(DECIDES_KEY) is True

"""Requests that consumers answer by messages: a routed path's request is a message on ``http.request``, and everybody
may answer it on the message's reply channel, at any later time.

A request takes a greenlet while its body arrives, while its consumer runs, and while a piece of its answer is sent;
none while it waits. The forms are those of ASGI 1.
"""

from __future__ import annotations

import time
from _thread import get_native_id
from collections import deque
from dataclasses import dataclass, field
from typing import IO

import gevent

from offload.exceptions import ChannelFull, LayerUnavailable, MessageTooLarge, OffloadError
from offload.http.environ import Environ, request_content
from offload.http.response import ClientGone, Response
from offload.http.server import ServedConnection
from offload.http.wsgi_input import BodyError
from offload.interfaces import Content, Delivery, HttpConsumers, HttpRouting, Layer
from offload.observe.log_lines import SafeLogger, path_text
from offload.protocol.http.request import Request
from offload.protocol.http.response_head import phrase, text_pair
from offload.transport.pool import Pool

log = SafeLogger("offload.http")

REPLY_PREFIX, BODY_PREFIX = "http.response", "http.request.body?"
BODY_BYTES = 262144
"""A body up to this size is in the message; what is beyond goes through a channel of its own."""
_PIECE_BYTES = 65536
MAX_WAITING_BYTES = 67108864
"""Of an answer that comes faster than its client takes it; past it the connection ends."""
_PAUSE_SECONDS = 0.05
"""Before a piece of a body is put again on a channel that is full."""


class ChannelRequests:
    """What all such requests of a process share.

    Args:
        routing: finds their consumers.
        layer: makes reply channels, and delivers what is sent to them.
        pool: where consumers run and answers are sent.
    """

    def __init__(self, routing: HttpRouting, layer: Layer, pool: Pool) -> None:
        self.layer = layer
        self.pool = pool
        self.loop = gevent.get_hub().loop
        self.thread = get_native_id()
        self._routing = routing
        # The first name opens this process's inbox, which may wait; the loop, which makes all others, must not.
        layer.new_channel(REPLY_PREFIX)

    def take(self, owner: ServedConnection, request: Request, environ: Environ) -> ChannelExchange | None:
        """Begin the exchange of a request; None where no route wants it."""
        server, connection = owner.server, owner.connection
        content: Content = {
            "reply_channel": self.layer.new_channel(REPLY_PREFIX),
            "http_version": request.version,
            "method": request.method,
            **request_content(request, environ, server.environ.fields(request, environ, connection.peer)),
            "body": b"",
        }
        consumers = self._routing.bind_request(content)
        if consumers is None:
            return None
        response = Response(connection, request, server.date, server.names, owner.may_keep)
        exchange = ChannelExchange(self, owner, request, environ, content, consumers, response)
        self.layer.attach(content["reply_channel"], exchange.deliver)
        self.pool.submit(exchange.begin, None)
        return exchange


@dataclass(slots=True, eq=False)
class ChannelExchange:
    """One request and its answer; see `ChannelRequests.take`."""

    _shared: ChannelRequests
    _owner: ServedConnection
    _request: Request
    _environ: Environ
    _content: Content
    _consumers: HttpConsumers
    _response: Response
    # What is to be sent: contents of replies, or a status and a sentence to be answered in their place.
    _pieces: deque[Content | tuple[int, str]] = field(default_factory=deque)
    _size: int = 0
    # Whether a greenlet sends what is in there.
    _sends: bool = False
    # Whether the consumer has returned.
    _ran: bool = False
    _done: bool = False
    _is_gone: bool = False
    _is_stopping: bool = False
    _began: float = field(default_factory=time.perf_counter)

    # In greenlets of the pool.

    def begin(self, _: object) -> None:
        """Read the body, and run the consumer as soon as it is there, or as long as the message may be."""
        body, file = self._owner.body, self._environ["wsgi.input"]
        try:
            if body is not None and self._request.expect_continue:
                body.ask_first(self._response.send_continue)
            self._content["body"] = file.read(BODY_BYTES)
            piece = file.read(_PIECE_BYTES)
        except BodyError as error:
            self._owner.server.log_refusal(self._owner.connection, error)
            self._fail(error.status, str(error))
            return
        if not piece:
            self._consume(None)
            return
        channel = self._content["body_channel"] = self._shared.layer.new_channel(BODY_PREFIX)
        self._shared.pool.submit(self._consume, None)
        self._hand_on(file, channel, piece)

    def _hand_on(self, file: IO[bytes], channel: str, piece: bytes) -> None:
        """Put what is left of a body on its channel, no faster than it is taken."""
        try:
            while piece and not self._done:
                following = file.read(_PIECE_BYTES)
                self._put(channel, {"content": piece, "more_content": bool(following)})
                piece = following
            if not piece:
                return
        except BodyError as error:
            log.info(
                "the body of %s from %s: %s", path_text(self._content["path"]), self._owner.connection.client, error
            )
        except OffloadError as error:
            log.error("the body of a request for %s cannot be handed on: %s", path_text(self._content["path"]), error)
            self._fail(503, "the server cannot serve this request now")
            return
        self._put_last(channel)

    def _put(self, channel: str, content: Content) -> None:
        while not self._done:
            try:
                self._shared.layer.send(channel, content)
                return
            except ChannelFull:
                time.sleep(_PAUSE_SECONDS)

    def _put_last(self, channel: str) -> None:
        try:
            self._shared.layer.send(channel, {"closed": True})
        except OffloadError as error:
            log.warning("a consumer cannot be told that its request's body ends: %s", error)

    def _consume(self, _: object) -> None:
        try:
            self._consumers.request(self._content)
        except (ChannelFull, LayerUnavailable, MessageTooLarge) as error:
            log.error("no consumer for %s: %s", path_text(self._content["path"]), error)
            self._fail(503, "the server cannot serve this request now")
        except Exception:  # noqa: BLE001 -- it is in the log, with its traceback
            self._fail(500, "the server failed to answer")
        finally:
            self._ran = True
            # Its body may be large, and the answer may take its time.
            self._content["body"] = b""
            self._settle()

    def _disconnect(self, _: object) -> None:
        self._consumers.disconnect({"reply_channel": self._content["reply_channel"], "path": self._content["path"]})

    def _send(self, _: object) -> None:
        """Send what there is to be sent. Whatever is wrong with it ends here."""
        try:
            while self._pieces and not self._done:
                piece = self._pieces.popleft()
                if isinstance(piece, tuple):
                    self._end_with(*piece)
                else:
                    self._size -= len(piece.get("content") or b"")
                    self._answer(piece)
        except ClientGone:
            log.debug("%s left %r before its answer was whole", self._owner.connection.client, self._request.target)
            self._owner.connection.reset()
        except BaseException as error:
            target = self._request.target.decode("latin-1")
            log.error("the answer for %s %s failed", self._request.method, target, exc_info=error)
            self._end_with(500, "the server failed to answer")
        finally:
            self._sends = False

    def _answer(self, content: Content) -> None:
        response = self._response
        if not response.status:
            status = content.get("status")
            if not isinstance(status, int):
                raise ValueError(f"the first reply to {self._content['reply_channel']} has no status")
            headers = [text_pair(pair) for pair in content.get("headers") or ()]
            response.start_response(f"{status} {phrase(status)}", headers)
        data = content.get("content") or b""
        if content.get("more_content"):
            response.write(data)
        else:
            response.send_result([data])
            self._finish()

    def _end_with(self, status: int, text: str) -> None:
        if not self._done:
            self._response.fail(status, text)
            self._finish()

    def _finish(self) -> None:
        self._leave()
        seconds = time.perf_counter() - self._began
        self._owner.server.observer.request(self._environ, self._owner.connection.peer, self._response, seconds)
        self._owner.answered(self._response, self._request)

    # Anywhere.

    def deliver(self, delivery: Delivery) -> None:
        """Take a piece of the answer. Called by the layer in any greenlet, or thread."""
        if delivery.thread != self._shared.thread:
            self._shared.loop.run_callback_threadsafe(self._queue, delivery.content)
        else:
            self._queue(delivery.content)

    def _queue(self, piece: Content | tuple[int, str]) -> None:
        if self._done:
            return
        if not isinstance(piece, tuple):
            self._size += len(piece.get("content") or b"")
            if self._size > MAX_WAITING_BYTES:
                log.warning("%s takes its answer too slowly; its connection ends", self._owner.connection.client)
                self._owner.connection.reset()
                return
        self._pieces.append(piece)
        if not self._sends:
            self._sends = True
            self._shared.pool.submit(self._send, None)

    def _fail(self, status: int, text: str) -> None:
        self._queue((status, text))

    # Called by the connection, in the loop.

    def client_left(self) -> None:
        """Nobody is there to be answered."""
        if self._done:
            return
        self._is_gone = True
        self._leave()
        self._settle()

    def stop(self) -> None:
        """The process stops: a client that waits may ask another one."""
        self._is_stopping = True
        self._settle()

    def _settle(self) -> None:
        """Do what a client that left, or a process that stops, asks for, as soon as the consumer has returned."""
        if not self._ran:
            return
        if self._is_gone:
            self._shared.pool.submit(self._disconnect, None)
        elif self._is_stopping and not self._response.status and not self._pieces:
            self._fail(503, "the server is stopping")

    def _leave(self) -> None:
        self._done = True
        self._pieces.clear()
        self._shared.layer.detach(self._content["reply_channel"])

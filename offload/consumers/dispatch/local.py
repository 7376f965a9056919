"""The local dispatch: finds the consumer of a message and runs it in the calling greenlet.

Everything a consumer raises ends here: in the log, or as the handshake's refusal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from offload.consumers import configuration
from offload.consumers.channel import Channel, ReplyChannel
from offload.consumers.message import Message
from offload.consumers.routing import CONNECT, DISCONNECT, HTTP_DISCONNECT, HTTP_REQUEST, RECEIVE, Consumer, Router
from offload.consumers.sessions import drop_session, renew_session
from offload.consumers.synchronous import check_result, name_of
from offload.exceptions import ChannelSocketException, ConsumeLater, DenyConnection, TaskTimeout
from offload.interfaces import Client, Content, Layer
from offload.observe.log_lines import SafeLogger, path_text

log = SafeLogger("offload.consumer")

LATER_TRIES = 10
LATER_PAUSE = 0.1
"""Seconds before the first further try of a message whose consumer raised `ConsumeLater`; each pause is longer."""

# What a handshake has fixed: a choice that depends on these alone is made once for a connection.
_FIXED = frozenset({"path", "reply_channel"})

Bound = tuple[Consumer, dict[str, Any]]
Field = tuple[bytes, bytes]

_KEPT_FIELDS = 1024
"""Header fields that many clients send alike are kept once; those of one client alone soon give their place up."""
_SECRET_FIELDS = frozenset((b"authorization", b"cookie", b"proxy-authorization"))
"""Nobody else sends the same, and they are not to outlive their connection in memory."""


class Dispatch:
    """Runs consumers in this process.

    Args:
        router: the checked routing.
        layer: the layer that messages are said to come through.
    """

    def __init__(self, router: Router, layer: Layer) -> None:
        self.router = router
        self.layer = layer
        self._started, self._finished = configuration.hooks()
        self._handshake = configuration.handshake_decorator()
        self._connects: dict[Consumer, Consumer] = {}
        # Whether one choice of receive consumer serves a whole connection.
        self.receive_is_fixed = router.depends_on(RECEIVE) <= _FIXED

    def bind(self, content: Content) -> BoundConsumers | None:
        """The consumers of one WebSocket, or None when no route wants this handshake."""
        if not self.router.accepts_websocket(content):
            return None
        reply_channel = ReplyChannel(content["reply_channel"], self.layer)
        return BoundConsumers(self, reply_channel, content.get("headers"))

    def bind_request(self, content: Content) -> RequestConsumers | None:
        """The consumers of one request that is answered by messages, or None when no route wants it."""
        found = self.router.find(HTTP_REQUEST, content)
        return None if found is None else RequestConsumers(self, found)

    def consumer_of(self, channel: str, content: Content) -> Bound | None:
        """The consumer for a message of a named channel, with its keyword arguments; None when no filters match."""
        return self.router.find(channel, content)

    def connect_consumer(self, content: Content) -> Bound | None:
        """The consumer for a handshake, in what every handshake passes through; None where there is neither."""
        found = self.router.find(CONNECT, content)
        if self._handshake is None:
            return found
        consumer, arguments = found or (_accept, {})
        wrapped = self._connects.get(consumer)
        if wrapped is None:
            wrapped = self._connects[consumer] = self._handshake(consumer)
        return wrapped, arguments

    def run_named(self, found: Bound, channel: str, content: Content) -> None:
        """Run the consumer of a named channel's message. What it raises comes through.

        Args:
            found: from `consumer_of`.
            channel, content: the message; its ``reply_channel``, where it has one, becomes ``message.reply_channel``.
        """
        self.run(*found, Message(content, channel, self.layer))

    def run(self, consumer: Consumer, arguments: dict[str, Any], message: Message) -> Any:
        """Call one consumer between the hooks, and return what it does.

        What it raises comes through; what a hook raises is logged.
        """
        _call(self._started)
        try:
            return _consume(consumer, arguments, message)
        finally:
            _call(self._finished)

    def run_patiently(self, consumer: Consumer, arguments: dict[str, Any], message: Message, tried: int = 0) -> Any:
        """As `run`, again while the consumer raises `ConsumeLater`.

        Args:
            consumer, arguments, message: what to call.
            tried: how often that has happened already.
        """
        while tried < LATER_TRIES:
            if tried:
                time.sleep(LATER_PAUSE * tried)
                # Without what decorators hung on it, so that each try has a session that is saved.
                message = message.copy()
            tried += 1
            try:
                return self.run(consumer, arguments, message)
            except ConsumeLater:
                log.debug("%s asked for %r later", name_of(consumer), message)
        log.error("%s asked %d times for %r later; it is dropped", name_of(consumer), LATER_TRIES, message)
        raise ConsumeLater


class BoundConsumers:
    """One WebSocket's consumers. The gateway calls one method at a time, in order.

    Attributes:
        reply_channel: the client's.
        has_session: whether a message was given the connection's session, so that there may be one in the layer.
        latency: see `Message.latency`.
    """

    __slots__ = ("_dispatch", "_fields", "_receive", "has_session", "latency", "reply_channel")

    def __init__(
        self, dispatch: Dispatch, reply_channel: Channel, headers: Iterable[list[bytes]] | None = None
    ) -> None:
        self._dispatch = dispatch
        self._fields = None if headers is None else _kept(headers)
        self._receive: Bound | None = None
        self.reply_channel = reply_channel
        self.has_session = False
        self.latency: float | None = None

    @property
    def headers(self) -> list[list[bytes]] | None:
        """The handshake's header fields; None where they were not given."""
        return None if self._fields is None else [list(field) for field in self._fields]

    @property
    def client(self) -> Client | None:
        """See `WebSocketConsumers`."""
        return self.reply_channel.client if isinstance(self.reply_channel, ReplyChannel) else None

    @client.setter
    def client(self, client: Client | None) -> None:
        if isinstance(self.reply_channel, ReplyChannel):
            self.reply_channel.client = client

    def connect(self, content: Content) -> None:
        """Run the connect consumer; without one the connection is accepted. Exceptions come through."""
        found = self._dispatch.connect_consumer(content)
        if found is not None:
            try:
                self._dispatch.run_patiently(*found, self.message(content, CONNECT))
            except (DenyConnection, ConsumeLater):
                # A decision, and what has been logged after the last try.
                raise
            except Exception:
                log.exception("connect consumer %s failed for %s", name_of(found[0]), path_text(content["path"]))
                raise

    def receive(self, content: Content) -> None:
        """Run the receive consumer; a message that no route wants is dropped, and logged."""
        dispatch = self._dispatch
        found = self._receive
        if found is None:
            found = dispatch.router.find(RECEIVE, content)
            if found is None:
                log.debug("no receive consumer for a message at %s; dropped", path_text(content["path"]))
                return
            if dispatch.receive_is_fixed:
                self._receive = found
        consumer, arguments = found
        message = Message(content, RECEIVE, dispatch.layer, self.reply_channel)
        message._connection = self
        try:
            if dispatch._started or dispatch._finished:
                dispatch.run(consumer, arguments, message)
            else:
                # As `run` without hooks.
                result = consumer(message, **arguments)
                if result is not None:
                    check_result(consumer, result)
        except ChannelSocketException as error:
            self._guard((error.run, {}), message)
        except ConsumeLater:
            self._guard(found, message, tried=1)
        except Exception as error:
            log.exception("receive consumer %s failed for %s", name_of(consumer), path_text(content["path"]))
            self._close_late(error)

    def disconnect(self, content: Content) -> None:
        """Run the disconnect consumer, then drop the connection's session."""
        try:
            found = self._dispatch.router.find(DISCONNECT, content)
            if found is not None:
                self._guard(found, self.message(content, DISCONNECT))
        finally:
            # Also when the consumer raised what is no Exception.
            self.end()

    def end(self) -> None:
        """Drop the connection's session; also called where the handshake was refused and no disconnect follows."""
        if self.has_session:
            drop_session(self._dispatch.layer, self.reply_channel.name)

    def renew(self) -> None:
        """See `WebSocketConsumers`."""
        renew_session(self._dispatch.layer, self.reply_channel.name)

    def message(self, content: Content, channel: str) -> Message:
        """A message of this connection, as its consumers get it."""
        message = Message(content, channel, self._dispatch.layer, self.reply_channel)
        message._connection = self
        return message

    def _guard(self, found: Bound, message: Message, tried: int = 0) -> None:
        try:
            self._dispatch.run_patiently(*found, message, tried)
        except ConsumeLater:
            # Logged after the last try.
            return
        except Exception as error:
            log.exception(
                "%s consumer %s failed for %s",
                message.channel_name.rpartition(".")[2],
                name_of(found[0]),
                message.get("path"),
            )
            self._close_late(error)

    def _close_late(self, error: Exception) -> None:
        """Close a connection whose consumer took too long: what it did not do will be missed."""
        if isinstance(error, TaskTimeout):
            self.reply_channel.send({"close": _INTERNAL_ERROR})


class RequestConsumers:
    """The consumers of one request that is answered by messages."""

    __slots__ = ("_dispatch", "_found")

    def __init__(self, dispatch: Dispatch, found: Bound) -> None:
        self._dispatch = dispatch
        self._found = found

    def request(self, content: Content) -> None:
        """Run the consumer. What it raises is logged, and comes through."""
        dispatch = self._dispatch
        try:
            dispatch.run_patiently(*self._found, Message(content, HTTP_REQUEST, dispatch.layer))
        except ConsumeLater:
            raise  # logged after the last try
        except Exception:
            log.exception("request consumer %s failed for %s", name_of(self._found[0]), ascii(content["path"]))
            raise

    def disconnect(self, content: Content) -> None:
        """Run the consumer of ``http.disconnect``, if there is one."""
        dispatch = self._dispatch
        found = dispatch.router.find(HTTP_DISCONNECT, content)
        if found is None:
            return
        try:
            dispatch.run_patiently(*found, Message(content, HTTP_DISCONNECT, dispatch.layer))
        except ConsumeLater:
            return  # logged after the last try
        except Exception:
            log.exception("disconnect consumer %s failed for %s", name_of(found[0]), ascii(content["path"]))


def _accept(message: Message) -> None:
    """The connect consumer of a path that has none: returning accepts."""


def _consume(consumer: Consumer, arguments: dict[str, Any], message: Message) -> Any:
    try:
        result = consumer(message, **arguments)
        if result is not None:
            check_result(consumer, result)
        return result
    except ChannelSocketException as error:
        return error.run(message)


def _kept(headers: Iterable[list[bytes]]) -> tuple[Field, ...]:
    # The key has been answered, and no other client has the same.
    return tuple(
        [
            (name, value) if name in _SECRET_FIELDS else _shared_field(name, value)
            for name, value in headers
            if name != b"sec-websocket-key"
        ]
    )


@lru_cache(_KEPT_FIELDS)
def _shared_field(name: bytes, value: bytes) -> Field:
    return name, value


_INTERNAL_ERROR = 1011
"""RFC 6455, 7.4.1."""


def _call(hooks: Iterable[Callable[[], None]]) -> None:
    for hook in hooks:
        try:
            hook()
        except Exception:
            # Nobody's connection may go without its consumer, nor without the other hooks, because of it.
            log.exception("the hook %s failed", name_of(hook))

"""Channel sessions: a dict that belongs to one connection and lives in the layer.

Read from the layer when first used, written back after the consumer when changed, gone with the connection if any of
its messages was given it. Any process that knows the reply channel can read and save it.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, TypeVar

from offload.consumers import configuration
from offload.consumers.message import Message
from offload.interfaces import Content, Layer

log = logging.getLogger("offload.consumer")

F = TypeVar("F", bound=Callable[..., Any])


class ChannelSession(MutableMapping[str, Any]):
    """One connection's session; a dict whose values are what messages may carry.

    Args:
        layer: where it lives.
        reply_channel: the name of the connection's reply channel.
    """

    def __init__(self, layer: Layer, reply_channel: str) -> None:
        self._layer = layer
        self.session_key = reply_channel
        self._data: Content | None = None
        self._saved: Content = {}
        self._is_marked = False

    @property
    def _loaded(self) -> Content:
        if self._data is None:
            self._data = self._layer.session_load(self.session_key) or {}
            # Changes inside nested values count as changes, and only a copy shows them.
            self._saved = copy.deepcopy(self._data)
        return self._data

    @property
    def modified(self) -> bool:
        """Whether it differs from what the layer has, as far as this object knows; or was said to."""
        return self._is_marked or (self._data is not None and not _is_same(self._data, self._saved))

    @modified.setter
    def modified(self, value: bool) -> None:
        self._is_marked = value

    def save(self) -> None:
        """Write it to the layer now; it stays for the layer's ``group_expiry``."""
        self._layer.session_save(self.session_key, self._loaded, self._layer.group_expiry)
        self._saved = copy.deepcopy(self._loaded)
        self._is_marked = False

    def __getitem__(self, key: str) -> Any:
        return self._loaded[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._loaded[key] = value

    def __delitem__(self, key: str) -> None:
        del self._loaded[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)

    def __repr__(self) -> str:
        return f"ChannelSession({self._loaded!r})"


def session_for_reply_channel(reply_channel: str, alias: str = configuration.DEFAULT) -> ChannelSession:
    """The session of a connection, from any process; call `save` to keep changes.

    It goes with a connection whose own consumers use `channel_session`; otherwise, and when it is saved after the
    connection's end, it stays for the layer's ``group_expiry``.
    """
    return ChannelSession(configuration.layer_for(alias), str(reply_channel))


def channel_session(consumer: F) -> F:
    """Give the consumer ``message.channel_session``, and save it afterwards when it was changed."""

    @functools.wraps(consumer)
    def with_session(message: Message, *args: Any, **kwargs: Any) -> Any:
        if getattr(message, "channel_session", None) is not None:
            return consumer(message, *args, **kwargs)
        if message.reply_channel is None:
            raise ValueError(
                f"a message on {message.channel_name!r} has no reply channel, so it has no channel session; "
                "channel_session serves websocket consumers and messages sent with a reply_channel"
            )
        session = ChannelSession(message.channel_layer, message.reply_channel.name)
        message.channel_session = session
        if message._connection is not None:
            # Now, whoever saves it, and when: the consumer itself, something it started, or another process.
            message._connection.has_session = True
        try:
            result = consumer(message, *args, **kwargs)
        except BaseException:
            try:
                _save(session)
            except Exception:
                # What the consumer raised may be a refusal, and stands.
                log.exception("the session of %s could not be saved", session.session_key)
            raise
        _save(session)
        return result

    return with_session  # type: ignore[return-value]


def _save(session: ChannelSession) -> None:
    if session.modified:
        session.save()


def _is_same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: to the layer 1 and True are not the same."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other)


def enforce_ordering(consumer: F | None = None, slight: bool = False) -> Any:
    """Accepted for code written for Channels 1, and does nothing: a connection's messages always run in order."""
    return (lambda inner: inner) if consumer is None else consumer

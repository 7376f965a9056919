"""Channel sessions: a dict that belongs to one connection and lives in the layer.

Read from the layer when first used, written back after the consumer when changed, gone with the connection. Any
process that knows the reply channel can read it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, TypeVar

from offload.consumers import configuration
from offload.consumers.message import Message
from offload.interfaces import Content, Layer

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

    @property
    def _loaded(self) -> Content:
        if self._data is None:
            self._data = self._layer.session_load(self.session_key) or {}
            # Changes inside nested values count as changes, and only a copy shows them.
            self._saved = copy.deepcopy(self._data)
        return self._data

    @property
    def modified(self) -> bool:
        """Whether it differs from what the layer has, as far as this object knows."""
        return self._data is not None and self._data != self._saved

    def save(self) -> None:
        """Write it to the layer now; it stays for the layer's ``group_expiry``."""
        self._layer.session_save(self.session_key, self._loaded, self._layer.group_expiry)
        self._saved = copy.deepcopy(self._loaded)

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
    """The session of a connection, from any process; call `save` to keep changes."""
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
        try:
            return consumer(message, *args, **kwargs)
        finally:
            if session.modified:
                session.save()
                if message._connection is not None:
                    message._connection.session_saved = True

    return with_session  # type: ignore[return-value]


def enforce_ordering(consumer: F | None = None, slight: bool = False) -> Any:
    """Accepted for code written for Channels 1, and does nothing: a connection's messages always run in order."""
    return (lambda inner: inner) if consumer is None else consumer

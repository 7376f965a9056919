"""Every error that offload raises on purpose, under one base; and the words that its message may suggest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class OffloadError(Exception):
    """Base of all errors that offload raises on purpose."""


class ConfigurationError(OffloadError):
    """A setting, option, routing entry or layer address is wrong; the message names the value and the remedy."""


class RoutingError(ConfigurationError, ValueError):
    """A routing entry is wrong; the message names the entry and what to write instead."""


class ChannelFull(OffloadError):
    """A channel holds as many messages as its capacity allows; nothing was sent."""


class MessageTooLarge(OffloadError):
    """A message is larger than the layer carries; nothing was sent."""


class InvalidChannelName(OffloadError, TypeError):
    """A channel or group name breaks the rules for names (see ``offload.layers.words.names``)."""


class LayerUnavailable(OffloadError):
    """The layer's server did not answer in time. The message was not sent, or it is unknown whether it was."""


class LayerUnreachable(LayerUnavailable):
    """The layer's server cannot be reached, or refused. The message was certainly not sent."""


class WorkersUnavailable(OffloadError):
    """With ``--dispatch layer``: no worker took a message in time, or the one that had it is gone."""


class DenyConnection(OffloadError):
    """Raised by a connect consumer to refuse the WebSocket handshake with HTTP 403."""


class ConsumeLater(OffloadError):
    """Raised by a consumer to have the same message put back and consumed again, ten times at most."""


class ChannelSocketException(OffloadError):
    """Raised by a consumer to have `run` called in place of what remains of it; derive from it."""

    def run(self, message: Any) -> None:
        """Called with the message whose consumer raised this."""
        raise NotImplementedError(f"{type(self).__name__} has no run(message)")


class WebsocketCloseException(ChannelSocketException):
    """Raised by a consumer to close its WebSocket, or to refuse the handshake.

    Args:
        code: the close code, 1000 or 3000 to 4999; None for 1000.

    Raises:
        ValueError: a WebSocket is not to be closed with this code.
    """

    def __init__(self, code: int | None = None) -> None:
        if code is not None and (isinstance(code, bool) or not isinstance(code, int) or not _is_for_applications(code)):
            raise ValueError(f"the close code is {code!r}; it is 1000, or 3000 to 4999")
        super().__init__(f"close with {code or 1000}")
        self._code = code

    def run(self, message: Any) -> None:
        """Close, after what the consumer has sent."""
        if message.reply_channel is None or not message.channel_name.startswith("websocket."):
            raise ValueError(f"a message on {message.channel_name!r} comes from no WebSocket that could be closed")
        message.reply_channel.send({"close": self._code or True})


def _is_for_applications(code: int) -> bool:
    return code == 1000 or 3000 <= code <= 4999


class SendNotAvailableOnDemultiplexer(OffloadError):
    """A consumer behind a `WebsocketDemultiplexer` used ``send``; it has ``multiplexer.send`` for its stream."""


class ResponseLater(OffloadError):
    """Raised by a Django view that is served by messages: somebody else sends the answer."""


class TaskTimeout(OffloadError):
    """A request or a consumer ran for longer than --request-timeout."""


class RequestTimeout(OffloadError):
    """A request's body took too long to arrive."""


class RequestAborted(OffloadError):
    """A request's client left before its body was whole."""


class ProtocolError(OffloadError):
    """The peer broke the wire protocol; the connection ends."""


def near_matches(word: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The known word that is most like this one, where one is.

    Args:
        word: somebody's.
        known: those that would have been right.
        cutoff: how much it must be like it, of 1.
    """
    # Only for a message of an error: servers start without it.
    import difflib

    return difflib.get_close_matches(word, list(known), 1, cutoff)

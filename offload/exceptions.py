"""Every error that offload raises on purpose, under one base."""


class OffloadError(Exception):
    """Base of all errors that offload raises on purpose."""


class ConfigurationError(OffloadError):
    """A setting, option, routing entry or layer address is wrong; the message names the value and the remedy."""


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


class ProtocolError(OffloadError):
    """The peer broke the wire protocol; the connection ends."""

"""What ends a link's connection, and what that means for what was to be sent."""

from __future__ import annotations

from offload.exceptions import LayerUnavailable, LayerUnreachable

_UNKNOWN = "it is unknown whether the command was executed"
_NOT_SENT = "the command was not sent"


class Outage(Exception):
    """A connection was lost, or could not be opened.

    Attributes:
        reason: a clause that names the server.
        remedy: what may help, or nothing.
        was_open: whether there was a connection, which may have carried commands to the server.
        refusal: the server's answer, when it was one that let nobody in.
        is_silence: whether answers were overdue, and may come after all.
    """

    is_silence = False

    def __init__(
        self, reason: str, remedy: str = "", *, was_open: bool = False, refusal: LayerUnreachable | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.was_open = was_open
        self.refusal = refusal

    @property
    def sentence(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason

    def error(self, *, sent: bool) -> LayerUnavailable:
        """For a command, by whether it was, or may have been, sent. Each its own: one object for all would collect the
        tracebacks of all."""
        if sent:
            return LayerUnavailable(f"{self.reason}; {_UNKNOWN}")
        if self.was_open:
            return LayerUnreachable(f"{self.reason}; {_NOT_SENT}")
        if self.refusal is not None:
            return type(self.refusal)(*self.refusal.args)
        return LayerUnreachable(self.sentence)


def closed(layer: str) -> str:
    """The reason that those hear who waited at a link that was closed."""
    return f"layer {layer!r} was closed meanwhile"


def silence(layer: str, shown: str, timeout: float) -> Outage:
    """Of a server that did not answer within so many seconds."""
    outage = Outage(f"layer {layer!r} got no answer from {shown} within {timeout:g} s", was_open=True)
    outage.is_silence = True
    return outage

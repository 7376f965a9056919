"""What the owner of a socket and a worker say to each other about one message's turn (``--dispatch layer``).

The message travels on its own channel, such as ``websocket.receive``; keys that consumers do not see tell the worker
where to report, and the report tells the owner how it went. Replies go their usual way, to the reply channel. What one
process sends to another arrives in order, so a report comes behind all that its consumer has sent.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass

from offload.consumers.dispatch.last_outage import ASK_SECONDS, Outage
from offload.interfaces import Content

REPORTS_PREFIX = "websocket.reports"
"""Of the channel by which a process that owns sockets hears from workers."""

ANNOUNCE_SECONDS = 1.0
"""How often a worker tells the owners which turns it has in hand."""

RAN, DENIED, FAILED, UNAVAILABLE = "ran", "denied", "failed", "unavailable"
"""Outcomes. Only a connect consumer has others than the first: what the later ones raise ends in the worker's log."""

_TURN, _REPORTS, _SAVED, _LATENCY = "__turn__", "__reports__", "__saved__", "__latency__"


@dataclass(frozen=True)
class Note:
    """What travels with a message.

    Attributes:
        turn: the owner's number for it; None where nobody waits for a report.
        reports: the channel to report to.
        saved: whether the connection may have a session in the layer: a message of it was given one.
        latency: of the client's last pong.
    """

    turn: int | None = None
    reports: str = ""
    saved: bool = False
    latency: float | None = None

    def put_into(self, content: Content) -> None:
        """Add it to a message's content: flat, and only what says something, so that it stays cheap to check."""
        if self.turn is not None:
            content[_TURN] = self.turn
            content[_REPORTS] = self.reports
        if self.saved:
            content[_SAVED] = True
        if self.latency is not None:
            content[_LATENCY] = self.latency

    @classmethod
    def take_from(cls, content: Content) -> Note:
        """Remove it from a message's content. Whatever else somebody has put there counts as nothing."""
        turn, reports = content.pop(_TURN, None), content.pop(_REPORTS, None)
        saved, latency = content.pop(_SAVED, None) is True, content.pop(_LATENCY, None)
        if type(latency) is not float:
            latency = None
        if type(turn) is not int or type(reports) is not str:
            return cls(saved=saved, latency=latency)
        return cls(turn, reports, saved, latency)


class Turn:
    """One message that is with the workers.

    Attributes:
        number: by which workers speak of it.
        path: its connection's.
        sent: when it was put on its channel.
        heard: when a worker last said that it has it in hand; None if none did.
        outcome: what the worker reported; None until then.
        saved: whether the connection may have a session in the layer, as far as is known.
    """

    __slots__ = ("_ended", "heard", "number", "outcome", "path", "saved", "sent")

    def __init__(self, number: int, path: str, saved: bool) -> None:
        self.number = number
        self.path = path
        self.sent = time.monotonic()
        self.heard: float | None = None
        self.outcome: str | None = None
        self.saved = saved
        self._ended = threading.Event()

    def end(self, outcome: str, saved: bool) -> None:
        """The worker has reported."""
        self.outcome = outcome
        self.saved = saved
        self._ended.set()

    def seconds_left(self, first: float, patience: float, outage: Outage, longest: float) -> float:
        """How long to wait for a report yet. The time in which the layer was away does not count.

        Args:
            first: seconds that a worker has to take it up.
            patience: seconds that the worker which has it may keep silent.
            outage: of the layer.
            longest: seconds after which it is over, however long the layer was away.
        """
        since, limit = (self.sent, first) if self.heard is None else (self.heard, patience)
        return min(max(since, outage.until) + limit, since + longest) - time.monotonic()

    def wait(self, patience: float, outage: Outage, longest: float, deadline: float = math.inf) -> bool:
        """Wait for the report while there are signs of life. Returns whether it came.

        Args:
            patience, outage, longest: as of `seconds_left`.
            deadline: on the monotonic clock; no longer than until then.
        """
        if self._ended.wait(min(ASK_SECONDS, patience, max(0.0, deadline - time.monotonic()))):
            return True
        outage.watch()
        while (left := min(self.seconds_left(patience, patience, outage, longest), deadline - time.monotonic())) > 0:
            if self._ended.wait(min(left, ASK_SECONDS) if outage.is_likely else left):
                return True
        return self._ended.is_set()


def report(turn: int, outcome: str, saved: bool) -> Content:
    """A turn has ended; `saved` as in `Note`."""
    return {"turn": turn, "outcome": outcome, "saved": saved}


Ended = tuple[str, bool, list[int]]
"""An outcome, whether there is a session then, and the turns of which that is true."""


def announcement(running: list[int], ended: list[Ended]) -> Content:
    """The first are in a worker's hands; the others have ended lately."""
    content: Content = {"running": running}
    if ended:
        content["ended"] = [list(item) for item in ended]
    return content

"""What one connection's commands are kept in while they are under way: each command, and what goes out together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from offload.exceptions import LayerUnavailable
from offload.layers.redis.wire import pack

_BATCH_BYTES = 1024 * 1024
_BATCH_COMMANDS = 1000
HELLO = pack(("HELLO",))

Unclaimed = Callable[[Any], None]


class Call:
    """A command, and what became of it; and what whoever leads has under way."""

    __slots__ = ("asking", "done", "error", "expected", "gate", "left", "packed", "reply", "taken", "unclaimed")

    def __init__(self, packed: bytes, asking: bool = False, unclaimed: Unclaimed | None = None) -> None:
        self.packed = packed
        self.asking = asking
        self.unclaimed = unclaimed
        self.left = False  # whether who asked is gone, and the reply is for `unclaimed`
        self.reply: Any = None
        self.error: LayerUnavailable | None = None
        self.done = False
        self.gate: Any = None  # a taken lock, for who waits
        # While it leads.
        self.taken: Sequence[Call] = ()  # not sent yet
        self.expected: deque[Call | None] | None = None  # whose replies have not been read

    def end(self, reply: Any = None, error: LayerUnavailable | None = None) -> None:
        self.reply = reply
        self.error = error
        self.done = True
        if self.gate is not None:
            self.gate.release()


class Look(Call):
    """The question whether the server is still a master: what publishes does not fail on a replica."""

    __slots__ = ("_found",)

    def __init__(self, found: Callable[[Any], None]) -> None:
        super().__init__(HELLO)
        self._found = found

    def end(self, reply: Any = None, error: LayerUnavailable | None = None) -> None:
        super().end(reply, error)
        self._found(reply)


def cut(pending: deque[Call]) -> tuple[Sequence[Call], deque[Call]]:
    """What goes out together, and the rest. Changes neither, for whoever calls may be interrupted."""
    if len(pending) == 1:
        return pending, deque()
    size = 0
    for number, call in enumerate(pending):
        size += len(call.packed)
        if number and (number == _BATCH_COMMANDS or size > _BATCH_BYTES):
            return list(islice(pending, number)), deque(islice(pending, number, None))
    return pending, deque()


def fail(calls: Iterable[Call | None], kind: type[LayerUnavailable], reason: str) -> None:
    for call in calls:
        if call is not None and not call.done:
            # Each its own: one object for all would collect the tracebacks of all.
            call.end(error=kind(reason))

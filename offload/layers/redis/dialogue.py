"""What a subscriber says on its connection, and whose turn it is to be answered.

Pure: no socket, no lock (its user's goes around every call), no clock. Commands are written in the order in which they
were noted, and Redis answers in that order; each name of a command is answered by itself, an error is for all of them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable

from offload.exceptions import LayerUnavailable

SUBSCRIBE, UNSUBSCRIBE, PING = "SUBSCRIBE", "UNSUBSCRIBE", "PING"
ALL_BACK = "all-back"
"""What a PING says that follows the subscriptions after a loss."""

_NAMES = 500  # most names in one command, so that nobody waits for thousands of others


class Request:
    """A command for one name that the server is to confirm.

    Args:
        done: when somebody waits.
        alone: whether it may share its command with no other.
    """

    __slots__ = ("alone", "command", "done", "error", "given_up", "name", "number")

    def __init__(
        self, command: str, name: str = "", done: threading.Event | None = None, *, alone: bool = False
    ) -> None:
        self.command = command
        self.name = name
        self.done = done
        self.alone = alone or command == PING
        self.error: LayerUnavailable | None = None
        self.given_up = False
        self.number = 0  # of the command that it was written with

    def fail(self, error: LayerUnavailable) -> None:
        if self.done is not None:
            self.error = error
            self.done.set()


class Dialogue:
    """
    Args:
        sharded: whether the server's own commands are used that are for the channels of one slot.
    """

    def __init__(self, sharded: bool) -> None:
        self._sharded = sharded
        self.notes: list[Request] = []  # to be written
        self.asked: deque[Request] = deque()  # written, to be answered
        self._commands = 0

    def take_notes(self) -> list[tuple[str, ...]]:
        """The notes as commands, neighbours of a kind in one. From now on they are to be answered."""
        notes, self.notes = self.notes, []
        self.asked.extend(notes)
        commands: list[tuple[str, ...]] = []
        start = 0
        while start < len(notes):
            first = notes[start]
            end = start + 1
            most = 1 if first.alone or self._sharded else _NAMES  # names in one command must be of one slot
            while end < len(notes) and _fits(notes[end], first) and end - start < most:
                end += 1
            self._commands += 1
            for note in notes[start:end]:
                note.number = self._commands
            sharded = "S" if self._sharded and first.command != PING else ""
            commands.append((sharded + first.command, *(note.name for note in notes[start:end] if note.name)))
            start = end
        return commands

    def take_back(self, request: Request) -> bool:
        """Returns False when it has been written."""
        if request not in self.notes:
            return False
        self.notes.remove(request)
        return True

    def ends(self, name: bytes) -> bool:
        """Whether that a subscription has ended is what was asked for next."""
        return bool(self.asked) and self.asked[0].command == UNSUBSCRIBE and self.asked[0].name.encode() == name

    def answered(self) -> Request:
        return self.asked.popleft()

    def refused(self) -> list[Request]:
        """All that were written with the command that the next answer is for."""
        together = [self.asked.popleft()]
        while self.asked and self.asked[0].number == together[0].number:
            together.append(self.asked.popleft())
        return together

    def restoring(self, names: Iterable[str], *, alone: bool = False) -> list[Request]:
        """What to note for names whose subscription was lost; the answer to the PING tells that all are back."""
        for request in (*self.asked, *self.notes):
            if request.name == ALL_BACK:
                request.name = ""  # it was not all
        return [*(Request(SUBSCRIBE, name, alone=alone) for name in names), Request(PING, ALL_BACK)]

    def each_alone(self, requests: Iterable[Request], names: Collection[str]) -> list[Request]:
        """What to note for the same again, each in a command of its own, but for what was given up meanwhile.

        Args:
            names: that are not given up.
        """
        awaited = [request for request in requests if request.done is not None and not request.given_up]
        for request in awaited:
            request.alone = True
        lost = [request.name for request in requests if request.done is None and request.name in names]
        return awaited + (self.restoring(lost, alone=True) if lost else [])

    def lose(self) -> list[Request]:
        """The connection is gone. What is still to be written, and awaited, waits for the next. Returns the others."""
        asked, self.asked = self.asked, deque()
        self.notes = [note for note in self.notes if note.done is not None]
        return list(asked)

    def end(self) -> list[Request]:
        """Forget all. Returns what was not answered."""
        left = [*self.asked, *self.notes]
        self.asked, self.notes = deque(), []
        return left


def _fits(request: Request, first: Request) -> bool:
    return request.command == first.command and not request.alone

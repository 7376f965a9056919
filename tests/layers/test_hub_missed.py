"""What a hub counts as missed by a process that is back."""

from __future__ import annotations

import time

from offload.hub.relay import MOST_COUNTED, Exchange, Peer
from offload.layers.ipc import wire


class _Timer:
    def cancel(self) -> None: ...


class _Client(Peer):
    """Keeps what it is told."""

    def __init__(self, exchange: Exchange, process: str) -> None:
        super().__init__()
        self.process = process
        self.answers: list[object] = []
        exchange.join(self)

    def write(self, frame: bytes) -> None:
        self.answers += [found[3] for found in wire.FrameReader().feed(frame) if found[0] == wire.ANSWER]

    push = write


def test_process_that_is_back_has_not_missed_what_it_joined_while_away() -> None:
    exchange = Exchange(time.monotonic, lambda seconds, act: _Timer())
    sender, before = _Client(exchange, "sender"), _Client(exchange, "member")
    exchange.handle(before, [wire.SUBSCRIBE, 1, ["group:old"], False])
    exchange.leave(before)
    for group in ("old", "old", "new", "new", "new"):
        exchange.handle(sender, [wire.GROUP_SEND, 1, group, b""])
    back = _Client(exchange, "member")
    exchange.handle(back, [wire.SUBSCRIBE, 1, ["group:old", "group:new"], True])
    assert back.answers == [2]


def test_topic_that_is_counted_no_more_takes_nothing_from_what_was_missed_of_others() -> None:
    exchange = Exchange(time.monotonic, lambda seconds, act: _Timer())
    sender, before = _Client(exchange, "sender"), _Client(exchange, "member")
    exchange.handle(before, [wire.SUBSCRIBE, 1, ["group:old", "group:new"], False])
    for _ in range(3):
        exchange.handle(sender, [wire.GROUP_SEND, 1, "old", b""])
    exchange.leave(before)
    for number in range(MOST_COUNTED):
        exchange.handle(sender, [wire.GROUP_SEND, 1, f"other-{number}", b""])
    exchange.handle(sender, [wire.GROUP_SEND, 1, "new", b""])
    back = _Client(exchange, "member")
    exchange.handle(back, [wire.SUBSCRIBE, 1, ["group:old", "group:new"], True])
    assert back.answers == [1]

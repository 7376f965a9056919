"""What happened to the WebSockets of a process, in plain numbers for whoever shows them."""

from __future__ import annotations

from dataclasses import dataclass

from offload.protocol.websocket.connection import POLICY_VIOLATION, TOO_BIG


@dataclass
class WebSocketCounters:
    """Counts since the process began.

    Attributes:
        opened: handshakes answered with 101.
        denied: handshakes that the application refused.
        failed_handshakes: handshakes refused because the application, or its layer, failed.
        bad_handshakes: requests that were no acceptable handshake.
        wrong_origins: handshakes refused for their Origin.
        too_many_handshakes: handshakes refused because too many others were undecided.
        too_many_per_address: handshakes refused because their client's address had too many WebSockets.
        broken: closed with 1002 or 1007, because the client broke the protocol.
        too_big: closed with 1009, for a message over the limit.
        too_many_frames: closed with 1008, for a message in too many frames.
        too_fast: closed with 1008, for too many messages in a second.
        too_slow: closed with 1013, because the client read too slowly.
        dropped_oldest, dropped_newest: messages that a slow client did not get.
        silent: ended because no sign of life came after a ping.
        unanswered_closes: ended because the client did not answer a close frame in time.
    """

    opened: int = 0
    denied: int = 0
    failed_handshakes: int = 0
    bad_handshakes: int = 0
    wrong_origins: int = 0
    too_many_handshakes: int = 0
    too_many_per_address: int = 0
    broken: int = 0
    too_big: int = 0
    too_many_frames: int = 0
    too_fast: int = 0
    too_slow: int = 0
    dropped_oldest: int = 0
    dropped_newest: int = 0
    silent: int = 0
    unanswered_closes: int = 0

    def count_failure(self, code: int) -> None:
        """A client broke the rules, and is closed with `code`."""
        if code == TOO_BIG:
            self.too_big += 1
        elif code == POLICY_VIOLATION:
            self.too_many_frames += 1
        else:
            self.broken += 1

    def count_refusal(self, status: int) -> None:
        """A handshake is answered with `status`, because of what the client sent."""
        if status == 403:
            self.wrong_origins += 1
        elif status in (400, 426):
            self.bad_handshakes += 1

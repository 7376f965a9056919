"""What all WebSockets of a process share: limits, one account for each client, one set of members, one drain."""

from __future__ import annotations

import logging
import weakref
from _thread import get_native_id
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import methodcaller

import gevent
from gevent import monkey

from offload import at_fork
from offload.http.environ import Environ
from offload.http.response import Date
from offload.observe.log_lines import RepeatedLines, SafeLogger, address_text
from offload.observe.observer import Observer
from offload.origins import Origins
from offload.protocol.http.request import HttpError, Request
from offload.protocol.websocket.frames import GOING_AWAY
from offload.protocol.websocket.handshake import Handshake, read_handshake
from offload.settings import WebSocketOptions
from offload.transport.pool import Pool
from offload.transport.timeouts import Timeouts
from offload.websocket.drain import Drain
from offload.websocket.keepalive import Keepalive, Member, Members
from offload.websocket.send_queue import Overflow

log = SafeLogger("offload.websocket")

ANSWER_SECONDS = 1.0
"""How long a client's close frame may wait for a raw application that is receiving what came before it."""


thread_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
"""The number of the thread in its process: unlike the system's, it costs no system call."""


class ConnectionLimit:
    """Counts the WebSockets of a process.

    Args:
        handshakes: how many may be undecided at a time; None for no limit.
        per_address: how many one client address may have; None for no limit.
        observer: told of refusals.

    Attributes:
        undecided: handshakes that are.
    """

    def __init__(self, handshakes: int | None, per_address: int | None, observer: Observer) -> None:
        self._handshakes = handshakes
        self._per_address = per_address
        self._observer = observer
        self.undecided = 0
        self._counts: dict[str, int] = {}
        # Kept only where there is a limit: an idle connection has no entry of its own otherwise.
        self._addresses: dict[object, str] = {}

    def check(self, address: str) -> None:
        """Refuse one too many.

        Args:
            address: the client's; "" where it has none, as behind a Unix socket.

        Raises:
            HttpError: 503 while too many handshakes are undecided, 429 when the address has too many WebSockets.
        """
        if self._handshakes is not None and self.undecided >= self._handshakes:
            self._observer.websocket("too_many_handshakes")
            raise HttpError(503, f"{self._handshakes} WebSocket handshakes are undecided (--ws-handshakes)")
        if self._per_address is not None and self._counts.get(address, 0) >= self._per_address:
            self._observer.websocket("too_many_per_address")
            raise HttpError(429, f"{self._per_address} WebSockets are open from this address (--ws-limit-per-ip)")

    def enter(self, member: object, address: str) -> None:
        """A handshake begins."""
        self.undecided += 1
        if self._per_address is not None and address:
            self._counts[address] = self._counts.get(address, 0) + 1
            self._addresses[member] = address

    def decided(self) -> None:
        """A handshake was accepted or refused, or its client left."""
        self.undecided -= 1

    def leave(self, member: object) -> None:
        """A WebSocket, or the connection of a refused handshake, is gone."""
        address = self._addresses.pop(member, None)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]


@dataclass(eq=False)
class WebSocketServer:
    """What all WebSockets of a process share.

    Args:
        pool: where consumers run.
        origins: decides which pages may connect.
        options: what one client may do.
        send_timeout: seconds that a client may take nothing while a raw application waits to send; None for no limit.
        observer: told of all that happens to WebSockets.
        accepts_by_returning: whether a connect consumer accepts by returning; otherwise it refuses unless it has said
            that it accepts.

    Attributes:
        members: those that have not ended.
        closing: those whose closing handshake is under way.
        answering: raw ones whose application is receiving what came before the client's close frame.
        stopping: whether further handshakes are refused.
        thread: the system's number of the loop's thread.
        thread_ident: its number in this process, by `thread_ident`; 0 in a forked child, where no loop runs.
    """

    pool: Pool
    origins: Origins
    options: WebSocketOptions
    send_timeout: float | None
    observer: Observer
    accepts_by_returning: bool = True

    def __post_init__(self) -> None:
        options, observer = self.options, self.observer
        self.overflow = Overflow(options.overflow)
        self.connection_limit = ConnectionLimit(options.handshakes, options.limit_per_ip, observer)
        self.date = Date()
        self.hub = gevent.get_hub()
        self.loop = self.hub.loop
        self.thread = get_native_id()
        self.thread_ident = thread_ident()
        _servers.add(self)
        self.stopping = False
        self.members: Members = Members()
        self.closing: Timeouts[Member] = Timeouts(options.close_timeout, methodcaller("close_expired"))
        self.answering: Timeouts[Member] = Timeouts(
            min(ANSWER_SECONDS, options.close_timeout), methodcaller("answer")
        )  # fmt: skip
        self._keepalive = Keepalive(self.members, options.ping_interval, options.ping_timeout)
        self._drain: Drain | None = None
        self._refusals = RepeatedLines(log, "WebSockets were refused", partial(self.loop.timer, ref=False))

    def check(self, request: Request, path: str, host: str, environ: Environ) -> Handshake:
        """The handshake of an upgrade request that may be accepted.

        Args:
            request: one that asks for a WebSocket.
            path: for the log.
            host: what the client's browser asked for, as proxies tell it: pages are checked against it.
            environ: says where the client is, and how it came.

        Raises:
            HttpError: 400, 426, 403 for an Origin that is not allowed, 429 and 503 for one too many, 503 while the
                server stops.
        """
        try:
            handshake = read_handshake(request, self.options.compression == "auto")
        except HttpError:
            self.observer.websocket("bad_handshakes")
            raise
        if self.stopping:
            raise HttpError(503, "the server is stopping")
        origin = handshake.origin
        if origin is not None and not self.origins(origin, host, environ["wsgi.url_scheme"] == "https"):
            self.observer.websocket("wrong_origins")
            client = address_text((environ["REMOTE_ADDR"], environ["REMOTE_PORT"]))
            reason = f"from origin {origin!a}: it is not among the allowed ones for host {host!a}"
            self._refusals.write(
                logging.WARNING, "wrong origin", "refused a WebSocket at %s %s (client %s)", ascii(path), reason, client
            )
            raise HttpError(403, "this Origin may not open WebSockets here")
        self.connection_limit.check(environ["REMOTE_ADDR"])
        return handshake

    def refused(self, status: int, path: str = "", client: str = "", reason: str = "") -> None:
        """Count a handshake that an application, its consumer or its routing has not accepted.

        Args:
            status: of the answer.
            path, client, reason: for the log, with a clause as the reason; none where that tells of it already.
        """
        self.observer.websocket("denied" if status < 500 else "failed_handshakes")
        if reason:
            self._refusals.write(
                logging.INFO, "by the application", "refused a WebSocket at %s from %s: %s", ascii(path), client, reason
            )

    def statistics(self) -> dict[str, float]:
        """How many WebSockets there are now, by name."""
        return {
            "websocket.members": len(self.members),
            "websocket.undecided": self.connection_limit.undecided,
            "websocket.closing": len(self.closing),
        }

    def stop(self, code: int = GOING_AWAY, seconds: float = 0.0) -> None:
        """Refuse further handshakes, and close every WebSocket.

        Args:
            code: what to close with.
            seconds: over which the closes are spread, so that not all clients come back at once.
        """
        self.stopping = True
        self._drain = Drain(self.members, code, seconds)

    def abort(self) -> int:
        """End those that remain without waiting for their clients; how many there were."""
        remaining = list(self.members)
        for member in remaining:
            member.abort()
        return len(remaining)


_servers: weakref.WeakSet[WebSocketServer] = weakref.WeakSet()


def _after_fork() -> None:
    # The child's thread has the number of the parent's.
    for server in _servers:
        server.thread_ident = 0


at_fork.in_child(_after_fork)

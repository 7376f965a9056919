"""What all HTTP connections of a process share: the application, the limits, the deadlines, and who takes upgrades."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter, methodcaller
from typing import Protocol

import gevent

from offload.http.environ import Application, Environ, EnvironBuilder
from offload.http.response import Date, Response
from offload.http.upgrade import OfferSocket, TakeUpgrade, Upgradable
from offload.http.wsgi_input import Body, BodyError
from offload.observe.log_lines import RepeatedLines, SafeLogger
from offload.observe.observer import Observer
from offload.protocol.http.request import HttpError, Request
from offload.protocol.http.response_head import FieldNames
from offload.protocol.http.states import State
from offload.settings import HttpOptions
from offload.transport.connection import Connection
from offload.transport.pool import Pool
from offload.transport.timeouts import LeastRate, Timeouts

log = SafeLogger("offload.http")

RESTLESS_SECONDS = 1.0
"""How long a connection without a request keeps what its next request is likely to repeat."""
PARTING_SECONDS = 1.0
"""How long a stopping server waits for a request that may be on its way, and for a client to read the last answer."""


class ServedConnection(Upgradable, Protocol):
    """A connection as its exchanges and the deadlines know it; see `offload.http.connection.HttpConnection`.

    Attributes:
        server: what it shares with the others.
        connection: its socket.
        base: its listener's part of the environ.
        body: that of the request that is served, or None.
    """

    server: HttpServer
    connection: Connection
    base: Environ
    body: Body | None

    def may_keep(self) -> bool:
        """Whether another request can be served after this one, as far as one can tell now."""

    def answered(self, response: Response, request: Request) -> None:
        """The answer has been sent, as far as there is one."""

    @property
    def body_progress(self) -> int | None: ...
    def head_expired(self) -> None: ...
    def body_expired(self) -> None: ...
    def idle_expired(self) -> None: ...
    def rest_expired(self) -> None: ...
    def linger_expired(self) -> None: ...
    def stop(self) -> None: ...


Deadline = Timeouts[ServedConnection] | LeastRate[ServedConnection]


class WaitingRequest(Protocol):
    """A request that is answered by messages; see `offload.http.channel_exchange.ChannelExchange`."""

    def client_left(self) -> None: ...
    def stop(self) -> None: ...


TakeRequest = Callable[[ServedConnection, Request, Environ], "WaitingRequest | None"]
"""Begins to serve a request of a routed path; None leaves it to the application."""


@dataclass(eq=False)
class HttpServer:
    """What all HTTP connections of a process share.

    Args:
        application: the WSGI application.
        pool: where it runs.
        options: limits and times.
        environ: builds the environs.
        routed: asked first about WebSocket upgrades.
        raw: offers the application the WebSockets of those that are left to it; None leaves it the bare requests.
        channels: asked about each request before the application is; None where no route wants any.
        observer: told of each answer.
        after_request: called in the greenlet of each request of the application when that has ended.

    Attributes:
        connections: those that are open and speak HTTP.
        deadlines: of the states; None for those that have none.
        stopping: whether each connection ends with the answers that are due.
    """

    application: Application
    pool: Pool
    options: HttpOptions
    environ: EnvironBuilder
    routed: TakeUpgrade | None = field(kw_only=True)
    raw: OfferSocket | None = field(default=None, kw_only=True)
    channels: TakeRequest | None = field(default=None, kw_only=True)
    observer: Observer = field(kw_only=True)
    after_request: Sequence[Callable[[], None]] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        options = self.options
        self.stopping = False
        self.date = Date()
        self.names = FieldNames()
        self._refusals = RepeatedLines(log, "requests were refused", partial(gevent.get_hub().loop.timer, ref=False))
        self.connections: set[ServedConnection] = set()
        self.heads: Timeouts[ServedConnection] = Timeouts(options.header_timeout, methodcaller("head_expired"))
        # Connections without a request are idle first, and at rest when they have been that for a while.
        self.idle: Timeouts[ServedConnection] = Timeouts(
            min(options.keep_alive, RESTLESS_SECONDS), methodcaller("idle_expired")
        )
        self.resting: Timeouts[ServedConnection] = Timeouts(
            max(0.0, options.keep_alive - RESTLESS_SECONDS), methodcaller("rest_expired")
        )
        self.bodies: LeastRate[ServedConnection] = LeastRate(
            options.body_timeout, options.body_min_rate, attrgetter("body_progress"), methodcaller("body_expired")
        )
        self.lingering: Timeouts[ServedConnection] = Timeouts(options.linger_timeout, methodcaller("linger_expired"))
        self.deadlines: dict[State, Deadline | None] = {
            State.IDLE: self.idle,
            State.HEAD: self.heads,
            State.BODY: self.bodies,
            State.SERVING: None,
            State.DISCARDING: self.idle,
            State.ENDING: self.lingering,
            State.LEFT: None,
        }

    def log_refusal(self, connection: Connection, error: BodyError | HttpError) -> None:
        """Tell the log of a request that the server itself answers, or that its client did not finish."""
        self._refusals.write(logging.INFO, str(error.status), "%s from %s: %s", error.status, connection.client, error)

    def end_request(self) -> None:
        """Call those that want to know that a request of the application has ended."""
        for hook in self.after_request:
            try:
                hook()
            except BaseException as error:
                # Not even a late kill: the answer has left, and the other hooks have work to do.
                log.error("the hook %s failed", getattr(hook, "__qualname__", repr(hook)), exc_info=error)

    def statistics(self) -> dict[str, float]:
        """How many HTTP connections there are now, by name."""
        return {
            "http.connections": len(self.connections),
            "http.idle": len(self.idle) + len(self.resting),
            "http.resting": len(self.resting),
        }

    def stop(self) -> None:
        """Answer what has arrived, or may be on its way, and end each connection after that."""
        self.stopping = True
        self.idle.shorten(PARTING_SECONDS)
        self.lingering.shorten(PARTING_SECONDS)
        for connection in list(self.connections):
            connection.stop()

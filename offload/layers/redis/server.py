"""One Redis server: how redis-py connects to it for the layer, and what its failures are to the layer's callers.

redis-py does the connecting, the handshake and the protocol. What the layer sets itself: nothing is sent twice (a
command whose reply did not come may have been executed), every wait is bounded, and each failure is a
``LayerUnavailable`` that names the server and no password. Knows no commands but those of the handshake.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from redis.backoff import NoBackoff
from redis.client import Redis
from redis.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from offload.exceptions import LayerUnreachable
from offload.layers.link.outage import Outage
from offload.layers.link.thread import HomeThread
from offload.layers.redis.access import Access
from offload.layers.redis.address import RedisAddress
from offload.layers.redis.resp import Wire, pack

COMMANDS, SUBSCRIBER = "commands", "subscriber"  # what connections are for

_REFUSALS = (ResponseError, AuthenticationError, BusyLoadingError, MasterDownError)


class Refused(LayerUnreachable):
    """The server has answered with an error, and executed nothing."""


class SlotDivided(Refused):
    """A node of a cluster has got some of a command's keys, and not others of their slot: it is just being moved."""


class SlotMoved(Refused):
    """A node of a cluster has not got a key's slot.

    Attributes:
        host, port: who has it.
        asking: for this key only, since the slot is just being moved.
    """

    host: str
    port: int
    asking: bool

    @classmethod
    def told_by(cls, shown: str, error: AskError) -> SlotMoved:
        made = cls(
            f"layer 'redis' was refused by {shown}: another node of its cluster has this key;"
            " write 'redis+cluster://' for 'redis://'"
        )
        made.host, made.port, made.asking = error.host, error.port, not isinstance(error, MovedError)
        return made


class Server:
    """Makes connections to it.

    Args:
        connect_timeout: seconds for opening a connection.
        timeout: seconds after which a server that does not answer counts as unreachable.
        access: certificates, and the Sentinels' user.
    """

    layer = "redis"
    keepalive = pack("PING")

    def __init__(self, address: RedisAddress, connect_timeout: float, timeout: float, access: Access) -> None:
        self.shown = address.shown
        self.timeout = timeout
        self._connect_timeout = connect_timeout
        self.home = HomeThread(self.layer)
        self.seen = 0.0
        self._arguments = dict(address.arguments)
        self._address = address
        self._access = access
        connection_class: type[Any]
        if address.encrypted:
            connection_class = SentinelManagedSSLConnection if address.service else SSLConnection
            self._arguments.update(access.tls)
        elif "path" in self._arguments:
            connection_class = UnixDomainSocketConnection
        else:
            connection_class = SentinelManagedConnection if address.service else Connection
        if "path" not in self._arguments:
            self._arguments["socket_keepalive"] = True
        self._arguments["connection_class"] = connection_class

    def wire(self, duty: str) -> Wire:
        """One that is not open yet.

        Args:
            duty: is part of what ``CLIENT LIST`` shows. The subscriber speaks the third version of Redis's protocol, if
                the server does.
        """
        greeting = Greeting(self._name(duty), to_master=True, resp3=duty == SUBSCRIBER)
        pool = self._kind(greeting)(
            socket_connect_timeout=self._connect_timeout,
            socket_timeout=self.timeout,
            health_check_interval=0,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            redis_connect_func=greeting,
            **self._arguments,
        )
        return Wire(pool.make_connection(), greeting, self)

    def _kind(self, greeting: Greeting) -> Callable[..., ConnectionPool]:
        if not self._address.service:
            return ConnectionPool
        arguments = {
            **self._access.to_sentinels(self._address.encrypted),
            "socket_connect_timeout": self._connect_timeout,
            "socket_timeout": self.timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "redis_connect_func": Greeting(self._name("sentinel"), before=greeting),
        }
        return partial(SentinelConnectionPool, self._address.service, _Watchers(self._address.sentinels, arguments))

    def _name(self, duty: str) -> str:
        """As `CLIENT LIST` shows it, where a space may not be."""
        return f"offload-{duty}-{socket.gethostname()}-{os.getpid()}".replace(" ", "-")

    def check(self, hello: object) -> None:
        """Raises ``LayerUnreachable`` where a server of that answer to ``HELLO`` is of no use."""
        if _is_replica(hello):
            raise LayerUnreachable(self._is_replica)

    @property
    def _is_replica(self) -> str:
        return f"layer 'redis' cannot use {self.shown}: it is a replica; name its master, or the Sentinels that know it"

    def loss(self, error: Exception) -> Outage:
        """What ended an open connection."""
        if isinstance(error, InvalidResponse):
            reason = f"it does not speak Redis's protocol ({error})"
        else:
            reason = _reason(error, "connection closed")
        return Outage(f"layer 'redis' lost {self.shown}: {reason}", was_open=True)

    def refusal(self, error: Exception) -> LayerUnreachable:
        """The server answered, with an error."""
        for word, kind in (("MOVED ", MovedError), ("ASK ", AskError), ("TRYAGAIN ", TryAgainError)):
            # Before its version 6, redis-py knows these in its own client of a cluster only.
            if str(error).startswith(word):
                error = kind(str(error).removeprefix(word))
        if isinstance(error, AskError):
            return SlotMoved.told_by(self.shown, error)
        refusal = SlotDivided if isinstance(error, TryAgainError) else Refused
        return refusal(f"layer 'redis' was refused by {self.shown}: {str(error).rstrip('.')}")

    def unreachable(self, error: Exception, greeting: Greeting) -> Outage:
        """What redis-py raised for connecting."""
        if isinstance(error, _IsReplica):
            return Outage(self._is_replica)
        if isinstance(error, _REFUSALS):
            refusal = self.refusal(error)
            return Outage(str(refusal), refusal=refusal)
        if isinstance(error, InvalidResponse):
            return Outage(f"layer 'redis' lost {self.shown}: it does not speak Redis's protocol ({error})")
        if isinstance(error, RedisTimeoutError):
            reason = f"no answer within {self.timeout if greeting.began else self._connect_timeout:g} s"
        else:
            reason = _reason(error, str(error))
        return Outage(
            f"layer 'redis' cannot reach {self.shown}: {reason}", "start Redis there, or choose another layer"
        )


class _Watchers(Sentinel):
    """The Sentinels; tells why none of them names a master, which redis-py keeps to itself.

    Args:
        hosts: and their ports.
        arguments: redis-py's, for connections to them.
    """

    def __init__(self, hosts: Iterable[tuple[str, int]], arguments: Mapping[str, Any]) -> None:
        super().__init__([])  # type: ignore[no-untyped-call]
        arguments = dict(arguments)
        connection_class = SSLConnection if arguments.pop("ssl", False) else Connection
        self._reasons: dict[str, str] = {}
        arguments["connection_class"] = type("SentinelConnection", (_Noting, connection_class), {"watchers": self})
        self.sentinels = [
            Redis(connection_pool=ConnectionPool(host=host, port=port, **arguments)) for host, port in hosts
        ]

    def note(self, place: str, error: RedisError) -> None:
        self._reasons[place] = _reason(error, str(error)).rstrip(".")

    def discover_master(self, service_name: str) -> Any:
        self._reasons.clear()
        try:
            return super().discover_master(service_name)  # type: ignore[no-untyped-call]
        except MasterNotFoundError:
            reasons = "".join(f"; {place}: {reason}" for place, reason in self._reasons.items())
            raise MasterNotFoundError(f"no master found for {service_name!r}{reasons}") from None


class _Noting:
    """A connection to a Sentinel that keeps why it could not be opened."""

    watchers: _Watchers

    def connect(self) -> None:
        try:
            super().connect()  # type: ignore[misc]
        except RedisError as error:
            self.watchers.note(f"{self.host}:{self.port}", error)  # type: ignore[attr-defined]
            raise


class _IsReplica(RedisConnectionError):
    """It would publish to its own subscribers only, and store nothing."""


def _is_replica(hello: object) -> bool:
    """By the answer to ``HELLO``. A cluster's says itself where its keys are."""
    if isinstance(hello, list):
        hello = dict(zip(hello[::2], hello[1::2], strict=False))
    if not isinstance(hello, dict):
        return False
    return hello.get(b"role") == b"replica" and hello.get(b"mode") != b"cluster"


def is_a_replicas(error: ResponseError) -> bool:
    """Whether this is how a replica refuses to write."""
    # In a script's error, before Redis 7, these words come later.
    return isinstance(error, ReadOnlyError) or "READONLY " in str(error)


class Greeting:
    """What is said on a new connection before anything else.

    Args:
        name: of the connection, as ``CLIENT LIST`` shows it.
        to_master: whether a replica is of no use.
        resp3: see `Server.wire`.
        before: the one that this connection serves, when it only asks where the server is.

    Attributes:
        began: whether the connection got so far.
        cancelled: whether nothing may be said any more: in a forked child, whose copy of the parent's greenlet may go
            on connecting what is the parent's.
        speaks_resp3: whether the third version is spoken now.
    """

    def __init__(
        self, name: str, *, to_master: bool = False, resp3: bool = False, before: Greeting | None = None
    ) -> None:
        self._name = name
        self._to_master = to_master
        self._resp3 = resp3
        self._before = before
        self.began = self.cancelled = False
        self.speaks_resp3 = False

    def __call__(self, connection: Any) -> None:
        self.began = True
        if self.cancelled or (self._before is not None and self._before.cancelled):
            raise RedisConnectionError("connection closed")
        connection.on_connect()
        _tolerated(connection, "CLIENT", "SETNAME", self._name)  # a user may be forbidden to name connections
        if self._to_master:
            hello = _tolerated(connection, "HELLO", *(("3",) if self._resp3 else ()))
            self.speaks_resp3 = isinstance(hello, dict)
            if _is_replica(hello):
                raise _IsReplica("it is a replica")
        # Finds a server that lets nobody work yet.
        connection.send_command("PING")
        connection.read_response()


def _tolerated(connection: Any, *command: str) -> Any:
    """The answer; None when it is an error."""
    connection.send_command(*command)
    try:
        return connection.read_response()
    except ResponseError:
        return None


def _reason(error: Exception, otherwise: str) -> str:
    """What the system said, which redis-py keeps behind its own error."""
    cause = error if isinstance(error, OSError) else error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted ({cause.verify_message})"
    text = (cause.strerror if isinstance(cause, OSError) else None) or otherwise
    return f"{text[:1].lower()}{text[1:]}".rstrip(".")

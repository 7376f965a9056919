"""One Redis server: how redis-py connects to it for the layer, and what its failures are to the layer's callers.

redis-py does the connecting, the handshake and the protocol. What the layer sets itself: nothing is sent twice (a
command whose reply did not come may have been executed), every wait is bounded, and each failure is a
``LayerUnavailable`` that names the server and no password. Knows no commands but those of the handshake.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
import weakref
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

from offload.exceptions import LayerUnavailable, LayerUnreachable
from offload.layers.redis.access import Access
from offload.layers.redis.address import RedisAddress
from offload.layers.redis.wire import Wire, threads_are_greenlets

UNKNOWN = "it is unknown whether the command was executed"
_CONNECTIONS = 1_000_000  # redis-py's own limit is lower than the number of greenlets that may wait at a time
_REFUSALS = (ResponseError, AuthenticationError, BusyLoadingError, MasterDownError)


def give_way() -> None:
    """Let the other greenlets have their turn. Threads get theirs anyway, and would pay for the call: a sleep of no
    time takes Linux a tenth of a millisecond."""
    if threads_are_greenlets():
        time.sleep(0)


def refuse_real_thread() -> None:
    """Raises ``LayerUnreachable`` in a real thread among greenlets."""
    if threads_are_greenlets() and not sys.modules["gevent"].get_hub().main_hub:
        raise LayerUnreachable(
            "layer 'redis' cannot be used by a real thread of a process that gevent has patched; have a greenlet of the"
            " main thread do it"
        )


class Refused(LayerUnreachable):
    """The server has answered with an error, and executed nothing."""


class SlotMoved(Refused):
    """A node of a cluster has not got a key's slot.

    Attributes:
        host, port: who has it.
        asking: for this key only, since the slot is just being moved.
    """

    def __init__(self, shown: str, error: AskError) -> None:
        super().__init__(
            f"layer 'redis' was refused by {shown}: another node of its cluster has this key;"
            " write 'redis+cluster://' for 'redis://'"
        )
        self.host: str = error.host
        self.port: int = error.port
        self.asking = not isinstance(error, MovedError)


class Server:
    """Makes connections.

    Args:
        connect_timeout: seconds for opening a connection.
        timeout: seconds after which a server that does not answer counts as unreachable.
        access: certificates, and the Sentinels' user.
    """

    def __init__(
        self,
        address: RedisAddress,
        connect_timeout: float,
        timeout: float,
        access: Access,
    ) -> None:
        self.shown = address.shown
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.thread_of: Callable[[], int] | None = None
        """What tells in which thread of the system a greenlet runs, where gevent has patched this process."""
        if threads_are_greenlets():
            self.thread_of = sys.modules["gevent.monkey"].get_original("_thread", "get_ident")
        self.home = 0
        """The thread of the greenlets, once it is known: connections are of use to its event loop alone."""
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()
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
        self._arguments["connection_class"] = _telling(connection_class, self)

    def pool(self, duty: str, read_timeout: float) -> ConnectionPool:
        """
        Args:
            duty: is part of what ``CLIENT LIST`` shows.
            read_timeout: seconds without progress.
        """
        return self._kind()(
            max_connections=_CONNECTIONS,
            socket_connect_timeout=self.connect_timeout,
            socket_timeout=read_timeout,
            health_check_interval=0,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            redis_connect_func=_greeting(self._name(duty), to_master=True),
            **self._arguments,
        )

    def _kind(self) -> Callable[..., ConnectionPool]:
        if not self._address.service:
            return ConnectionPool
        arguments = {
            **self._access.to_sentinels(self._address.encrypted),
            "socket_connect_timeout": self.connect_timeout,
            "socket_timeout": self.timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "redis_connect_func": _greeting(self._name("sentinel")),
        }
        return partial(SentinelConnectionPool, self._address.service, _Watchers(self._address.sentinels, arguments))

    def _name(self, duty: str) -> str:
        """As `CLIENT LIST` shows it, where a space may not be."""
        return f"offload-{duty}-{socket.gethostname()}-{os.getpid()}".replace(" ", "-")

    def drop(self) -> None:
        """In a forked child: give the descriptors back, and leave the parent's connections as they are.

        Without the pools, whose locks a thread of the parent may have held. redis-py tells that it was forked and
        closes its sockets without shutting them down.
        """
        for connection in list(self._made):
            connection.disconnect()

    def check_thread(self) -> None:
        """As `refuse_real_thread`, and quick."""
        if self.thread_of is not None and self.thread_of() != self.home:
            refuse_real_thread()
            self.home = self.thread_of()

    def check(self, hello: object) -> None:
        """Raises ``LayerUnreachable`` where a server of that answer to ``HELLO`` is of no use."""
        if _is_replica(hello):
            raise self.is_replica()

    def is_replica(self) -> LayerUnreachable:
        return LayerUnreachable(
            f"layer 'redis' cannot use {self.shown}: it is a replica; name its master, or the Sentinels that know it"
        )

    def silence(self, consequence: str = UNKNOWN) -> LayerUnavailable:
        return LayerUnavailable(
            f"layer 'redis' got no answer from {self.shown} within {self.timeout:g} s; {consequence}"
        )

    def failure(self, error: Exception) -> LayerUnavailable:
        """What redis-py raised for a command."""
        if isinstance(error, LayerUnavailable):
            return error
        if isinstance(error, RedisTimeoutError):
            return self.silence()
        if isinstance(error, _REFUSALS):
            return self.refusal(error)
        if isinstance(error, InvalidResponse):
            return LayerUnavailable(
                f"layer 'redis' lost {self.shown}: it does not speak Redis's protocol ({error}); {UNKNOWN}"
            )
        return LayerUnavailable(f"layer 'redis' lost {self.shown}: {_reason(error, 'connection closed')}; {UNKNOWN}")

    def refusal(self, error: Exception) -> LayerUnavailable:
        """The server answered, with an error."""
        for word, kind in (("MOVED ", MovedError), ("ASK ", AskError)):
            # Before its version 6, redis-py knows these in its own client of a cluster only.
            if str(error).startswith(word):
                error = kind(str(error).removeprefix(word))
        if isinstance(error, AskError):
            return SlotMoved(self.shown, error)
        return Refused(f"layer 'redis' was refused by {self.shown}: {str(error).rstrip('.')}")

    def _unreachable(self, error: Exception) -> LayerUnavailable:
        """What redis-py raised for connecting."""
        if isinstance(error, _IsReplica):
            return self.is_replica()
        if isinstance(error, (*_REFUSALS, InvalidResponse)):
            return self.failure(error)
        if isinstance(error, RedisTimeoutError):
            # Of connecting, or of the handshake.
            waited = self.connect_timeout if isinstance(error.__context__, TimeoutError) else self.timeout
            reason = f"no answer within {waited:g} s"
        else:
            reason = _reason(error, str(error))
        return LayerUnreachable(
            f"layer 'redis' cannot reach {self.shown}: {reason}; start Redis there, or choose another layer"
        )


class _Telling(Wire):
    """A connection that tells why it could not be opened, and lets itself be found after a fork."""

    server: Server

    def connect(self) -> None:
        self.server._made.add(self)
        try:
            super().connect()
        except (RedisError, UnicodeError) as error:
            # The second is a host's that cannot be a name.
            raise self.server._unreachable(error) from None


def _telling(connection_class: type[Any], server: Server) -> type[Any]:
    return type(connection_class.__name__, (_Telling, connection_class), {"server": server})


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
    if not isinstance(hello, list):
        return False
    fields = dict(zip(hello[::2], hello[1::2], strict=False))
    return fields.get(b"role") == b"replica" and fields.get(b"mode") != b"cluster"


def is_a_replicas(error: ResponseError) -> bool:
    """Whether this is how a replica refuses to write."""
    # A script's error says so further behind, before Redis 7.
    return isinstance(error, ReadOnlyError) or "READONLY " in str(error)


def _greeting(name: str, to_master: bool = False) -> Callable[[Any], None]:
    def greet(connection: Any) -> None:
        connection.on_connect()
        try:
            connection.send_command("CLIENT", "SETNAME", name)
            connection.read_response()
        except ResponseError:
            pass  # a user may be forbidden to name connections
        if to_master:
            try:
                connection.send_command("HELLO")
                hello = connection.read_response()
            except ResponseError:
                hello = None  # forbidden
            if _is_replica(hello):
                raise _IsReplica("it is a replica")
        # Finds a server that lets nobody work yet.
        connection.send_command("PING")
        connection.read_response()

    return greet


def _reason(error: Exception, otherwise: str) -> str:
    """What the system said, which redis-py keeps behind its own error."""
    cause = error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted ({cause.verify_message})"
    text = (cause.strerror if isinstance(cause, OSError) else None) or otherwise
    return f"{text[:1].lower()}{text[1:]}"

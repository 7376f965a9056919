"""One Redis server: how redis-py connects to it for the layer, and what its failures are to the layer's callers.

redis-py does the connecting, the handshake and the protocol. What the layer sets itself: nothing is sent twice (a
command whose reply did not come may have been executed), every wait is bounded, and each failure is a
``LayerUnavailable`` that names the server and no password. Knows no commands but those of the handshake.
"""

from __future__ import annotations

import inspect
import os
import socket
import ssl
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from types import BuiltinFunctionType
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionPool, SSLConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection

from offload.exceptions import LayerUnavailable
from offload.layers.redis_address import RedisAddress

UNKNOWN = "it is unknown whether the command was executed"
_READ_SIZE = 64 * 1024
_CONNECTIONS = 1_000_000  # redis-py's own limit is lower than the number of greenlets that may wait at a time
_READS_AT_ONCE = "timeout" in inspect.signature(Connection.read_response).parameters
_REFUSALS = (ResponseError, AuthenticationError, BusyLoadingError, MasterDownError)


def threads_are_greenlets() -> bool:
    """Whether gevent has patched this process."""
    return not isinstance(time.sleep, BuiltinFunctionType)


def give_way() -> None:
    """Let the other greenlets have their turn. Threads get theirs anyway, and would pay for the call: a sleep of no
    time takes Linux a tenth of a millisecond."""
    if threads_are_greenlets():
        time.sleep(0)


def next_reply(connection: Any) -> Any:
    """A reply that has come already; redis-py's timeout when there is none.

    Does not wait: redis-py's `can_read` does not either, but in its newer versions asks ``poll``, which under gevent
    takes a turn of the loop and a millisecond.
    """
    if _READS_AT_ONCE:
        return connection.read_response(timeout=0, disconnect_on_error=False)
    if connection.can_read(0):
        return connection.read_response(disconnect_on_error=False)
    raise RedisTimeoutError


def is_stale(connection: Any) -> bool:
    """Whether the server has closed the connection, or said something, while nothing was asked."""
    try:
        next_reply(connection)
    except RedisTimeoutError:
        return False
    except RedisError:
        return True
    return True


class SlotMoved(LayerUnavailable):
    """A node of a cluster has not got a key's slot; it has executed nothing.

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
        tls: redis-py's arguments for TLS.
        sentinel: redis-py's arguments for connections to the Sentinels.
    """

    def __init__(
        self,
        address: RedisAddress,
        connect_timeout: float,
        timeout: float,
        tls: Mapping[str, Any],
        sentinel: Mapping[str, Any],
    ) -> None:
        self.shown = address.shown
        self.timeout = timeout
        self._connect_timeout = connect_timeout
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()
        self._arguments = dict(address.arguments)
        self._address = address
        self._sentinel = sentinel
        plain = SentinelManagedConnection if address.service else Connection
        connection_class: type[Any] = self._arguments.pop("connection_class", plain)
        if issubclass(connection_class, SSLConnection):
            self._arguments.update(tls)
        if "path" not in self._arguments:
            self._arguments["socket_keepalive"] = True
        self._arguments["connection_class"] = _telling(connection_class, self)

    def pool(self, duty: str, read_timeout: float) -> ConnectionPool:
        """
        Args:
            duty: is part of what ``CLIENT LIST`` shows.
            read_timeout: seconds without progress.
        """
        # As `CLIENT LIST` shows it, where a space may not be.
        name = f"offload-{duty}-{socket.gethostname()}-{os.getpid()}".replace(" ", "-")
        return self._kind()(
            max_connections=_CONNECTIONS,
            socket_connect_timeout=self._connect_timeout,
            socket_timeout=read_timeout,
            socket_read_size=_READ_SIZE,
            health_check_interval=0,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            redis_connect_func=_greeting(name),
            **self._arguments,
        )

    def _kind(self) -> Callable[..., ConnectionPool]:
        if not self._address.service:
            return ConnectionPool
        arguments = {
            **self._sentinel,
            "socket_connect_timeout": self._connect_timeout,
            "socket_timeout": self.timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        sentinel = Sentinel(self._address.sentinels, sentinel_kwargs=arguments)  # type: ignore[no-untyped-call]
        return partial(SentinelConnectionPool, self._address.service, sentinel)

    def drop(self) -> None:
        """In a forked child: give the descriptors back, and leave the parent's connections as they are.

        Without the pools, whose locks a thread of the parent may have held. redis-py tells that it was forked and
        closes its sockets without shutting them down.
        """
        for connection in list(self._made):
            connection.disconnect()

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
        return LayerUnavailable(f"layer 'redis' was refused by {self.shown}: {str(error).rstrip('.')}")

    def _unreachable(self, error: Exception) -> LayerUnavailable:
        """What redis-py raised for connecting."""
        if isinstance(error, (*_REFUSALS, InvalidResponse)):
            return self.failure(error)
        if isinstance(error, RedisTimeoutError):
            # Of connecting, or of the handshake.
            waited = self._connect_timeout if isinstance(error.__context__, TimeoutError) else self.timeout
            reason = f"no answer within {waited:g} s"
        else:
            reason = _reason(error, str(error))
        return LayerUnavailable(
            f"layer 'redis' cannot reach {self.shown}: {reason}; start Redis there, or choose another layer"
        )


class _Telling:
    """A connection that tells why it could not be opened, and lets itself be found after a fork."""

    server: Server

    def connect(self) -> None:
        self.server._made.add(self)
        try:
            super().connect()  # type: ignore[misc]
        except RedisError as error:
            raise self.server._unreachable(error) from None


def _telling(connection_class: type[Any], server: Server) -> type[Any]:
    return type(connection_class.__name__, (_Telling, connection_class), {"server": server})


def _greeting(name: str) -> Callable[[Any], None]:
    def greet(connection: Any) -> None:
        connection.on_connect()
        try:
            connection.send_command("CLIENT", "SETNAME", name)
            connection.read_response()
        except ResponseError:
            pass  # a user may be forbidden to name connections
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

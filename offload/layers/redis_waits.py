"""Waiting for messages of queues on one Redis server: each who waits has a connection for as long as that takes.

Knows no layer, and nothing of other servers but that another may win the race for a message.
"""

from __future__ import annotations

import time
from _thread import RLock
from collections.abc import Callable, Sequence
from typing import Any

from redis import ConnectionPool, Redis
from redis.exceptions import RedisError

from offload.exceptions import LayerUnavailable
from offload.layers.redis_commands import Commands
from offload.layers.redis_scripts import GIVE_BACK
from offload.layers.redis_server import Server

ROUND = 2.0  # seconds of one blocking command: how long a server that froze goes unnoticed, besides the timeout


class Waits:
    """Waits on one server."""

    def __init__(self, server: Server, commands: Commands) -> None:
        self._server = server
        self._commands = commands
        self._lock = RLock()
        self._pool: ConnectionPool | None = None
        self._closed = False

    def wait(
        self, keys: Sequence[str], deadline: float | None, goes_on: Callable[[Callable[[], None]], bool] | None = None
    ) -> tuple[str, bytes] | None:
        """The next item of any of these queues, and the queue's key; None when none came in time.

        Args:
            goes_on: is asked before each round, and given what ends the waiting from another thread.

        Raises:
            LayerUnavailable
        """
        try:
            with Redis(connection_pool=self._open(), single_connection_client=True) as client:
                end = None if goes_on is None else self._ender(client)
                while goes_on is None or end is None or goes_on(end):
                    left = ROUND if deadline is None else min(ROUND, deadline - time.monotonic())
                    if left <= 0:
                        break
                    # Zero would mean for ever. No message can have expired here: it comes as it is pushed.
                    popped: Any = client.blpop(list(keys), max(0.001, left))
                    if popped is not None:
                        return popped[0].decode(), popped[1]
        except (RedisError, LayerUnavailable) as error:
            raise self._server.failure(error) from None
        return None

    def give_back(self, key: str, item: bytes) -> None:
        """Put an item at the head of its queue, as if it had not been taken."""
        self._commands.run_script(GIVE_BACK, [key], item)

    def close(self) -> None:
        """For good. Whoever waits gets ``LayerUnavailable``."""
        with self._lock:
            self._closed = True
            pool = self._pool
        if pool is not None:
            pool.disconnect()

    def _ender(self, client: Redis) -> Callable[[], None]:
        number = client.client_id()

        def end() -> None:
            self._commands.run("CLIENT", "UNBLOCK", number)

        return end

    def _open(self) -> ConnectionPool:
        with self._lock:
            if self._closed:
                raise LayerUnavailable("layer 'redis' was closed meanwhile; nothing was taken")
            if self._pool is None:
                self._pool = self._server.pool("receive", ROUND + self._server.timeout)
            return self._pool

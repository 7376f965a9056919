"""Waiting for messages of queues on one Redis server.

What is there already is taken by a script, together with other senders' commands. Only who has to wait gets a
connection for itself, for as long as it waits. Knows no layer.
"""

from __future__ import annotations

import time
from _thread import RLock
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from offload.exceptions import LayerUnavailable
from offload.layers.redis_commands import Commands
from offload.layers.redis_scripts import TAKE, payload_of
from offload.layers.redis_server import Server

ROUND = 2.0  # seconds of one blocking command: how long a server that froze goes unnoticed, besides the timeout


class Takes:
    """Takes messages.

    Args:
        expired: told how many messages were found to have expired.
    """

    def __init__(self, server: Server, commands: Commands, expired: Callable[[int], None]) -> None:
        self._server = server
        self._commands = commands
        self._expired = expired
        self._lock = RLock()
        self._client: Redis | None = None
        self._closed = False
        self._turn = 0

    def take(self, keys: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        """The next message of any of these queues, as the queue's key and the payload; None when none came in time.

        Raises:
            LayerUnavailable
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        # Redis serves the first queue that has something: each takes its turn at being first.
        self._turn = turn = (self._turn + 1) % 1_000_000
        turn %= len(keys)
        keys = [*keys[turn:], *keys[:turn]]
        expired, *found = self._commands.run_script(TAKE, keys)
        if expired:
            self._expired(expired)
        if found:
            number, item = found
            return keys[number - 1], payload_of(item)
        client = self._waiting_client()
        while True:
            left = ROUND if deadline is None else min(ROUND, deadline - time.monotonic())
            if left <= 0:
                return None
            try:
                # Zero would mean for ever. No message can have expired here: it comes as it is pushed.
                popped: Any = client.blpop(keys, max(0.001, left))
            except (RedisError, LayerUnavailable) as error:
                raise self._server.failure(error) from None
            if popped is not None:
                return popped[0].decode(), payload_of(popped[1])

    def close(self) -> None:
        """For good. Whoever waits gets ``LayerUnavailable``."""
        with self._lock:
            self._closed = True
            client = self._client
        if client is not None:
            client.connection_pool.disconnect()

    def _waiting_client(self) -> Redis:
        with self._lock:
            if self._closed:
                raise LayerUnavailable("layer 'redis' was closed meanwhile; nothing was taken")
            if self._client is None:
                self._client = Redis(connection_pool=self._server.pool("receive", ROUND + self._server.timeout))
            return self._client

"""Commands to one Redis server: callers queue them, and all that is queued goes out together.

It is not redis-py's ``Pipeline``, which looks at the pool first: under gevent that takes longer than the round trip.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from offload.exceptions import LayerUnreachable
from offload.layers.link.future import Future, Unclaimed
from offload.layers.link.link import Call, Connection, Link, Note, User
from offload.layers.link.outage import Outage
from offload.layers.redis.resp import Argument, Wire, pack
from offload.layers.redis.scripts import Script
from offload.layers.redis.server import COMMANDS, Server, is_a_replicas

logger = logging.getLogger("offload.layer")

_HELLO, _ASKING = pack("HELLO"), pack("ASKING")
_LOOK_EVERY = 2.0  # seconds for which a master is taken for one


class _Command(Future):
    """Somebody waits for its reply."""

    __slots__ = ("answers", "packed")

    optional = False

    def __init__(self, packed: bytes, asking: bool, unclaimed: Unclaimed | None) -> None:
        super().__init__(unclaimed)
        # A node of a cluster wants to hear the word for a slot that it is just being given.
        self.packed = _ASKING + packed if asking else packed
        self.answers = 1 + asking

    def abort(self, outage: Outage, *, sent: bool) -> None:
        self.fail(outage.error(sent=sent))


class Commands(User[Wire]):
    """Runs commands.

    Args:
        demoted: is called, and may not wait, when the server is found to have become a replica meanwhile.

    Attributes:
        link: carries them.
    """

    def __init__(self, server: Server, demoted: Callable[[], None]) -> None:
        self._server = server
        self._demoted = demoted
        self._next_look = 0.0
        self._is_replica = False
        self.link = Link(server, COMMANDS, self)

    def run(self, *command: Argument, asking: bool = False) -> Any:
        """Send one command and wait for its reply.

        Args:
            asking: whether the server is a node of a cluster that is just being given the key's slot.

        Raises:
            LayerUnavailable: no connection, no reply in time, or a reply that is an error.
        """
        return self._checked(self._run(pack(*command), asking))

    def run_script(
        self,
        script: Script,
        keys: Sequence[str],
        *arguments: Argument,
        asking: bool = False,
        unclaimed: Unclaimed | None = None,
    ) -> Any:
        """As `run`, for a script; one that the server does not know, or no more, is sent along.

        Args:
            unclaimed: as of `Future`; a reply may be an error.
        """
        reply = self._run(pack("EVALSHA", script.sha, len(keys), *keys, *arguments), asking, unclaimed)
        if isinstance(reply, NoScriptError):
            # It was not executed, so it may be sent again.
            reply = self._run(pack("EVAL", script.text, len(keys), *keys, *arguments), asking, unclaimed)
        return self._checked(reply)

    def _run(self, packed: bytes, asking: bool, unclaimed: Unclaimed | None = None) -> Any:
        self._server.home.check()
        if time.monotonic() >= self._next_look and self.link.is_open:
            self._next_look = time.monotonic() + _LOOK_EVERY
            self.link.submit(Note(_HELLO, self._look_at))
        command = _Command(packed, asking, unclaimed)
        self.link.submit(command)
        # Bounded by the link: its server is silent for no longer than the timeout, for connecting or an answer.
        return command.result()

    def _checked(self, reply: Any) -> Any:
        if isinstance(reply, RedisError):
            raise self._server.refusal(reply)
        return reply

    def _look_at(self, hello: Any) -> None:
        """What publishes does not fail on a replica."""
        try:
            self._server.check(hello)
        except LayerUnreachable:
            self._leave_replica()

    def _leave_replica(self) -> None:
        """Have the next commands connect anew, which finds the master, or says that this is none."""
        if not self._is_replica:
            self._is_replica = True
            logger.warning("layer 'redis': %s has become a replica; connecting anew", self._server.shown)
            self.link.renew()
            self._demoted()

    # What the link calls

    def opened(self, wire: Wire) -> Sequence[Call]:
        self._is_replica = False
        self._next_look = time.monotonic() + _LOOK_EVERY
        return ()

    def came(self, replies: list[Any], connection: Connection[Wire]) -> None:
        for reply in replies:
            connection.answer(reply)
            if isinstance(reply, ResponseError) and is_a_replicas(reply):
                self._leave_replica()

"""Commands to one Redis server: what several senders ask for at a time goes out as one pipeline.

It is not redis-py's ``Pipeline``, which first looks at the pool, which takes longer under gevent than the round trip,
and tells nobody anything before the last reply.

Each puts its command into a list, and one takes all that are there along. Where threads are greenlets, one of its own
does that, so that the senders of one turn of the loop meet, and a sender that is killed takes nobody with it. Threads
do it themselves, without one more: who finds nobody sending leads, and hands the lead to the first of those who came
meanwhile. A lone sender pays one round trip, a crowd shares it.

The lock guards the list and is never held over the network (its kind: see ``offload.layers.subscriptions``).
"""

from __future__ import annotations

import _thread
import logging
import threading
from _thread import RLock
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from offload.exceptions import LayerUnavailable
from offload.layers.redis_scripts import Script
from offload.layers.redis_server import UNKNOWN, Server
from offload.layers.redis_wire import Argument, threads_are_greenlets

logger = logging.getLogger("offload.layer")

_BATCH_BYTES = 1024 * 1024
_BATCH_COMMANDS = 1000
_CLOSED = "layer 'redis' was closed meanwhile; the command was not sent"


class _Call:
    """A command, and what became of it."""

    __slots__ = ("asking", "command", "done", "error", "gate", "leads", "reply", "size")

    def __init__(self, command: tuple[Argument, ...], asking: bool) -> None:
        self.command = command
        self.asking = asking
        self.size = sum([len(part) for part in command if not isinstance(part, int)])
        self.reply: Any = None
        self.error: str | None = None
        self.done = False
        self.gate: Any = None  # a taken lock, for who waits
        self.leads = False  # a thread's, that is to send

    def end(self, reply: Any = None, error: str | None = None) -> None:
        self.reply = reply
        self.error = error
        self.done = True
        if self.gate is not None:
            self.gate.release()


class Commands:
    """Runs commands over one connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = RLock()
        self._pending: deque[_Call] = deque()
        self._sending = False  # whether somebody does
        self._connection: Any = None
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """Whether commands are on their way, or about to be."""
        return self._sending

    def run(self, *command: Argument, asking: bool = False) -> Any:
        """Send one command and wait for its reply.

        Args:
            asking: with the word that a node of a cluster wants to hear for a slot that it is just being given.

        Raises:
            LayerUnavailable: no connection, no reply in time, or a reply that is an error.
        """
        return self._checked(self._run(command, asking))

    def run_script(self, script: Script, keys: Sequence[str], *arguments: Argument, asking: bool = False) -> Any:
        """As `run`, for a script; one that the server does not know, or no more, is sent along."""
        reply = self._run(("EVALSHA", script.sha, len(keys), *keys, *arguments), asking)
        if isinstance(reply, NoScriptError):
            # It was not executed, so it may be sent again.
            reply = self._run(("EVAL", script.text, len(keys), *keys, *arguments), asking)
        return self._checked(reply)

    def close(self) -> None:
        """For good. Whoever waits for a reply gets ``LayerUnavailable``."""
        with self._lock:
            self._closed = True
            connection = self._connection
        if connection is not None:
            connection.disconnect()

    def _checked(self, reply: Any) -> Any:
        if isinstance(reply, RedisError):
            raise self._server.failure(reply)
        return reply

    def _run(self, command: tuple[Argument, ...], asking: bool) -> Any:
        call = _Call(command, asking)
        greenlets = threads_are_greenlets()
        with self._lock:
            leads, self._sending = not self._sending, True
            if greenlets or not leads:
                call.gate = threading.Lock()
                call.gate.acquire()
            call.leads = leads and not greenlets
            self._pending.append(call)
        try:
            if leads and greenlets:
                _thread.start_new_thread(self._send_all, ())
            if call.gate is not None:
                # Bounded, as every step on the network is.
                call.gate.acquire()
            if not call.done:
                self._lead(call)
        except BaseException:
            # Whoever waits is being killed; what has not been taken along stays here.
            self._withdraw(call)
            if call.leads:
                self._hand_over()
            raise
        if call.error is not None:
            raise LayerUnavailable(call.error)
        return call.reply

    def _send_all(self) -> None:
        """In a greenlet of its own."""
        try:
            while True:
                with self._lock:
                    if not self._pending:
                        self._sending = False
                        return
                self._send_some()
        except BaseException:
            # An interrupt of the whole process, which came here: the next command starts another.
            self._sending = False
            raise

    def _lead(self, call: _Call) -> None:
        """In a caller's thread: send until its own command is done, and leave the rest to the next."""
        try:
            while not call.done:
                self._send_some()
        finally:
            self._withdraw(call)
            call.leads = False
            self._hand_over()

    def _withdraw(self, call: _Call) -> None:
        with self._lock:
            if not call.done and call in self._pending:
                self._pending.remove(call)

    def _hand_over(self) -> None:
        with self._lock:
            heir = self._pending[0] if self._pending else None
            self._sending = heir is not None
            if heir is not None:
                heir.leads = True
        if heir is not None:
            heir.gate.release()

    def _send_some(self) -> None:
        calls: list[_Call] = []
        size = 0
        with self._lock:
            pending = self._pending
            while pending and len(calls) < _BATCH_COMMANDS and (not calls or size + pending[0].size <= _BATCH_BYTES):
                size += pending[0].size
                calls.append(pending.popleft())
        try:
            self._execute(calls)
        except (RedisError, LayerUnavailable) as error:
            # One bounded wait for all who came during it, not one after the other.
            with self._lock:
                late = list(pending)
                pending.clear()
            reason = str(self._server.failure(error))
            _fail(calls, reason)
            _fail(late, reason.replace(UNKNOWN, "the command was not sent"))
        except BaseException as error:
            _fail(calls, f"layer 'redis' gave up a batch of commands to {self._server.shown}; {UNKNOWN}")
            if not isinstance(error, Exception):
                raise
            logger.exception("sending to %s failed", self._server.shown)

    def _execute(self, calls: list[_Call]) -> None:
        connection = self._open()
        try:
            commands: list[tuple[Argument, ...]] = []
            for call in calls:
                if call.asking:
                    commands.append(("ASKING",))
                commands.append(call.command)
            connection.write(commands)
            for call in calls:
                if call.asking:
                    connection.reply()
                call.end(connection.reply())
        except BaseException:
            # It is not known what was read.
            connection.disconnect()
            raise

    def _open(self) -> Any:
        with self._lock:
            if self._closed:
                raise LayerUnavailable(_CLOSED)
            if self._connection is None:
                self._connection = self._server.pool("commands", self._server.timeout).make_connection()
            connection = self._connection
        if connection.is_open and connection.is_stale():
            connection.disconnect()
        if not connection.is_open:
            connection.connect()
        return connection


def _fail(calls: Iterable[_Call], error: str) -> None:
    for call in calls:
        if not call.done:
            call.end(error=error)

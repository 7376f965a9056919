"""Commands to one Redis server: what several senders ask for at a time goes out as one pipeline.

It is not redis-py's ``Pipeline``, which first looks at the pool, which takes longer under gevent than the round trip,
and tells nobody anything before the last reply.

Each puts its command into a list; who finds nobody sending leads, and takes all along that are there. A thread hands
the lead to the first of those who came meanwhile. A greenlet leaves them to one that does nothing else, and what it has
not read when it is killed, too, so that it takes nobody with it. A lone sender pays one round trip, a crowd shares it.

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

from offload.exceptions import LayerUnavailable, LayerUnreachable
from offload.layers.redis_scripts import Script
from offload.layers.redis_server import UNKNOWN, Server, give_way
from offload.layers.redis_wire import Argument, threads_are_greenlets

logger = logging.getLogger("offload.layer")

_BATCH_BYTES = 1024 * 1024
_BATCH_COMMANDS = 1000
_ALONE = 8  # most commands in a row that are sent without looking for company
_NOT_SENT = "the command was not sent"
_CLOSED = f"layer 'redis' was closed meanwhile; {_NOT_SENT}"


class _Call:
    """A command, and what became of it."""

    __slots__ = ("asking", "command", "done", "error", "gate", "leads", "reply", "size")

    def __init__(self, command: tuple[Argument, ...], asking: bool) -> None:
        self.command = command
        self.asking = asking
        self.size = sum([len(part) for part in command if not isinstance(part, int)])
        self.reply: Any = None
        self.error: LayerUnavailable | None = None
        self.done = False
        self.gate: Any = None  # a taken lock, for who waits
        self.leads = False  # a thread's, that is to send

    def end(self, reply: Any = None, error: LayerUnavailable | None = None) -> None:
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
        self._alone = 0  # commands that were sent one at a time since others had their turn
        self._connection: Any = None
        # Whose replies a greenlet that was killed has left to be read.
        self._left: deque[_Call | None] | None = None
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

    def drop(self) -> None:
        """In a forked child: what greenlets of the parent were about to send is the parent's to send."""
        self._closed = True

    def _checked(self, reply: Any) -> Any:
        if isinstance(reply, RedisError):
            raise self._server.failure(reply)
        return reply

    def _run(self, command: tuple[Argument, ...], asking: bool) -> Any:
        call = _Call(command, asking)
        with self._lock:
            call.leads, self._sending = not self._sending, True
            if not call.leads:
                call.gate = threading.Lock()
                call.gate.acquire()
            self._pending.append(call)
        try:
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
            raise call.error
        return call.reply

    def _send_all(self, expected: deque[_Call | None] | None = None) -> None:
        """In a greenlet of its own.

        Args:
            expected: whose replies are to be read first.
        """
        try:
            if expected:
                self._finish(expected)
            while True:
                with self._lock:
                    if not self._pending:
                        self._sending = False
                        return
                self._send_some()
        except BaseException:
            # An interrupt of the whole process, which came here; nobody is left waiting for what it did not do.
            left, self._left = self._left, None
            if left is not None:
                self._abandon(left)
            with self._lock:
                late = list(self._pending)
                self._pending.clear()
                self._sending = False
            _fail(late, LayerUnreachable, self._abandoned.replace(UNKNOWN, _NOT_SENT))
            raise

    def _lead(self, call: _Call) -> None:
        """In a caller's thread or greenlet: send until its own command is done, and leave the rest to the next."""
        try:
            self._alone += 1
            if self._alone > _ALONE:
                # Whoever else sends in this turn of the loop comes along.
                self._alone = 0
                give_way()
            while not call.done:
                self._send_some()
        finally:
            self._withdraw(call)
            call.leads = False
            if self._left is None:
                self._hand_over()
            else:
                expected, self._left = self._left, None
                _thread.start_new_thread(self._send_all, (expected,))

    def _withdraw(self, call: _Call) -> None:
        with self._lock:
            if not call.done and call in self._pending:
                self._pending.remove(call)

    def _hand_over(self) -> None:
        with self._lock:
            heir = self._pending[0] if self._pending else None
            self._sending = heir is not None
            if heir is None:
                return
            greenlets = threads_are_greenlets()
            heir.leads = not greenlets
        if greenlets:
            _thread.start_new_thread(self._send_all, ())
        else:
            heir.gate.release()

    def _send_some(self) -> None:
        calls: deque[_Call] = deque()
        size = 0
        with self._lock:
            pending = self._pending
            while pending and len(calls) < _BATCH_COMMANDS and (not calls or size + pending[0].size <= _BATCH_BYTES):
                size += pending[0].size
                calls.append(pending.popleft())
        if len(calls) > 1:
            self._alone = _ALONE
        try:
            connection = self._open()
        except Exception as error:  # noqa: BLE001  # each goes to those who wait
            self._give_up(calls, error)
            return
        except BaseException:
            # Nothing has been sent.
            if self._connection is not None:
                self._connection.disconnect()
            with self._lock:
                pending.extendleft(reversed(calls))
            raise
        expected: deque[_Call | None] = deque()
        commands: list[tuple[Argument, ...]] = []
        for call in calls:
            if call.asking:
                commands.append(("ASKING",))
                expected.append(None)
            commands.append(call.command)
            expected.append(call)
        try:
            connection.write(commands)
        except Exception as error:  # noqa: BLE001
            connection.disconnect()
            self._give_up(calls, error)
            return
        except BaseException:
            self._abandon(expected)
            raise
        self._finish(expected)

    def _finish(self, expected: deque[_Call | None]) -> None:
        """Read the replies to what has been sent."""
        connection = self._connection
        try:
            while expected:
                reply = connection.reply()
                call = expected.popleft()
                if call is not None:
                    call.end(reply)
        except Exception as error:  # noqa: BLE001
            # It is not known what was read.
            connection.disconnect()
            self._give_up([call for call in expected if call is not None], error)
        except BaseException:
            # Who leads is being killed; the others' replies will come all the same.
            if threads_are_greenlets():
                self._left = expected
            else:
                self._abandon(expected)
            raise

    def _give_up(self, calls: Iterable[_Call], error: Exception) -> None:
        """Let a batch fail."""
        if isinstance(error, (RedisError, LayerUnavailable)):
            # One bounded wait for all who came during it, not one after the other.
            with self._lock:
                late = list(self._pending)
                self._pending.clear()
            failure = self._server.failure(error)
            _fail(calls, type(failure), str(failure))
            _fail(late, LayerUnreachable, str(failure).replace(UNKNOWN, _NOT_SENT))
            return
        logger.error("sending to %s failed", self._server.shown, exc_info=error)
        _fail(calls, LayerUnavailable, self._abandoned)

    def _abandon(self, expected: Iterable[_Call | None]) -> None:
        if self._connection is not None:
            self._connection.disconnect()
        _fail([call for call in expected if call is not None], LayerUnavailable, self._abandoned)

    @property
    def _abandoned(self) -> str:
        return f"layer 'redis' gave up a batch of commands to {self._server.shown}; {UNKNOWN}"

    def _open(self) -> Any:
        with self._lock:
            if self._closed:
                raise LayerUnreachable(_CLOSED)
            if self._connection is None:
                self._connection = self._server.pool("commands", self._server.timeout).make_connection()
            connection = self._connection
        if connection.is_open and connection.is_stale():
            connection.disconnect()
        if not connection.is_open:
            connection.connect()
            if self._closed:
                connection.disconnect()
                raise LayerUnreachable(_CLOSED)
        return connection


def _fail(calls: Iterable[_Call], kind: type[LayerUnavailable], reason: str) -> None:
    for call in calls:
        if not call.done:
            # Each its own: one object for all would collect the tracebacks of all.
            call.end(error=kind(reason))

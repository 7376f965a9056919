"""Commands to one Redis server: what several senders ask for at a time goes out as one pipeline.

It is not redis-py's ``Pipeline``, which first looks at the pool, which takes longer under gevent than the round trip,
and tells nobody anything before the last reply.

Each puts its command into a list; who finds nobody leading leads, and takes all along that are there. A thread hands
the lead to the first of those who came meanwhile. A greenlet leaves them to one that does nothing else. What whoever
leads has not read when it is killed, or interrupted while it waits, is left to such a greenlet or thread, too, so that
it takes nobody with it. A lone sender pays one round trip, a crowd shares it.

A signal may raise an exception between any two steps of whoever leads: what is under way is always to be found at the
leader's call, no command is ever in no list, and whoever is interrupted passes the lead on. Should it be lost all the
same, those who wait take it.

The lock guards the list and is never held over the network (its kind: see ``offload.layers.local.subscriptions``).
"""

from __future__ import annotations

import _thread
import logging
import sys
import threading
import time
from _thread import RLock
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from offload.exceptions import LayerUnavailable, LayerUnreachable
from offload.layers.redis.calls import HELLO, Call, Look, Unclaimed, cut, fail
from offload.layers.redis.scripts import Script
from offload.layers.redis.server import UNKNOWN, Server, give_way, is_a_replicas
from offload.layers.redis.wire import Argument, pack, threads_are_greenlets

logger = logging.getLogger("offload.layer")

LATENESS = 60.0  # seconds that a reply may be late and still be of use to `unclaimed`
_ALONE = 8  # most commands in a row that are sent without looking for company
_NOT_SENT = "the command was not sent"
# What else is raised is a signal's, and whoever it interrupted is to see it.
_FAILURES = (RedisError, LayerUnavailable)
_ASKING = pack(("ASKING",))
_LOOK_EVERY = 2.0  # seconds for which a master is taken for one
_CLOSED = f"layer 'redis' was closed meanwhile; {_NOT_SENT}"


class Commands:
    """Runs commands over one connection.

    Args:
        demoted: is called, and may not wait, when the server is found to have become a replica meanwhile.
    """

    def __init__(self, server: Server, demoted: Callable[[], None]) -> None:
        self._server = server
        self._demoted = demoted
        self._is_replica = False  # the connection's server
        self._next_look = 0.0
        self._thread_of = server.thread_of
        self._patience = server.connect_timeout + 2 * server.timeout
        self._is_watched = False
        self._lock = RLock()
        self._pending: deque[Call] = deque()
        self._leader: Call | None = None
        self._batches = 0
        self._alone = 0  # commands that were sent one at a time since others had their turn
        self._connection: Any = None
        self._held: list[Any] = []  # connections that were given up, whose replies are of use all the same
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """Whether commands are on their way, or about to be."""
        return self._leader is not None

    def run(self, *command: Argument, asking: bool = False) -> Any:
        """Send one command and wait for its reply.

        Args:
            asking: with the word that a node of a cluster wants to hear for a slot that it is just being given.

        Raises:
            LayerUnavailable: no connection, no reply in time, or a reply that is an error.
        """
        return self._checked(self._run(command, asking))

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
            unclaimed: is called with the reply when whoever asked has left, by an exception from here, and with None
                when it is never known. It must not wait.
        """
        reply = self._run(("EVALSHA", script.sha, len(keys), *keys, *arguments), asking, unclaimed)
        if isinstance(reply, NoScriptError):
            # It was not executed, so it may be sent again.
            reply = self._run(("EVAL", script.text, len(keys), *keys, *arguments), asking, unclaimed)
        return self._checked(reply)

    def close(self) -> None:
        """For good. Whoever waits for a reply gets ``LayerUnavailable``."""
        with self._lock:
            self._closed = True
            connections = [*self._held, self._connection]
        for connection in filter(None, connections):
            connection.disconnect()

    def drop(self) -> None:
        """In a forked child: what greenlets of the parent were about to send is the parent's to send."""
        self._closed = True

    def _checked(self, reply: Any) -> Any:
        if isinstance(reply, RedisError):
            raise self._server.failure(reply)
        return reply

    def _run(self, command: tuple[Argument, ...], asking: bool, unclaimed: Unclaimed | None = None) -> Any:
        if self._thread_of is not None and self._thread_of() != self._server.home:
            self._server.check_thread()
        if self._leader is not None and self._is_nested():
            apart = Commands(self._server, self._demoted)
            try:
                return apart._run(command, asking, unclaimed)
            finally:
                apart.close()
        call = Call(pack(command), asking, unclaimed)
        try:
            with self._lock:
                if self._leader is None:
                    self._leader = call
                else:
                    call.gate = threading.Lock()
                    call.gate.acquire()
                self._pending.append(call)
            if call.gate is not None:
                self._wait(call)
            if not call.done:
                self._lead(call)
        except BaseException as error:
            self._break_off(call, error)
            raise
        if call.error is not None:
            raise call.error
        return call.reply

    def _is_nested(self) -> bool:
        """Whether a signal's handler or the like sends in the middle of its own thread's send. Greenlets are not asked,
        of which a crowd is to be fast."""
        if self._is_watched or threads_are_greenlets():
            return False
        frame = sys._getframe(1).f_back  # of who runs this command
        while frame is not None:
            if frame.f_code is Commands._run.__code__ and frame.f_locals["self"] is self:
                return True
            frame = frame.f_back
        return False

    def _wait(self, call: Call) -> None:
        """Until it is done, or leads."""
        if self._is_watched or self._watch_greenlets():
            call.gate.acquire()
            return
        seen: object = None
        while not call.gate.acquire(True, self._patience):
            with self._lock:
                if call.done or self._leader is call:
                    call.gate.acquire(False)
                    return
                if (state := self._state()) != seen:
                    seen = state
                elif call in self._pending:
                    # Should whoever led still be there, it has the connection for itself.
                    self._leader, self._connection = call, None
                    return
                else:
                    call.end(error=self._server.silence())

    def _state(self) -> object:
        """Each step on the network is bounded, so it is only a lead that was lost that leaves this as it was for
        longer than their patience."""
        leader = self._leader
        return self._batches, leader, leader and leader.expected and len(leader.expected)

    def _watch_greenlets(self) -> bool:
        """Have one greenlet look after the lead for all that wait: with a timer for each, a crowd's commands cost a
        third more. Returns False where threads are threads."""
        if threads_are_greenlets():
            _thread.start_new_thread(self._watch, ())
            self._is_watched = True
        return self._is_watched

    def _watch(self) -> None:
        seen: object = None
        try:
            while True:
                time.sleep(self._patience)
                with self._lock:
                    lost = self._leader
                    if lost is None:
                        return
                    if (state := self._state()) != seen:
                        seen = state
                        continue
                    unsent = [call for call in lost.taken if call not in self._pending]
                    self._pending, lost.taken = deque([*unsent, *self._pending]), ()
                    self._connection = None
                    self._fail_unknown(lost, LayerUnavailable, str(self._server.silence()))
                    self._pass_on(lost)
        finally:
            self._is_watched = False

    def _lead(self, call: Call) -> None:
        """In a caller's thread or greenlet: send until its own command is done, and leave the rest to the next."""
        self._alone += 1
        if self._alone > _ALONE:
            # Whoever else sends in this turn of the loop comes along.
            self._alone = 0
            give_way()
        while not call.done:
            self._send_some(call)
        self._pass_on(call)

    def _send_all(self, lead: Call) -> None:
        """In a greenlet or thread of its own, which may have replies to read first."""
        if self._leader is not lead:
            return  # who started it was interrupted, and started another one
        try:
            if lead.expected:
                self._read(lead, self._connection)
            while True:
                with self._lock:
                    if not self._pending or self._leader is not lead:
                        self._pass_on(lead)
                        return
                self._send_some(lead)
        except BaseException:
            # An interrupt of the whole process, which came here; nobody is left waiting for what it did not do.
            self._abandon(lead)
            with self._lock:
                late = list(self._pending)
                self._pending.clear()
                self._pass_on(lead)
            fail([*lead.taken, *late], LayerUnreachable, self._abandoned.replace(UNKNOWN, _NOT_SENT))
            raise

    def _pass_on(self, lead: Call) -> None:
        """To the first of those who wait, if it still leads."""
        with self._lock:
            if self._leader is not lead:
                return
            if not self._pending and not lead.expected:
                self._leader = None
            elif lead.expected or threads_are_greenlets():
                heir = Call(b"")
                heir.expected = lead.expected
                _thread.start_new_thread(self._send_all, (heir,))
                self._leader = heir
            else:
                self._leader = self._pending[0]
                self._pending[0].gate.release()

    def _break_off(self, call: Call, error: BaseException) -> None:
        """Whoever waits or leads is being killed, or interrupted; what others asked for is done all the same."""
        with self._lock:
            if not call.done and call in self._pending:
                self._pending.remove(call)
            elif call.unclaimed is not None and call not in call.taken:
                call.left = True
        if call.left and call.done:
            self._leave(call, call.reply)
        with self._lock:
            if self._leader is not call:
                return
            if call.taken:
                unsent = [other for other in call.taken if other is not call and other not in self._pending]
                self._pending, call.taken = deque([*unsent, *self._pending]), ()
        # A greenlet is killed while it waits for bytes; a signal may come between a reply and the note whose it is.
        if call.expected and not (self._connection is not None and self._connection.lost_nothing(error)):
            self._abandon(call)
        self._pass_on(call)

    def _send_some(self, lead: Call) -> None:
        with self._lock:
            if self._leader is not lead:
                raise LayerUnreachable(self._abandoned.replace(UNKNOWN, _NOT_SENT))
            lead.taken, self._pending = cut(self._pending)
            self._batches += 1
        if len(lead.taken) > 1:
            self._alone = _ALONE
        try:
            connection = self._open()
        except _FAILURES as error:
            self._give_up(lead, error)
            return
        expected: deque[Call | None] = deque()
        packed: list[bytes] = []
        if (now := time.monotonic()) >= self._next_look:
            self._next_look = now + _LOOK_EVERY
            packed.append(HELLO)
            expected.append(Look(self._look_at))
        for call in lead.taken:
            if call.asking:
                packed.append(_ASKING)
                expected.append(None)
            packed.append(call.packed)
            expected.append(call)
        lead.expected, lead.taken = expected, ()
        try:
            connection.send(packed, now)
        except _FAILURES as error:
            self._give_up(lead, error)
            return
        self._read(lead, connection)

    def _read(self, lead: Call, connection: Any) -> None:
        """The replies to what has been sent."""
        expected = lead.expected
        assert expected is not None
        try:
            while expected:
                reply = connection.reply()
                call = expected[0]
                if call is not None:
                    call.end(reply)
                    if call.left:
                        self._leave(call, reply)
                    if isinstance(reply, ResponseError) and is_a_replicas(reply):
                        self._leave_replica()
                expected.popleft()
        except _FAILURES as error:
            if isinstance(error, RedisTimeoutError) and any(call and call.unclaimed for call in expected):
                # Only late, perhaps.
                self._hold(connection, expected)
            else:
                # It is not known what was read.
                connection.disconnect()
            self._give_up(lead, error)

    def _look_at(self, hello: Any) -> None:
        try:
            self._server.check(hello)
        except LayerUnreachable:
            self._leave_replica()

    def _leave_replica(self) -> None:
        """Have the next commands connect anew, which finds the master, or says that this is none."""
        if not self._is_replica:
            self._is_replica = True
            logger.warning("layer 'redis': %s has become a replica; connecting anew", self._server.shown)
            self._demoted()

    def _leave(self, call: Call, reply: Any) -> None:
        """Let a reply go to whom it is of use, once."""
        with self._lock:
            unclaimed, call.unclaimed = call.unclaimed, None
        if unclaimed is not None and call.error is None:
            unclaimed(reply)

    def _hold(self, connection: Any, expected: Iterable[Call | None]) -> None:
        """Leave a connection to a thread that waits longer for replies than those who asked."""
        unclaimed: list[Unclaimed | None] = []
        with self._lock:
            for call in expected:
                unclaimed.append(None if call is None else call.unclaimed)
                if call is not None:
                    call.unclaimed = None
            self._held.append(connection)
            if self._connection is connection:
                self._connection = None
        _thread.start_new_thread(self._read_late, (connection, unclaimed))

    def _read_late(self, connection: Any, unclaimed: list[Unclaimed | None]) -> None:
        deadline = time.monotonic() + LATENESS
        left = deque(unclaimed)
        try:
            while left:
                reply = connection.late_reply(deadline)
                claim = left.popleft()
                if claim is not None:
                    claim(reply)
        except _FAILURES:
            for claim in left:
                if claim is not None and not self._closed:
                    claim(None)
        finally:
            connection.disconnect()
            with self._lock:
                self._held.remove(connection)

    def _give_up(self, lead: Call, error: Exception) -> None:
        """Let a batch fail, and who came meanwhile: one bounded wait for all, not one after the other."""
        failure = self._server.failure(error)
        with self._lock:
            late = list(self._pending) if self._leader is lead else []
            if late:
                self._pending.clear()
        fail(lead.taken, type(failure), str(failure))
        self._fail_unknown(lead, type(failure), str(failure))
        fail(late, LayerUnreachable, str(failure).replace(UNKNOWN, _NOT_SENT))
        lead.taken = ()

    def _abandon(self, lead: Call) -> None:
        if self._connection is not None:
            self._connection.disconnect()
        self._fail_unknown(lead, LayerUnavailable, self._abandoned)

    def _fail_unknown(self, lead: Call, kind: type[LayerUnavailable], reason: str) -> None:
        """Of what was sent, what has no reply yet will get none."""
        expected, lead.expected = lead.expected or (), None
        unanswered = [call for call in expected if call is not None and not call.done]
        fail(expected, kind, reason)
        for call in unanswered:
            with self._lock:
                unclaimed, call.unclaimed = call.unclaimed, None
            if unclaimed is not None and not self._closed:
                unclaimed(None)

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
        if connection.is_open and (self._is_replica or connection.is_stale()):
            connection.disconnect()
        if not connection.is_open:
            self._is_replica = False
            connection.connect()
            self._next_look = time.monotonic() + _LOOK_EVERY
            if self._closed:
                connection.disconnect()
                raise LayerUnreachable(_CLOSED)
        return connection

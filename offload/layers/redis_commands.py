"""Commands to one Redis server: what several senders ask for at a time goes out in one write, over one connection.

A sender who finds nobody sending leads: it writes all that is waiting, reads the replies, and hands the lead to the
first of those who came meanwhile. So there is no thread for it, a lone sender pays one round trip, a crowd shares it,
and nobody leads longer than its own command takes. Knows no layer.

The lock guards the list of those who wait and is never held over the network (its kind: see
``offload.layers.subscriptions``). Nothing is sent twice: a command whose reply did not come may have been executed.
"""

from __future__ import annotations

import threading
from _thread import RLock
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from offload.exceptions import LayerUnavailable
from offload.layers.redis_address import RedisAddress
from offload.layers.redis_link import UNKNOWN, Link, ReplyError, give_way, pack, refused, threads_are_greenlets
from offload.layers.redis_scripts import Script

_BATCH_BYTES = 1024 * 1024
_BATCH_COMMANDS = 1000


class _Call:
    """A command, and what became of it."""

    __slots__ = ("batch", "data", "error", "gate", "gone", "leads", "reply")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reply: Any = None
        self.error: str | None = None
        self.gate: Any = None  # a taken lock; made for those who wait
        self.leads = False
        self.batch: _Batch | None = None  # taken over from a leader that was killed
        self.gone = False  # who waited for it was killed

    def fail(self, error: str) -> None:
        self.error = error
        self.open()

    def open(self) -> None:
        if self.gate is not None:
            self.gate.release()


class _Batch:
    """Commands that are sent together, and how far that has got."""

    __slots__ = ("calls", "done", "link", "sent")

    def __init__(self, call: _Call) -> None:
        self.calls = [call]
        self.done = 0  # replies
        self.sent = False
        self.link: Link | None = None


class Commands:
    """Runs commands over one connection, which it opens when it needs one.

    Args:
        connect: opens a connection; raises ``LayerUnavailable``.
    """

    def __init__(self, address: RedisAddress, connect: Callable[[], Link]) -> None:
        self._address = address
        self._connect = connect
        self._lock = RLock()
        self._led = False
        self._closed = False
        self._pending: deque[_Call] = deque()
        self._link: Link | None = None

    def run(self, *command: str | bytes | int) -> Any:
        """Send one command and wait for its reply.

        Raises:
            LayerUnavailable: no connection, no reply in time, or a reply that is an error.
        """
        reply = self._run(command)
        if isinstance(reply, ReplyError):
            raise refused(self._address, reply)
        return reply

    def run_script(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        """As `run`, for a script; one that the server does not know, or no more, is sent along."""
        reply = self._run(("EVALSHA", script.sha, len(keys), *keys, *arguments))
        if isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT"):
            # It was not executed, so it may be sent again.
            reply = self._run(("EVAL", script.text, len(keys), *keys, *arguments))
        if isinstance(reply, ReplyError):
            raise refused(self._address, reply)
        return reply

    def close(self) -> None:
        """For good. Whoever waits for a reply gets ``LayerUnavailable``."""
        with self._lock:
            self._closed = True
            link, self._link = self._link, None
            led = self._led
        if link is not None:
            if led:
                link.interrupt()  # the leader closes it: a descriptor closed under a reader may be another's next
            else:
                link.close()

    def drop(self) -> None:
        """In a forked child."""
        if self._link is not None:
            self._link.drop()

    def _run(self, command: tuple[str | bytes | int, ...]) -> Any:
        call = _Call(pack(*command))
        with self._lock:
            if self._led:
                call.gate = threading.Lock()
                call.gate.acquire()
                self._pending.append(call)
            else:
                self._led = call.leads = True
        if not call.leads:
            try:
                # Bounded by the leader, whose every step on the network is.
                call.gate.acquire()
            except BaseException as error:
                self._abandon(call, error)
                raise
        if call.leads:
            self._lead(call)
        if call.error is not None:
            raise LayerUnavailable(call.error)
        return call.reply

    def _lead(self, call: _Call) -> None:
        batch = call.batch or _Batch(call)
        try:
            if not batch.sent:
                self._send(batch)
            self._read(batch, call)
        except LayerUnavailable as error:
            self._discard(batch.link)
            # One bounded wait for all who came during it, not one after the other.
            with self._lock:
                late = list(self._pending)
                self._pending.clear()
            for item in batch.calls[batch.done :]:
                item.fail(str(error))
            for item in late:
                item.fail(str(error).replace(UNKNOWN, "the command was not sent"))
        except BaseException as error:
            call.gone = True
            if not self._bequeath(batch, error):
                self._hand_over()
            raise
        self._hand_over()

    def _send(self, batch: _Batch) -> None:
        # The other senders of this turn of the loop come along. The socket alone would not let them, when the reply is
        # there before it is waited for.
        give_way()
        calls = batch.calls
        size = len(calls[0].data)
        with self._lock:
            pending = self._pending
            while pending and len(calls) < _BATCH_COMMANDS and size + len(pending[0].data) <= _BATCH_BYTES:
                size += len(pending[0].data)
                calls.append(pending.popleft())
        batch.link = self._open()
        batch.link.send(b"".join([item.data for item in calls]))
        batch.sent = True

    def _read(self, batch: _Batch, call: _Call) -> None:
        link, calls = batch.link, batch.calls
        assert link is not None
        while batch.done < len(calls):
            replies = link.read()
            if not replies:
                raise link.silent()
            for reply in replies:
                item = calls[batch.done]
                batch.done += 1
                item.reply = reply
                if item is not call:
                    item.open()

    def _bequeath(self, batch: _Batch, error: BaseException) -> bool:
        """The leader is being killed, which says nothing about the server: another reads the replies.

        Only where it was killed while it waited, as greenlets are. Threads end anywhere, and a connection of which it
        is not known what was read is of no use.
        """
        if batch.sent and threads_are_greenlets() and not isinstance(error, KeyboardInterrupt):
            with self._lock:
                for heir in batch.calls[batch.done :]:
                    if not heir.gone:
                        heir.batch = batch
                        heir.leads = True
                        heir.open()
                        return True
        self._discard(batch.link)
        for item in batch.calls[batch.done :]:
            if not item.gone:
                item.fail(f"layer 'redis' gave up a batch of commands to {self._address.shown}; {UNKNOWN}")
        return False

    def _open(self) -> Link:
        """For the leader only."""
        link = self._link
        if link is not None:
            if not link.is_stale():
                return link
            self._discard(link)
        if self._closed:
            raise LayerUnavailable("layer 'redis' was closed meanwhile; the command was not sent")
        link = self._connect()
        with self._lock:
            if not self._closed:
                self._link = link
                return link
        link.close()
        raise LayerUnavailable("layer 'redis' was closed meanwhile; the command was not sent")

    def _discard(self, link: Link | None) -> None:
        with self._lock:
            if self._link is link:
                self._link = None
        if link is not None:
            link.close()

    def _hand_over(self) -> None:
        with self._lock:
            heir = self._pending.popleft() if self._pending else None
            self._led = heir is not None
            if heir is not None:
                heir.leads = True
        if heir is not None:
            heir.open()

    def _abandon(self, call: _Call, error: BaseException) -> None:
        """The thread that waits is being killed."""
        with self._lock:
            call.gone = True
            if call in self._pending:
                self._pending.remove(call)
            leads = call.leads
        # It was to lead, and has not come to it.
        if leads and not (call.batch is not None and self._bequeath(call.batch, error)):
            self._hand_over()

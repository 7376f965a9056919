"""A connection of redis-py's that has been opened, as the layer uses it: many commands a write, many replies a read.

redis-py opens it: addresses, TLS, names and passwords, Sentinels. From then on bytes pass straight between the socket
and hiredis, since redis-py's own way through its retries, hooks and parser took half of the time of a group's message,
and does not tell which replies came together.
"""

from __future__ import annotations

import contextlib
import os
import select
import ssl
import time
from _thread import RLock
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType
from typing import Any

import hiredis
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import SentinelManagedConnection

_READ_SIZE = 64 * 1024

Argument = str | bytes | int


class Wire:
    """Goes before one of redis-py's connections in a class's bases.

    An error of the server is a reply; what goes wrong on the way is raised as redis-py would, and closes it.
    """

    _sock: Any  # redis-py's; None while it is closed

    _turn: RLock | None = None
    _opened_by = 0  # a process

    def connect(self) -> None:
        connection: Any = super()
        try:
            connection.connect()
            self._wired = self._sock
            if self._wired is None:
                raise RedisConnectionError("connection closed")
            self._opened_by = os.getpid()
            # OpenSSL's state of a connection is for one thread at a time, and one may write while another reads.
            takes_turns = isinstance(self._wired, ssl.SSLSocket) and not threads_are_greenlets()
            self._turn = RLock() if takes_turns else None
            self._reader = hiredis.Reader(
                protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_NOTHING
            )
        except BaseException:
            # Whoever connects may be interrupted; half a connection must not look like one.
            self.disconnect()
            raise

    def disconnect(self, *arguments: Any, **options: Any) -> None:
        """As redis-py's."""
        connection: Any = super()
        # While OpenSSL's state is taken down, what another thread sends would leave in plain text. After a fork the
        # turn may be a thread's that is not there.
        turn = self._turn if self._opened_by == os.getpid() else None
        with turn or contextlib.nullcontext():
            connection.disconnect(*arguments, **options)

    @property
    def is_open(self) -> bool:
        """Whether neither side is known to have closed it."""
        return self._sock is not None

    def write(self, commands: Iterable[tuple[Argument, ...]]) -> None:
        """Send commands, in one piece."""
        self.send([pack(command) for command in commands])

    def send(self, packed: Iterable[bytes]) -> None:
        """As `write`, for what `pack` has made of commands."""
        data = b"".join(packed)

        def send(sock: Any) -> None:
            sent = sock.send(data)
            if sent < len(data):
                sock.sendall(memoryview(data)[sent:])

        try:
            if self._turn is None:
                self._through(send)
            else:
                with self._turn:
                    self._through(send)
        except BaseException:
            # Half a command may be on its way, also when who sends it is being killed.
            self.disconnect()
            raise

    def reply(self) -> Any:
        """The next reply. Waits for it as long as the connection's timeout allows."""
        while (reply := self._reader.gets()) is _NOTHING:
            self._read()
        if type(reply) is ReadOnlyError and isinstance(self, SentinelManagedConnection):
            self.disconnect()
            raise RedisConnectionError("the previous master is now a replica")
        return reply

    def late_reply(self, deadline: float) -> Any:
        """As `reply`, for longer."""
        while True:
            try:
                return self.reply()
            except RedisTimeoutError:
                if time.monotonic() >= deadline:
                    raise

    def replies(self, most: int) -> list[Any]:
        """Some replies: what has come, up to this number; waits for the first."""
        replies = [self.reply()]
        gets = self._reader.gets
        while len(replies) < most and (reply := gets()) is not _NOTHING:
            replies.append(reply)
        return replies

    def more(self, most: int, seconds: float) -> list[Any]:
        """What one further read within this time completes; nothing when none comes, or only a part of a reply."""
        if (descriptor := self._wired.fileno()) < 0:
            return []
        # Not `select.select`, which takes no descriptor above 1023.
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            return []
        self._read()
        found: list[Any] = []
        gets = self._reader.gets
        while len(found) < most and (reply := gets()) is not _NOTHING:
            found.append(reply)
        return found

    def is_stale(self) -> bool:
        """Whether the server has closed it, or said something, while nothing was asked."""
        sock = self._wired
        timeout = sock.gettimeout()
        try:
            try:
                sock.settimeout(0)
                sock.recv(1)
            finally:
                sock.settimeout(timeout)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True

    def _read(self) -> None:
        data: bytes = self._through(_receive if self._turn is None else self._receive_in_turn)
        if not data:
            self.disconnect()
            raise RedisConnectionError("connection closed by the server")
        self._reader.feed(data)

    def _receive_in_turn(self, sock: Any) -> bytes:
        """As `_receive`; waits outside its turn."""
        assert self._turn is not None
        if (descriptor := sock.fileno()) < 0:
            raise OSError("closed")
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        while True:
            with self._turn:
                timeout = sock.gettimeout()
                sock.settimeout(0)
                try:
                    return _receive(sock)
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    pass
                finally:
                    sock.settimeout(timeout)
            if not waiting.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError("timed out")

    def _through(self, act: Callable[[Any], Any]) -> Any:
        try:
            return act(self._wired)
        except TimeoutError as error:
            raise RedisTimeoutError(str(error)) from error
        except OSError as error:
            if self.is_open:
                self.disconnect()
                raise RedisConnectionError(str(error)) from error
        # Somebody else has closed it meanwhile, and knows why.
        raise RedisConnectionError("connection closed")


class _Nothing:
    """What hiredis says when no whole reply has come."""


_NOTHING = _Nothing()


def pack(command: tuple[Argument, ...]) -> bytes:
    """A command in Redis's protocol. Raises ``UnicodeEncodeError`` for text that is none, such as half of a pair."""
    # Not with numbers: to write one down, hiredis calls into Python, where signals' handlers run, and when one raises
    # it goes on with a null pointer.
    plain = tuple([b"%d" % argument if isinstance(argument, int) else argument for argument in command])
    packed: bytes = hiredis.pack_command(plain)  # type: ignore[arg-type]
    return packed


def threads_are_greenlets() -> bool:
    """Whether gevent has patched this process."""
    return not isinstance(time.sleep, BuiltinFunctionType)


def _receive(sock: Any) -> bytes:
    data: bytes = sock.recv(_READ_SIZE)
    return data

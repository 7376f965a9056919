"""A connection of redis-py's that has been opened, as the layer uses it: many commands a write, many replies a read.

redis-py opens it: addresses, TLS, names and passwords, Sentinels. From then on bytes pass straight between the socket
and hiredis, since redis-py's own way through its retries, hooks and parser took half of the time of a group's message,
and does not tell which replies came together.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import ssl
import time
from _thread import RLock
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import BuiltinFunctionType
from typing import Any

import hiredis
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

_READ_SIZE = 64 * 1024
_MOST_OF = 0.9  # a timeout: what ends a wait before is none

Argument = str | bytes | int


class Wire:
    """Goes before one of redis-py's connections in a class's bases.

    An error of the server is a reply; what goes wrong on the way is raised as redis-py would, and closes it.
    """

    _sock: Any  # redis-py's; None while it is closed

    _turn: RLock | None = None
    _opened_by = 0  # a process
    _is_waiting = False  # or was interrupted while it waited
    _reads: Iterator[None]

    def connect(self) -> None:
        connection: Any = super()
        started = time.monotonic()
        try:
            try:
                connection.connect()
            except RedisError as error:
                # redis-py takes every TimeoutError for its socket's.
                cause = error.__context__
                if isinstance(cause, TimeoutError) and not _is_of_a_socket(cause, started, _shortest(self)):
                    raise cause from None
                raise
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
            # Each step receives some bytes and feeds them. Where `recv` is C's, all of that is, and no signal's handler
            # runs between the two: what an exception ends has lost nothing.
            receive = self._receive_in_turn if self._turn else self._wired.recv
            self._reads = map(self._reader.feed, iter(partial(receive, _READ_SIZE), b""))
            self._is_waiting = False
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

    def send(self, packed: Iterable[bytes], now: float | None = None) -> None:
        """As `write`, for what `pack` has made of commands.

        Args:
            now: of the monotonic clock, where the caller has just looked.
        """
        data = b"".join(packed)
        self._is_waiting = False
        began = time.monotonic() if now is None else now

        def send(sock: Any) -> None:
            sent = sock.send(data)
            if sent < len(data):
                sock.sendall(memoryview(data)[sent:])

        try:
            if self._turn is None:
                self._through(send, began)
            else:
                with self._turn:
                    self._through(send, began)
        except BaseException:
            # Half a command may be on its way, also when who sends it is being killed.
            self.disconnect()
            raise

    def reply(self) -> Any:
        """The next reply. Waits for it as long as the connection's timeout allows."""
        while (reply := self._reader.gets()) is _NOTHING:
            self._read()
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

    def lost_nothing(self, error: BaseException) -> bool:
        """Whether this exception ended a wait for bytes before any came, so that the next reply is still to be read."""
        if not self._is_waiting or not self.is_open:
            return False
        return self._turn is not None or isinstance(self._wired.recv, BuiltinFunctionType) or _was_thrown_in(error)

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
        except OSError as error:
            if not _is_of_a_socket(error, 0.0, None):
                raise
        return True

    def _read(self) -> None:
        self._is_waiting = self._turn is None
        # Its own time: another thread may write meanwhile.
        if self._through(self._read_some, time.monotonic()) is _NOTHING:
            self.disconnect()
            raise RedisConnectionError("connection closed by the server")
        self._is_waiting = False

    def _read_some(self, _: Any) -> Any:
        return next(self._reads, _NOTHING)

    def _receive_in_turn(self, size: int) -> bytes:
        """As the socket's; waits outside its turn."""
        assert self._turn is not None
        sock = self._wired
        if (descriptor := sock.fileno()) < 0:
            raise OSError(errno.EBADF, "closed")
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        while True:
            with self._turn:
                timeout = sock.gettimeout()
                sock.settimeout(0)
                try:
                    data: bytes = sock.recv(size)
                    return data
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    pass
                finally:
                    sock.settimeout(timeout)
            self._is_waiting = True
            if not waiting.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError("timed out")
            self._is_waiting = False

    def _through(self, act: Callable[[Any], Any], began: float) -> Any:
        try:
            return act(self._wired)
        except OSError as error:
            if not _is_of_a_socket(error, began, self._wired.gettimeout()):
                raise
            if isinstance(error, TimeoutError) and error.errno is None:
                raise RedisTimeoutError(str(error)) from error
            if self.is_open:
                self.disconnect()
                raise RedisConnectionError(str(error)) from error
        # Somebody else has closed it meanwhile, and knows why.
        raise RedisConnectionError("connection closed")


def _is_of_a_socket(error: OSError, started: float, timeout: float | None) -> bool:
    """Whether a socket raised it in what began then, and not a signal's handler or a greenlet's time limit, which may
    raise TimeoutError, too."""
    if error.errno is not None or isinstance(error, ssl.SSLError):
        return True
    if isinstance(error, TimeoutError) and timeout is not None:
        # gevent's timers may be early, by as much as the loop was late.
        early = threads_are_greenlets() and str(error).endswith("timed out")
        return early or time.monotonic() - started >= timeout * _MOST_OF
    return False


def _shortest(connection: Any) -> float | None:
    """Of the times that redis-py gives connecting, and each answer of the handshake."""
    timeouts = (getattr(connection, "socket_connect_timeout", None), connection.socket_timeout)
    return min((timeout for timeout in timeouts if timeout is not None), default=None)


def _was_thrown_in(error: BaseException) -> bool:
    """Whether a greenlet met this exception where it waited. A signal's handler would be, or would have been called by,
    the innermost frame of its traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name: str = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return name.startswith("gevent.") and name.endswith("greenlet_primitives")


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

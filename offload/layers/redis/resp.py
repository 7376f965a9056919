"""An open connection to a Redis server: bytes out, replies in; one thread writes while another reads.

redis-py opens it: addresses, TLS, names and passwords, Sentinels. From then on bytes pass straight between the socket
and hiredis. redis-py's own way to read takes as long as all the rest of a group's message, tells not which replies came
together, and lets two threads use one TLS connection, which OpenSSL forbids.
"""

from __future__ import annotations

import errno
import select
import ssl
import time
from _thread import RLock
from collections.abc import Callable
from typing import Any, TypeVar

import hiredis
from redis.connection import DefaultParser
from redis.exceptions import InvalidResponse, RedisError

from offload.layers.link.outage import silence
from offload.layers.link.thread import Ticks, threads_are_greenlets

_READ_SIZE = 64 * 1024
_SLOWEST_TICK = 1.0  # seconds

Argument = str | bytes | int
T = TypeVar("T")

_NOTHING = object()  # hiredis says it when no whole reply has come


class Wire:
    """
    Args:
        connection: redis-py's, not open yet.
        greeting: what it says first.
        server: tells what errors mean.
    """

    def __init__(self, connection: Any, greeting: Any, server: Any) -> None:
        self._connection = connection
        self._greeting = greeting
        self._server = server
        self._tick = min(_SLOWEST_TICK, server.timeout / 4)  # after which a read returns, come what may
        self._socket: Any = None
        self._turn: RLock | None = None
        self._ticks: Ticks | None = None

    @property
    def speaks_resp3(self) -> bool:
        return bool(self._greeting.speaks_resp3)

    def open(self) -> None:
        try:
            self._connection.connect()
        except (RedisError, UnicodeError) as error:
            # The second is a host's that cannot be a name.
            raise self._server.unreachable(error, self._greeting) from None
        self._socket = self._connection._sock  # there is no public name for it
        if self._socket is None:
            raise self._server.loss(OSError())
        if threads_are_greenlets():
            self._ticks = Ticks(self._tick)
            self._patience: float | None = None
        elif isinstance(self._socket, ssl.SSLSocket):
            # OpenSSL's state of a connection is for one thread at a time.
            self._turn = RLock()
            self._patience = 0.0
        else:
            self._patience = self._tick
        self._socket.settimeout(self._patience)
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_NOTHING
        )

    def send(self, data: bytes) -> None:
        left: bytes | memoryview = data
        progress = 0.0
        while True:
            try:
                sent = self._act(self._socket.send, left, select.POLLOUT)
            except TimeoutError:
                progress = progress or time.monotonic()
                if time.monotonic() - progress >= self._server.timeout:
                    raise silence(self._server.layer, self._server.shown, self._server.timeout) from None
                continue
            if sent == len(left):
                return
            left = memoryview(left)[sent:]
            progress = time.monotonic()

    def replies(self, most: int, seconds: float | None = None) -> list[Any] | None:
        """As of the link's `Wire`.

        Args:
            seconds: to wait, less than a tick; for greenlets only.
        """
        found = self._buffered(most)
        if found:
            return found
        try:
            if seconds is not None:
                self._socket.settimeout(seconds)
            data = self._act(self._socket.recv, _READ_SIZE, select.POLLIN)
        except TimeoutError:
            return None
        finally:
            if seconds is not None:
                self._socket.settimeout(self._patience)
        if not data:
            raise self._server.loss(OSError())
        self._reader.feed(data)
        return self._buffered(most)

    def close(self) -> None:
        self._stop_ticks()
        if self._turn is None:
            self._connection.disconnect()
            return
        # While OpenSSL's state is taken down, what another thread sends would leave in plain text.
        with self._turn:
            self._connection.disconnect()

    def abandon(self) -> None:
        self._stop_ticks()
        self._greeting.cancelled = True
        # redis-py tells that it was forked. The turn may be a thread's that is not there.
        self._connection.disconnect()

    def _stop_ticks(self) -> None:
        if self._ticks is not None:
            self._ticks.stop()

    def _buffered(self, most: int) -> list[Any]:
        found: list[Any] = []
        gets = self._reader.gets
        try:
            while len(found) < most and (reply := gets()) is not _NOTHING:
                found.append(reply)
        except InvalidResponse as error:
            raise self._server.loss(error) from None
        return found

    def _act(self, act: Callable[[Any], T], argument: Any, event: int) -> T:
        """Raises ``TimeoutError`` after a tick, and ``Outage``."""
        try:
            if self._ticks is not None:
                return self._ticks.call(act, argument)
            return act(argument) if self._turn is None else self._act_in_turn(act, argument, event)
        except TimeoutError as error:
            if error.errno is None:
                raise
            raise self._server.loss(error) from None  # the network's own
        except OSError as error:
            raise self._server.loss(error) from None

    def _act_in_turn(self, act: Callable[[Any], T], argument: Any, event: int) -> T:
        """Waits outside its turn."""
        assert self._turn is not None
        while True:
            with self._turn:
                if (descriptor := self._socket.fileno()) < 0:
                    raise OSError(errno.EBADF, "closed")
                try:
                    return act(argument)
                except ssl.SSLWantReadError:
                    event = select.POLLIN
                except ssl.SSLWantWriteError:
                    event = select.POLLOUT
            waiting = select.poll()  # not `select.select`, which takes no descriptor above 1023
            waiting.register(descriptor, event)
            if not waiting.poll(self._tick * 1000):
                raise TimeoutError


def pack(*command: Argument) -> bytes:
    """A command in Redis's protocol. Raises ``UnicodeEncodeError`` for text that is none, such as half of a pair."""
    # Not with numbers: to write one down, hiredis calls into Python, where signals' handlers run, and when one raises
    # it goes on with a null pointer.
    plain = tuple([b"%d" % argument if isinstance(argument, int) else argument for argument in command])
    packed: bytes = hiredis.pack_command(plain)  # type: ignore[arg-type]
    return packed

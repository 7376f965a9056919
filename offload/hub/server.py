"""The hub: the process behind the IPC layer, through which the processes of one machine share queues and groups.

It lives on the standard library alone (and msgpack): the supervisor forks it without ever having imported gevent. One
hub serves a socket; a second one for the same path stands by, and takes over when the first ends. All is in memory:
when the hub ends, queues, memberships of queues and sessions are gone; the clients come back by themselves, with their
subscriptions.

What it does with a request is in ``offload.hub.relay``; here are the process, the socket and its clients.

    python -m offload.hub.server PATH
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from offload.exceptions import ConfigurationError
from offload.hub import place as hub_place
from offload.hub.relay import Exchange, Peer
from offload.layers.addresses import hub_path
from offload.layers.ipc import wire
from offload.layers.words.settings import LayerSettings

logger = logging.getLogger("offload.layer")

T = TypeVar("T")

ENDED, FAILED, MISUSED = 0, 1, 2

BUFFER_BYTES = 32 * 1024 * 1024
TICK = 10.0
GRACE = 2.0
"""Seconds within which a living process is back after the hub's return; its clients try at least twice a second."""

_BACKLOG = 1024
_PAUSE_READING_BYTES = 1024 * 1024
_FAREWELL = 0.5
_STAND_BY = 0.1  # seconds between looks whether the other one has ended


def serve(path: str, life: socket.socket | None = None, *, buffer_bytes: int = BUFFER_BYTES, tick: float = TICK) -> int:
    """Be the hub of this socket, in a process of its own, until `life` ends, or without one until SIGTERM.

    Stands by while another hub has the path. SIGINT and SIGHUP are ignored: they come from a terminal and are for the
    parent, which ends the hub when it is done with it.

    Args:
        path: the socket; its directory is made, with mode 0700.
        life: a connected socket (or its pair's half) whose end of file means that the parent is gone.
        buffer_bytes: what is kept for one client that does not read; past it messages for it are dropped and counted.
        tick: seconds between two looks whether its socket is still there.

    Returns:
        The exit code: 0 as told; 1 when the socket was taken away.

    Raises:
        ConfigurationError: the path cannot be used, which starting again would not change.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # With a parent, its end of `life` is the sign to end: a signal may have gone to the whole process group, while the
    # parent's other children still need their hub.
    signal.signal(signal.SIGTERM, signal.SIG_DFL if life is None else signal.SIG_IGN)
    hub_path.check_length(path)
    hub_path.make_directory(path)
    return asyncio.run(Hub(path, life, buffer_bytes, tick).run())


def serve_alone(path: str, life: socket.socket | None = None, **options: Any) -> int:
    """`serve` for a process whose parent is not told why it cannot be: the log is, and the exit code is 2."""
    try:
        return serve(path, life, **options)
    except ConfigurationError as error:
        logger.error("hub: %s", error)
        return MISUSED


class Hub:
    """The process: lock, socket, clients, timers.

    Attributes:
        connections: the clients.
        buffer_bytes: see `serve`.
    """

    def __init__(self, path: str, life: socket.socket | None, buffer_bytes: int, tick: float) -> None:
        self.connections: set[Connection] = set()
        self.buffer_bytes = buffer_bytes
        self._path = path
        self._tick_seconds = tick
        self._life = life
        self._exchanges: dict[str, Exchange] = {}
        self._absent: dict[str, set[str]] = {}  # whom the hub before this one had, by prefix
        self._grace_ends = 0.0
        self._present: dict[Connection, tuple[str, str, int]] = {}
        self._lock: int | None = None  # its file's descriptor, while it serves
        self._code = ENDED

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        if self._life is None:
            loop.add_signal_handler(signal.SIGTERM, self._ending.set)
        else:
            self._life.setblocking(False)
            loop.add_reader(self._life, self._look_at_life, self._life)
        lock = await self._have(
            lambda: hub_place.lock(self._path), logging.INFO, "hub: another one serves %s; standing by"
        )
        if lock is None:
            return ENDED
        try:
            is_alone = await self._have(
                lambda: not hub_place.is_served(self._path) or None,
                logging.WARNING,
                "hub: another one serves %s, whose lock file was removed; standing by",
            )
            if is_alone:
                await self._serve(lock)
        finally:
            os.close(lock)  # last: who stands by may bind now
        return self._code

    def exchange(self, prefix: str) -> Exchange:
        found = self._exchanges.get(prefix)
        if found is None:
            loop, now = asyncio.get_running_loop(), time.monotonic()
            absent, grace = self._absent.pop(prefix, set()), self._grace_ends - now
            found = self._exchanges[prefix] = Exchange(
                time.monotonic, loop.call_later, absent if grace > 0 else set(), grace
            )
        return found

    def note(self, connection: Connection, process: tuple[str, str, int] | None) -> None:
        """Have a process in the roster, or no longer: its prefix, token and id."""
        if process is not None:
            self._present[connection] = process
        elif self._present.pop(connection, None) is None:
            return
        if self._lock is not None:
            hub_place.write_roster(self._lock, self._present.values())

    def _look_at_life(self, life: socket.socket) -> None:
        try:
            data = life.recv(1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(life)
            self._ending.set()

    async def _have(self, ask: Callable[[], T | None], level: int, text: str) -> T | None:
        """What another hub has, when it has ended; None when it is time to end before that."""
        told = False
        while not self._ending.is_set():
            if (found := ask()) is not None:
                return found
            if not told:
                logger.log(level, text, self._path)
                told = True
            await self._end_within(_STAND_BY)
        return None

    async def _end_within(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    async def _serve(self, lock: int) -> None:
        loop = asyncio.get_running_loop()
        listener = hub_place.listen(self._path)
        identity = hub_place.identity(os.stat(self._path))
        self._absent = hub_place.read_roster(lock)
        self._grace_ends = time.monotonic() + GRACE
        self._lock = lock
        server = await loop.create_unix_server(lambda: Connection(self), sock=listener, backlog=_BACKLOG)
        logger.info("hub: serving %s", self._path)
        try:
            while not self._ending.is_set():
                await self._end_within(self._tick_seconds)
                if not self._ending.is_set():
                    self._tick(lock, identity)
        finally:
            self._lock = None  # who is here now is whom the next hub waits for
            self._tell_lost()
            server.close()
            # Ours only: somebody may have removed it, and another hub made its own.
            with contextlib.suppress(FileNotFoundError):
                if hub_place.identity(os.lstat(self._path)) == identity:
                    os.unlink(self._path)
            await self._say_farewell()
        logger.info("hub: ended")

    def _tell_lost(self) -> None:
        """All is in memory: what nobody has taken does not reach the hub that comes next."""
        now, messages, sessions = time.monotonic(), 0, 0
        for exchange in self._exchanges.values():
            exchange.broker.sweep(now)
            counts = exchange.broker.statistics()
            messages += counts["pending"]
            sessions += counts["sessions"]
        # Sessions that nobody is left to ask for are no loss.
        if messages or (sessions and self.connections):
            logger.warning(
                "hub: %d messages that waited in queues, and %d sessions, are lost with this hub; "
                "%d clients remain, for whom another may take over",
                messages,
                sessions,
                len(self.connections),
            )

    async def _say_farewell(self) -> None:
        for connection in list(self.connections):
            connection.close()
        if ends := [connection.ended for connection in self.connections]:
            await asyncio.wait(ends, timeout=_FAREWELL)
        for connection in list(self.connections):
            connection.abort()

    def _tick(self, lock: int, identity: tuple[int, int]) -> None:
        now = time.monotonic()
        for prefix, exchange in list(self._exchanges.items()):
            exchange.broker.sweep(now)
            if exchange.is_unused():
                del self._exchanges[prefix]
        # Programs that tidy up /tmp remove files by their age, and a lock file that is gone locks nobody out.
        os.utime(lock)
        try:
            there = hub_place.identity(os.lstat(self._path)) == identity
        except OSError:
            there = False
        if not there:
            logger.error(
                "hub: the socket %s was removed by somebody; ending, so that a new one can be made", self._path
            )
            self._code = FAILED
            self._ending.set()


class Connection(asyncio.Protocol, Peer):
    """One client. Frames for it are joined, and leave at the end of the loop's turn.

    Attributes:
        ended: is done when the connection has ended.
    """

    def __init__(self, hub: Hub) -> None:
        Peer.__init__(self)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hub = hub
        self._frames = wire.FrameReader()
        self._exchange: Exchange | None = None
        self._transport: asyncio.Transport | None = None
        self._pid = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._dropped = 0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._hub.connections.add(self)
        self._pid, user = hub_path.peer(transport.get_extra_info("socket"))
        if user not in (None, 0, os.geteuid()):
            logger.warning("hub: refused a connection of user %s; this hub is for user %d", user, os.geteuid())
            self._transport.abort()
            return
        # Below the limit, so that whoever reached it is told of what was dropped when it reads again.
        self._transport.set_write_buffer_limits(high=min(_PAUSE_READING_BYTES, self._hub.buffer_bytes // 2))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._handle(frame)
        except wire.BrokenFrame as error:
            logger.warning("hub: ended the connection of a client: %s", error)
            self.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._out.clear()
        self.ended.set_result(None)
        self._hub.connections.discard(self)
        self._hub.note(self, None)
        if self._exchange is not None:
            self._exchange.leave(self)

    def pause_writing(self) -> None:
        # Who does not read may not ask for more either, or its answers would pile up.
        self.congested = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.congested = False
        if self._exchange is not None:
            self._exchange.relieve(self)
        if self._transport is not None:
            self._transport.resume_reading()
            self._report_dropped()

    # What the exchange and the hub call

    def write(self, frame: bytes) -> None:
        if self._transport is None:
            return
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(frame)
        self._out_bytes += len(frame)

    def push(self, frame: bytes) -> None:
        if self._transport is None:
            return
        limit = self._hub.buffer_bytes
        if self._out_bytes + self._transport.get_write_buffer_size() >= limit:
            self._flush()  # a burst within one turn says nothing about the client
        if self._out_bytes + self._transport.get_write_buffer_size() < limit:
            self._report_dropped()
            self.write(frame)
            return
        if not self._dropped:
            logger.warning("hub: a client does not read, and %d bytes wait for it; dropping messages for it", limit)
        self._dropped += 1

    def close(self) -> None:
        """End the connection after what is to be written."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Its own

    def _handle(self, frame: list[Any]) -> None:
        if self._exchange is None:
            self._greet(frame)
            return
        is_new = not self.topics
        try:
            self._exchange.handle(self, frame)
            if is_new and self.topics:
                self._hub.note(self, (self.settings.prefix, self.process, self._pid))
        except wire.BrokenFrame:
            raise
        except Exception as error:
            # One request in a form that we do not know must not take the others' hub away.
            logger.exception("hub: request of kind %s failed", frame[0])
            if len(frame) > 1 and isinstance(frame[1], int):
                self.answer(frame[1], f"{type(error).__name__}: {error}", wire.ERROR)

    def _greet(self, frame: list[Any]) -> None:
        # The first three items are the same in all versions.
        if len(frame) < 3 or frame[0] != wire.HELLO or not isinstance(frame[1], int):
            raise wire.BrokenFrame("it did not say hello")
        _, request, version, *rest = frame
        if version != wire.VERSION:
            self.answer(
                request,
                f"speaks version {wire.VERSION} of its protocol, and this process version {version};"
                " restart both with one version of offload",
                wire.ERROR,
            )
            self.close()
            return
        try:
            prefix, self.process, settings = rest
            settings["channel_capacity"] = dict(settings["channel_capacity"])
            self.settings = LayerSettings(prefix=prefix, **settings)
        except (ValueError, TypeError, KeyError, ConfigurationError) as error:
            raise wire.BrokenFrame(f"its hello is wrong: {error}") from error
        self._exchange = self._hub.exchange(prefix)
        self._exchange.join(self)
        self.answer(request, wire.VERSION)

    def _flush(self) -> None:
        if self._out and self._transport is not None:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._transport.write(data)
        self._out.clear()
        self._out_bytes = 0

    def _report_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            logger.warning("hub: dropped %d messages for a client that did not read", dropped)
            self.write(wire.pack(wire.LOST, dropped))


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m offload.hub.server PATH\n")
        return MISUSED
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    return serve_alone(os.path.abspath(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())

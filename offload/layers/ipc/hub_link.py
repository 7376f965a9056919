"""A process's link to its hub: one connection with a writer and a reader of its own, used by any number of callers.

The reader is a thread (a greenlet, where gevent has patched) that connects, reads, and when the connection is lost
connects again and restores what was subscribed to; each connection has a writer. Callers queue their requests and wait
for the answers. Whatever is raised in a caller, by a signal or a kill, ends its wait and nothing else.

The lock is the interpreter's own (see ``offload.layers.local.subscriptions``): nothing under it waits, or calls the
owner. A link is used once: `close` and `abandon` are final.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import socket
import threading
import time
from _thread import RLock
from collections import deque
from collections.abc import Sequence
from typing import Any

from offload.exceptions import ConfigurationError, LayerUnavailable, LayerUnreachable
from offload.layers.backend import Owner, Topics
from offload.layers.ipc import path as ipc_path
from offload.layers.ipc import wire
from offload.layers.link.thread import Duty, start

logger = logging.getLogger("offload.layer")

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5

_READ_BYTES = 256 * 1024


class _Waiter:
    """A caller's wait for an answer, or for the connection. A bare lock: many are made, and an event costs several."""

    __slots__ = ("_gate", "error", "frame", "takes")

    def __init__(self, takes: bool = False) -> None:
        self.takes = takes  # a message, which the hub is told of before the caller has it
        self.frame: list[Any] | None = None
        self.error: Exception | None = None
        self._gate = threading.Lock()
        self._gate.acquire()

    def wait(self, timeout: float | None) -> bool:
        return self._gate.acquire(timeout=-1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX))

    def wake(self) -> None:
        self._gate.release()


class _Writer:
    """One connection's. What has gathered while it wrote goes out together.

    Args:
        lock: the link's; whoever calls `put` or `close` holds it.
    """

    def __init__(self, connected: socket.socket, lock: RLock) -> None:
        self.unsent_bytes = 0
        self._socket = connected
        self._lock = lock
        self._frames: deque[bytes] = deque()
        self._gate = threading.Lock()
        self._gate.acquire()
        self._sleeps = self._closed = False
        self._written: list[_Waiter] = []

    def put(self, frame: bytes, written: _Waiter | None = None) -> None:
        """
        Args:
            written: is woken when the system has the frame, or the connection has ended.
        """
        if written is not None:
            if self._closed:
                written.wake()
                return
            self._written.append(written)
        self._frames.append(frame)
        self.unsent_bytes += len(frame)
        self._wake()

    def close(self) -> None:
        self._closed = True
        self._wake()

    def run(self) -> None:
        taken: list[_Waiter] = []
        try:
            while True:
                with self._lock:
                    if self._closed:
                        return
                    frames = list(self._frames)
                    self._frames.clear()
                    taken, self._written = self._written, []
                    self._sleeps = not frames
                if not frames:
                    self._gate.acquire()
                    continue
                data = frames[0] if len(frames) == 1 else b"".join(frames)
                self._socket.sendall(data)
                with self._lock:
                    self.unsent_bytes -= len(data)
                while taken:
                    taken.pop().wake()
        except OSError:
            pass  # the reader meets the end of the connection, and tells everybody
        finally:
            with self._lock:
                self._closed = True
                taken += self._written
            for waiter in taken:
                waiter.wake()

    def _wake(self) -> None:
        if self._sleeps:
            self._sleeps = False
            self._gate.release()


class Link:
    """The link.

    Args:
        path: the hub's socket.
        timeout: seconds to wait for a connection, and for an answer.
        foreign: see ``offload.layers.ipc.path.check_directory``.
        expected: whether to wait for a hub that is not there; from the first connection on, one that is lost is
            waited for anyway.
        max_unsent_bytes: of what waits for a hub that does not read; past it requests are refused.
        hello: prefix, process token and settings.
        owner: is told what comes.
    """

    def __init__(
        self,
        path: str,
        timeout: float,
        hello: tuple[Any, ...],
        owner: Owner,
        *,
        foreign: bool,
        expected: bool,
        max_unsent_bytes: int,
    ) -> None:
        self._path = path
        self._expected = expected
        self._timeout = timeout
        self._foreign = foreign
        self._max_unsent_bytes = max_unsent_bytes
        self._hello = hello
        self._owner = owner
        self._lock = RLock()
        self._ids = itertools.count(1)
        self._ended = False
        self._was_up = False
        self._reason = "not connected yet"
        self._reader = Duty(self._keep_up, "offload-ipc-reader")
        self._pause = threading.Event()
        self._socket: socket.socket | None = None
        self._writer: _Writer | None = None  # while there is a connection
        self._pending: dict[int, _Waiter] = {}
        self._arrivals: list[_Waiter] = []  # those who wait for the connection
        self._topics: dict[str, int] = {}  # what to restore
        self._subscribing: dict[int, Topics] = {}  # what was asked for, and is not answered yet

    # For callers

    def expect(self) -> None:
        """See `expected`."""
        self._expected = True

    def request(self, kind: int, *arguments: Any, again: bool) -> Any:
        """Ask, and wait for the answer.

        Args:
            again: whether to ask once more when the connection is lost before the answer: for what may be done twice.

        Raises:
            LayerUnreachable, ConfigurationError: nothing was asked, and why.
            LayerUnavailable: no answer in time.
        """
        deadline = time.monotonic() + self._timeout
        while True:
            self._wait_until_up(deadline)
            request = next(self._ids)
            try:
                waiter = self._ask(kind, request, arguments)
                if waiter is not None and self._wait_for_answer(request, waiter, deadline - time.monotonic()):
                    return wire.value_of(waiter.frame)
            except BaseException:
                self._pending.pop(request, None)
                raise
            if waiter is None or (again and waiter.frame is None):
                continue
            raise self._unavailable(
                f"lost its hub at {self._path} while a request was under way; it is unknown whether it was done"
            )

    def take(self, channels: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        """Take a message from named queues. What was handed out and is not wanted any more goes back."""
        ends = None if timeout is None else time.monotonic() + timeout
        while True:
            self._wait_until_up(time.monotonic() + self._timeout)
            remaining = None if ends is None else max(0.0, ends - time.monotonic())
            request = next(self._ids)
            # A signal may raise anywhere in here, also when the hub has just been told that the message is taken.
            try:
                waiter = self._ask(wire.TAKE, request, (channels, remaining))
                # The hub keeps the time: only a hub that hangs is waited for longer.
                if waiter is None or not self._wait_for_answer(
                    request, waiter, None if remaining is None else remaining + self._timeout
                ):
                    continue
                value = wire.value_of(waiter.frame)
                if value is None:
                    return None
                return value[0], value[1]
            except BaseException:
                self._pending.pop(request, None)
                self._post(wire.CANCEL, 0, request)
                raise

    def subscribe(self, topic: str, number: int) -> None:
        """As `Backend.subscribe`."""
        with self._lock:
            self._topics[topic] = number
            if self._writer is not None:
                request = next(self._ids)
                self._subscribing[request] = {topic: number}
                self._writer.put(wire.pack(wire.SUBSCRIBE, request, [topic], False))
                return
            ended = self._ended
        if ended:
            self._owner.failed({topic: number}, self._unreachable("was closed"))
        else:
            self._reader.ensure()

    def unsubscribe(self, topic: str) -> None:
        """As `Backend.unsubscribe`."""
        with self._lock:
            self._topics.pop(topic, None)
            self._post(wire.UNSUBSCRIBE, 0, topic)

    def close(self) -> None:
        """End the waits, the connection and the threads. Neither waits nor raises."""
        with self._lock:
            self._ended = True
            asked = list(self._pending.values())
            self._pending.clear()
            self._topics.clear()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)  # wakes the reader, which closes
        for waiter in asked:
            waiter.error = self._unavailable("was closed")
            waiter.wake()
        self._fail_arrivals(self._unreachable("was closed"))
        self._pause.set()

    def abandon(self) -> None:
        """As `Backend.abandon`."""
        self._ended = True
        self._writer = None
        if self._socket is not None:
            self._socket.close()

    def _ask(self, kind: int, request: int, arguments: tuple[Any, ...]) -> _Waiter | None:
        """Returns None without a connection. On an exception the caller takes it out of `_pending`, as it does when
        one interrupts the wait for the answer."""
        waiter = _Waiter(takes=kind == wire.TAKE)
        frame = wire.pack(kind, request, *arguments)
        with self._lock:
            writer = self._writer
            if writer is None:
                return None
            if writer.unsent_bytes > self._max_unsent_bytes:
                raise self._unreachable(
                    f"waits for its hub at {self._path} to read {writer.unsent_bytes} bytes that were sent before"
                )
            self._pending[request] = waiter
            writer.put(frame)
        return waiter

    def _post(self, kind: int, *items: Any, written: _Waiter | None = None) -> bool:
        """Say something that has no answer, or nothing where there is no connection: returns False. Does not wait."""
        frame = wire.pack(kind, *items)
        with self._lock:
            if self._writer is None:
                return False
            self._writer.put(frame, written)
            return True

    def _wait_for_answer(self, request: int, waiter: _Waiter, timeout: float | None) -> bool:
        """Returns False when the connection was lost."""
        if not waiter.wait(timeout):
            if self._pending.pop(request, None) is not None:
                raise self._unavailable(f"got no answer from its hub at {self._path} within {self._timeout:g} s")
            waiter.wait(None)  # the answer is being handed to us in this instant
        if waiter.error is not None:
            raise waiter.error
        return waiter.frame is not None

    def _wait_until_up(self, deadline: float) -> None:
        while self._writer is None:
            waiter = _Waiter()
            try:
                with self._lock:
                    if self._ended:
                        raise self._unreachable("was closed")
                    if self._writer is not None:
                        return
                    self._arrivals.append(waiter)
                self._reader.ensure()
                waiter.wait(deadline - time.monotonic())
            finally:
                with self._lock:
                    if waiter in self._arrivals:
                        self._arrivals.remove(waiter)
            if waiter.error is not None:
                # One object for all would collect the tracebacks of all.
                raise type(waiter.error)(*waiter.error.args)
            if self._writer is None and time.monotonic() >= deadline:
                raise self._unreachable(self._reason)

    def _unavailable(self, reason: str) -> LayerUnavailable:
        return LayerUnavailable(f"layer 'ipc' {reason}")

    def _unreachable(self, reason: str) -> LayerUnreachable:
        return LayerUnreachable(f"layer 'ipc' {reason}")

    # The reader

    def _keep_up(self) -> None:
        failures = 0
        try:
            while True:
                frames = self._try_to_connect()
                if frames is not None:
                    failures = 0
                    self._read(frames)
                    self._lose()
                if self._reader.may_end(lambda: not self._ended and bool(self._arrivals or self._topics)):
                    return
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 10))
                self._pause.wait(pause * random.uniform(0.5, 1.0))
                failures += 1
        except BaseException:
            with self._lock:
                self._disconnect()
            raise

    def _try_to_connect(self) -> wire.FrameReader | None:
        hopeless: Exception | None = None
        try:
            return self._connect()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else "connection refused"
            if not (self._expected or self._was_up):
                hopeless = self._unreachable(self._not_reached(reason))
        except (ConfigurationError, LayerUnavailable) as error:
            # Waiting would not help: say so at once.
            hopeless, reason = error, str(error)
        except (OSError, wire.BrokenFrame) as error:
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        self._reason = self._not_reached(reason)
        with self._lock:
            self._disconnect()
        if hopeless is not None:
            self._fail_arrivals(hopeless)
            self._owner.failed(self._topics.copy(), LayerUnreachable(str(hopeless)))
        return None

    def _not_reached(self, reason: str) -> str:
        return (
            f"cannot reach its hub at {self._path}: {reason};"
            " start 'offload APP' in this directory, or name the socket with ipc:///path"
        )

    def _connect(self) -> wire.FrameReader:
        """Connect, say hello, restore; raises what explains why not."""
        ipc_path.check_directory(self._path, foreign=self._foreign)
        ipc_path.check_socket(self._path)
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with self._lock:
            # Here from the first, so that a forked child, or `close`, finds it.
            self._socket = connected
            if self._ended:
                raise OSError("the layer was closed")
        connected.settimeout(self._timeout)
        frames = self._greet(connected)
        connected.settimeout(None)
        writer = _Writer(connected, self._lock)
        start(writer.run, "offload-ipc-writer")
        with self._lock:
            if self._ended:
                writer.close()
                raise OSError("the layer was closed")
            if self._topics:
                request = next(self._ids)
                self._subscribing = {request: self._topics.copy()}
                writer.put(wire.pack(wire.SUBSCRIBE, request, list(self._topics), True))
            self._writer = writer
            arrivals, self._arrivals = self._arrivals, []
            again, self._was_up = self._was_up, True
            groups = sum(topic.startswith("group:") for topic in self._topics)
        for waiter in arrivals:
            waiter.wake()
        if again:
            logger.info("layer 'ipc' has its hub at %s again; groups restored: %d", self._path, groups)
            self._owner.reconnected()
        return frames

    def _greet(self, connected: socket.socket) -> wire.FrameReader:
        connected.connect(self._path)
        _, user = ipc_path.peer(connected)
        if user not in (None, os.geteuid()) and not self._foreign:
            raise self._unreachable(
                f"refuses its hub at {self._path}: it belongs to user {user}, not to {os.geteuid()}"
            )
        connected.sendall(wire.pack(wire.HELLO, 1, wire.VERSION, *self._hello))
        frames = wire.FrameReader()
        answers: list[list[Any]] = []
        while not answers:
            data = connected.recv(_READ_BYTES)
            if not data:
                raise OSError("the hub ended the connection")
            answers = frames.feed(data)
        try:
            wire.value_of(answers[0])
        except LayerUnavailable as error:
            raise self._unreachable(f"was refused by its hub at {self._path}, which {error}") from None
        return frames

    def _read(self, frames: wire.FrameReader) -> None:
        connected = self._socket
        while connected is not None and not self._ended:
            try:
                data = connected.recv(_READ_BYTES)
                if not data:
                    return
                self._dispatch(frames.feed(data))
            except OSError:
                return
            except wire.BrokenFrame as error:
                logger.error("layer 'ipc': the hub at %s sent what cannot be read: %s", self._path, error)
                return

    def _dispatch(self, frames: list[list[Any]]) -> None:
        batch: list[tuple[str, bytes]] = []
        for frame in frames:
            kind = frame[0]
            if kind == wire.MESSAGE:
                batch.append((frame[1], frame[2]))
            elif kind == wire.ANSWER:
                if (waiter := self._pending.pop(frame[1], None)) is not None:
                    waiter.frame = frame
                    # Whoever takes a message goes on when the hub has been told, so that no other can get it as well
                    # if this process dies then.
                    taken = waiter.takes and frame[3] is not None
                    if not (taken and self._post(wire.TAKEN, 0, frame[1], written=waiter)):
                        waiter.wake()
                elif (topics := self._subscribing.pop(frame[1], None)) is not None:
                    self._deliver(batch)
                    batch = []
                    self._owner.subscribed(topics, frame[3])
            elif kind == wire.LOST:
                self._owner.count("lost", frame[1])
                logger.warning("layer 'ipc' lost %d messages: this process did not read for a while", frame[1])
        self._deliver(batch)

    def _deliver(self, batch: list[tuple[str, bytes]]) -> None:
        if batch:
            try:
                self._owner.arrived(batch)
            except Exception:
                logger.exception("layer 'ipc': delivery failed")

    def _lose(self) -> None:
        with self._lock:
            pending = list(self._pending.values())
            self._pending.clear()
            self._subscribing = {}
            self._disconnect()
            self._reason = f"lost its hub at {self._path}"
            ended, topics = self._ended, self._topics.copy()
        for waiter in pending:
            waiter.wake()
        if not ended:
            self._owner.lost(topics, f"layer 'ipc' {self._reason}")
            logger.warning("layer 'ipc' lost its hub at %s; its queued messages and sessions are gone", self._path)

    def _fail_arrivals(self, error: Exception) -> None:
        with self._lock:
            arrivals, self._arrivals = self._arrivals, []
        for waiter in arrivals:
            waiter.error = error
            waiter.wake()

    def _disconnect(self) -> None:
        """With the lock."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._socket is not None:
            # Also for who sends at this moment, and for a forked child that still has it.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None

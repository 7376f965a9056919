"""A process's connection to its hub: kept up by one thread, used by any number of threads or greenlets.

The thread ("reader") connects, reads, and when the connection is lost connects again and restores what was subscribed
to. Callers write their requests themselves and wait for the answer. Knows the wire, and not what messages mean.

The lock is the interpreter's own (see ``offload.layers.local.subscriptions``): nothing under it may
wait. A link is used
once: `close` and `abandon` are final.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import socket
import threading
import time
import weakref
from _thread import RLock
from typing import Any

from offload.exceptions import ConfigurationError, LayerUnavailable, LayerUnreachable
from offload.layers.ipc import wire
from offload.layers.ipc.calls import Calls, Carry
from offload.layers.ipc.hello import check_place, greet
from offload.layers.ipc.owner import Owner
from offload.layers.ipc.waiter import Waiter
from offload.layers.ipc.writer import MAX_UNSENT_BYTES, Writer

logger = logging.getLogger("offload.layer")

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5

_READ_BYTES = 256 * 1024


class Link:
    """The connection.

    Args:
        path: the hub's socket.
        timeout: seconds to wait for a connection, and for an answer.
        foreign: see ``offload.layers.ipc.path.check_directory``.
        expected: whether to wait for a hub that is not there; from the first connection on, one that is lost is
            waited for anyway.
        owner: held weakly; when it is gone, the link ends.
    """

    def __init__(self, path: str, timeout: float, foreign: bool, expected: bool, owner: Owner) -> None:
        self._path = path
        self._expected = expected
        self._timeout = timeout
        self._foreign = foreign
        self._owner = weakref.ref(owner)
        self._lock = RLock()
        self._ids = itertools.count(1)
        self._ended = False
        self._up = False
        self._was_up = False
        self._thread: threading.Thread | None = None
        self._reader: threading.Thread | None = None  # the same, from when it runs
        self._pause: threading.Event | None = None
        self._reason = "not connected yet"
        self._socket: socket.socket | None = None
        self._writer = Writer(self._lock)
        self._pending: dict[int, Waiter] = {}
        self._arrivals: list[Waiter] = []  # those who wait for the connection
        self._calls = Calls(self._carrier, self._called)
        # What to restore. Kept here rather than asked of the layer: it must be read and changed in step with writing.
        self._groups: set[str] = set()
        self._inbox = False
        self._restoring: tuple[int, list[str]] = (0, [])  # what was asked for, and is not answered yet

    # For the layer

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

    def receive(self, channels: list[str], timeout: float | None) -> tuple[str, bytes] | None:
        """Take a message from named queues. What was handed out and is not wanted any more goes back."""
        ends = None if timeout is None else time.monotonic() + timeout
        while True:
            self._wait_until_up(time.monotonic() + self._timeout)
            remaining = None if ends is None else max(0.0, ends - time.monotonic())
            request = next(self._ids)
            # A signal may raise anywhere in here, also when the hub has just been told that the message is taken.
            try:
                waiter = self._ask(wire.RECEIVE, request, (channels, remaining))
                # The hub keeps the time: only a hub that hangs is waited for longer.
                if waiter is None or not self._wait_for_answer(
                    request, waiter, None if remaining is None else remaining + self._timeout
                ):
                    continue
                value = wire.value_of(waiter.frame)
                if value is None:
                    return None
                # Before the caller has it, so that no other can get it as well if this process dies now.
                self.post(wire.TAKEN, 0, request)
                return value[0], value[1]
            except BaseException:
                self._pending.pop(request, None)
                self.post(wire.CANCEL, 0, request, wait=False)
                raise

    def subscribe(self, group: str) -> None:
        """When this fails or is interrupted, `unsubscribe` is to be called."""
        with self._lock:
            self._groups.add(group)
        self.request(wire.SUBSCRIBE, [group], again=True)

    def unsubscribe(self, group: str) -> None:
        """Neither waits nor raises."""
        with self._lock:
            self._groups.discard(group)
            self.post(wire.UNSUBSCRIBE, 0, group, wait=False)

    def open_inbox(self) -> None:
        self._inbox = True
        try:
            self.request(wire.OPEN_INBOX, again=True)
        except BaseException:
            self._inbox = False
            raise

    def post(self, kind: int, *items: Any, wait: bool = True) -> None:
        """Say something that has no answer; without a connection, nothing.

        Args:
            wait: whether this may be a place to start a thread, which waits a little.
        """
        frame = wire.pack(kind, *items)
        with self._lock:
            if self._up:
                self._writer.write(frame)
        if wait:
            self._writer.write_rest()

    def close(self, *, wait: bool = True) -> None:
        with self._lock:
            self._ended = True
            self._up = False
            self._writer.close()
            self._calls.clear()
            asked = list(self._pending.values())
            self._pending.clear()
            thread, connected, pause = self._thread, self._socket, self._pause
        for waiter in asked:
            waiter.error = self._unavailable("was closed")
            waiter.wake()
        self._fail_arrivals(self._unreachable("was closed"))
        if connected is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)  # wakes the reader, which closes
        if pause is not None:
            pause.set()
        if wait and thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(self._timeout)

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection, and say nothing on it."""
        self._lock = RLock()  # a thread that is not here may have had it
        self._ended = True
        self._up = False
        self._close_sockets()

    # Callers

    def _ask(self, kind: int, request: int, arguments: tuple[Any, ...]) -> Waiter | None:
        """Returns None without a connection. On an exception the caller takes it out of `_pending`, as it does when
        one interrupts the wait for the answer."""
        waiter = Waiter()
        frame = wire.pack(kind, request, *arguments)
        with self._lock:
            if not self._up:
                return None
            if self._writer.unsent_bytes > MAX_UNSENT_BYTES:
                raise self._unreachable(
                    f"waits for its hub at {self._path} to read {self._writer.unsent_bytes} bytes that were sent before"
                )
            self._pending[request] = waiter
            self._writer.write(frame)
        self._writer.write_rest()
        return waiter

    def _wait_for_answer(self, request: int, waiter: Waiter, timeout: float | None) -> bool:
        """Returns False when the connection was lost."""
        if not waiter.wait(timeout):
            if self._pending.pop(request, None) is not None:
                raise self._unavailable(f"got no answer from its hub at {self._path} within {self._timeout:g} s")
            waiter.wait(None)  # the answer is being handed to us in this instant
        if waiter.error is not None:
            raise waiter.error
        return waiter.frame is not None

    def _wait_until_up(self, deadline: float) -> None:
        while not self._up:
            waiter = Waiter()
            try:
                with self._lock:
                    if self._ended:
                        raise self._unreachable("was closed")
                    if self._up:
                        return
                    self._arrivals.append(waiter)
                self._ensure_thread()
                waiter.wait(deadline - time.monotonic())
            finally:
                with self._lock:
                    if waiter in self._arrivals:
                        self._arrivals.remove(waiter)
            if waiter.error is not None:
                # One object for all would collect the tracebacks of all.
                raise type(waiter.error)(*waiter.error.args)
            if not self._up and time.monotonic() >= deadline:
                raise self._unreachable(self._reason)

    def _ensure_thread(self) -> None:
        thread = None
        try:
            with self._lock:
                if self._thread is not None or self._ended:
                    return
                self._pause = threading.Event()
                thread = self._thread = threading.Thread(target=self._run, name="offload-ipc", daemon=True)
            # Not under the lock: starting waits for the thread.
            thread.start()
        except BaseException:
            with self._lock:
                # It may run all the same, now or some time.
                if thread is not None and self._reader is not thread:
                    self._thread = None
            raise

    def _unavailable(self, reason: str) -> LayerUnavailable:
        return LayerUnavailable(f"layer 'ipc' {reason}")

    def _unreachable(self, reason: str) -> LayerUnreachable:
        return LayerUnreachable(f"layer 'ipc' {reason}")

    # The reader

    def _run(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return  # who started it was interrupted, and has not seen it run
            self._reader = self._thread
        try:
            self._keep_up()
        finally:
            with self._lock:
                # Otherwise it has ended by itself, and the sockets are the next reader's.
                if self._thread is threading.current_thread():
                    self._close_sockets()
                    self._thread = None

    def _keep_up(self) -> None:
        pause = self._pause
        assert pause is not None
        failures = 0
        while True:
            frames = self._try_to_connect()
            if frames is not None:
                failures = 0
                self._read(frames)
                self._lose()
            with self._lock:
                if self._ended or self._owner() is None or not (self._arrivals or self._groups or self._inbox):
                    self._thread = None
                    return
            pause.wait(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 10)) * random.uniform(0.5, 1.0))
            failures += 1

    def _try_to_connect(self) -> wire.FrameReader | None:
        absent = False
        try:
            return self._connect()
        except FileNotFoundError:
            reason, absent = "no such file", True
        except ConnectionRefusedError:
            reason, absent = "connection refused", True
        except (ConfigurationError, LayerUnavailable) as error:
            # Waiting would not help: say so at once.
            self._fail_arrivals(error)
            reason = str(error)
        except (OSError, wire.BrokenFrame) as error:
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        self._reason = (
            f"cannot reach its hub at {self._path}: {reason};"
            " start 'offload APP' in this directory, or name the socket with ipc:///path"
        )
        with self._lock:
            self._close_sockets()
        if absent and not (self._expected or self._was_up):
            self._fail_arrivals(self._unreachable(self._reason))
        return None

    def _connect(self) -> wire.FrameReader:
        """Connect, say hello, restore; raises what explains why not."""
        check_place(self._path, self._foreign)
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with self._lock:
            # Here from the first, so that a forked child, or `close`, finds it.
            self._socket = connected
            if self._ended:
                raise OSError("the layer was closed")
        if (owner := self._owner()) is None:
            raise OSError("the layer is gone")
        connected.settimeout(self._timeout)
        frames = greet(connected, self._path, self._foreign, owner.hello())
        with self._lock:
            if self._ended:
                raise OSError("the layer was closed")
            self._writer.open(connected)
            if self._inbox:
                self._writer.write(wire.pack(wire.OPEN_INBOX, 0))
            if self._groups:
                self._restoring = next(self._ids), list(self._groups)
                self._writer.write(wire.pack(wire.SUBSCRIBE, *self._restoring))
            self._up = True
            arrivals, self._arrivals = self._arrivals, []
            again, self._was_up = self._was_up, True
            restored = len(self._groups)
        for waiter in arrivals:
            waiter.wake()
        self._writer.write_rest()
        if again:
            logger.info("layer 'ipc' has its hub at %s again; groups restored: %d", self._path, restored)
            owner.connected_again()
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
            # Posted by an event loop, perhaps, which cannot start the thread for it.
            self._writer.write_rest()

    def _dispatch(self, frames: list[list[Any]]) -> None:
        if (owner := self._owner()) is None:
            self._ended = True
            return
        pushes = sum(frame[0] in (wire.MESSAGE, wire.GROUP, wire.LOST) for frame in frames)
        for frame in frames:
            kind = frame[0]
            if kind == wire.ANSWER:
                waiter = self._pending.pop(frame[1], None)
                if waiter is not None:
                    waiter.frame = frame
                    waiter.wake()
                elif frame[1] == self._restoring[0]:
                    owner.restored(self._restoring[1])
            elif kind == wire.CALL:
                self._calls.take(frame[1], frame[2], frame[3], frame[4])
            elif pushes:
                pushes -= 1
                try:
                    owner.pushed(frame, pushes > 0)
                except Exception:
                    logger.exception("layer 'ipc': delivery failed")

    def _lose(self) -> None:
        with self._lock:
            self._up = False
            pending = list(self._pending.values())
            self._pending.clear()
            self._close_sockets()
            ended = self._ended
            self._restoring = 0, []
            self._reason = f"lost its hub at {self._path}"
            if not ended and (owner := self._owner()) is not None:
                # Under the lock, so that none of them is given up meanwhile.
                owner.lost(self._groups, f"layer 'ipc' {self._reason}")
        for waiter in pending:
            waiter.wake()
        if not ended:
            logger.warning(
                "layer 'ipc' lost its hub at %s; what waited there in queues, and sessions, are gone", self._path
            )

    def _fail_arrivals(self, error: Exception) -> None:
        with self._lock:
            arrivals, self._arrivals = self._arrivals, []
        for waiter in arrivals:
            waiter.error = error
            waiter.wake()

    def _close_sockets(self) -> None:
        self._writer.close()
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    # Calls from other processes

    def _carrier(self) -> Carry | None:
        return None if (owner := self._owner()) is None else owner.called

    def _called(self, number: int, error: str | None) -> None:
        self.post(wire.CALLED, 0, number, error)

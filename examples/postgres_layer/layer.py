"""The layer, and its backend: one thread that talks to PostgreSQL for all callers.

    offload --layer 'postgresql://me@db.example/site' project.wsgi

Each call is one function of ``schema.sql``. A topic is a notification channel. A process that is subscribed to its
inbox holds an advisory lock of that name: it ends with its session, so whoever sends to the process sees whether it is
there.
"""

from __future__ import annotations

import base64
import math
import os
import random
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import psycopg

from offload.exceptions import ChannelFull, LayerUnavailable, LayerUnreachable
from offload.layers.backend import Backend, Due, Owner
from offload.layers.front import LayerBase
from offload.layers.link.future import Future, Overdue
from offload.layers.link.thread import Duty

Connection = psycopg.Connection[Any]
Job = Callable[[Connection], Any]
SCHEMA = Path(__file__).with_name("schema.sql").read_bytes()
QUEUES = "offload_queues"
PAUSE = 0.2  # seconds, at most, between two tries to connect


class PostgresLayer(LayerBase):
    """A layer on PostgreSQL.

    Args:
        address: a connection URI, such as ``postgresql://user:password@host:5432/database``.
        timeout: seconds after which a server that does not answer counts as unreachable.
        settings: see ``offload.layers.words.settings.LayerSettings``.
    """

    name = "postgresql"
    extra_settings = {"timeout": float}

    def __init__(self, address: str, *, timeout: float = 5.0, **settings: Any) -> None:
        super().__init__(**settings)
        self._address = address
        self._timeout = timeout

    def make_backend(self, owner: Owner) -> Backend:
        return PostgresBackend(self._address, self._timeout, owner)


class PostgresBackend(Backend):
    """What one process says to PostgreSQL, and hears from it."""

    def __init__(self, address: str, timeout: float, owner: Owner) -> None:
        self.timeout = timeout
        self._address = address
        self._owner = owner
        self._prefix = owner.settings.prefix
        self._thread = Duty(self._run, "offload-postgresql")
        self._jobs: deque[tuple[Future, Job]] = deque()
        self._bell: socket.socket | None = None  # wakes the thread
        self._closed = False
        self._connection: Connection | None = None
        self._has_talked = False
        self._since = math.inf  # when the statement began that is under way
        self._topics: dict[str, int] = {}
        self._names: dict[str, str] = {}  # topics by what PostgreSQL calls them
        self._notes: list[tuple[str, str]] = []  # that came with answers
        self._waiters: dict[threading.Event, list[str]] = {}

    def check(self) -> None:
        self._call("version")

    # Queues

    def push(self, channel: str, payload: bytes, expiry: float, capacity: int) -> None:
        ((expired, room),) = self._call("offload_push", self._prefix + channel, payload, expiry, capacity)
        self._owner.count("expired", expired)
        if not room:
            raise ChannelFull(f"channel {channel!r} holds {capacity} messages, which is its capacity")

    def take(self, channels: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        names = [self._prefix + channel for channel in channels]
        ends = None if timeout is None else time.monotonic() + timeout
        waiter = threading.Event()
        self._waiters[waiter] = names
        try:
            while True:
                waiter.clear()
                random.shuffle(names)  # so that a busy queue does not keep a quiet one waiting
                ((expired, number, name, _, payload),) = self._call("offload_take", names, unclaimed=self._give_back)
                self._owner.count("expired", expired)
                if number is not None:
                    return name[len(self._prefix) :], payload
                remaining = None if ends is None else ends - time.monotonic()
                if remaining is not None and remaining <= 0:
                    return None
                waiter.wait(remaining)
        finally:
            del self._waiters[waiter]

    def _give_back(self, rows: Any) -> None:
        """Of a `take` whose caller is gone."""
        ((_, number, *message),) = rows
        if number is not None:
            self._submit(Future(), _calling("offload_give_back", number, *message))

    # Delayed messages

    def keep(self, channel: str, payload: bytes, seconds: float) -> None:
        self._call("offload_keep", self._prefix, channel, payload, seconds)

    def take_due(self, taker: str, received: int, batch: int) -> Due:
        arguments = self._prefix, taker, received, batch
        ((given, channels, payloads, seconds),) = self._call("offload_take_batch", *arguments)
        return Due(given, list(zip(channels, payloads, strict=True)), seconds)

    # Publications and groups

    def subscribe(self, topic: str, number: int) -> None:
        self._topics[topic] = number
        self._submit(Future(), partial(self._follow, topic))

    def unsubscribe(self, topic: str) -> None:
        self._topics.pop(topic, None)
        self._submit(Future(), partial(self._follow, topic))

    def publish(self, topic: str, payload: bytes) -> int:
        ((heard,),) = self._call("offload_publish_counted", self._name(topic), payload)
        return int(heard)

    def group_send(self, group: str, payload: bytes) -> int:
        topic, settings, full = f"group:{group}", self._owner.settings, 0
        ((names,),) = self._call("offload_group_send", self._name(topic), payload, self._prefix + topic)
        for name in names:
            channel = name[len(self._prefix) :]
            try:
                self.push(channel, payload, settings.expiry, settings.capacity_of(channel))
            except ChannelFull:
                full += 1
        return full

    def set_member(self, group: str, channel: str, is_member: bool) -> None:
        seconds = self._owner.settings.group_expiry if is_member else 0
        self._call("offload_set_member", f"{self._prefix}group:{group}", self._prefix + channel, seconds)

    # Sessions

    def session_load(self, key: str) -> bytes | None:
        ((payload,),) = self._call("offload_session_load", self._session(key))
        return payload  # type: ignore[no-any-return]

    def session_save(self, key: str, payload: bytes, expiry: float) -> None:
        self._call("offload_session_save", self._session(key), payload, expiry)

    def session_expire(self, key: str, seconds: float) -> None:
        self._call("offload_session_expire", self._session(key), seconds)

    def _session(self, key: str) -> bytes:
        return (self._prefix + key).encode(errors="surrogatepass")

    # All of it

    def flush(self) -> None:
        self._call("offload_flush", self._prefix)

    def close(self) -> None:
        self._closed = True
        self._ring()
        self._cut()
        self._wake(None)

    def abandon(self) -> None:
        self._closed = True
        if self._connection is not None and not self._connection.closed:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, self._connection.fileno())  # libpq says goodbye to what it closes
            os.close(nowhere)

    # What callers wait for

    def _call(self, function: str, *arguments: Any, unclaimed: Callable[[Any], None] | None = None) -> Any:
        """The rows that a function returns."""
        future = Future(unclaimed)
        self._submit(future, _calling(function, *arguments))
        try:
            return future.result(self.timeout)
        except Overdue:
            if time.monotonic() - self._since > 0.9 * self.timeout:
                self._cut()
            raise LayerUnavailable(f"layer 'postgresql' got no answer within {self.timeout:g} s") from None

    def _submit(self, future: Future, job: Job) -> None:
        self._jobs.append((future, job))
        self._thread.ensure()
        self._ring()

    def _ring(self) -> None:
        if self._bell is not None:
            with suppress(OSError):  # it does not wait, or has been rung often enough
                self._bell.send(b"x")

    def _cut(self) -> None:
        """End what the thread waits for."""
        if (connection := self._connection) is not None:
            with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as sock:
                sock.shutdown(socket.SHUT_RDWR)

    # The thread

    def _run(self) -> None:
        while not self._thread.may_end(lambda: not self._closed or bool(self._jobs)):
            try:
                if self._closed:
                    raise psycopg.OperationalError("it was closed meanwhile")
                with closing(psycopg.connect(self._address, autocommit=True, connect_timeout=2)) as self._connection:
                    self._talk(self._connection)
            except psycopg.Error as error:
                self._lose(_failure(error, LayerUnreachable))
            self._connection = None

    def _lose(self, failure: LayerUnavailable) -> None:
        """The connection, or hope for one."""
        while self._connection is None and self._jobs:
            self._jobs.popleft()[0].fail(failure)
        if not self._closed:
            topics = self._topics.copy()
            self._owner.lost(topics, str(failure))
            self._owner.failed(topics, failure)
            time.sleep(random.uniform(0.5, 1) * PAUSE)

    def _talk(self, connection: Connection) -> None:
        self._since = time.monotonic()
        connection.add_notify_handler(lambda note: self._notes.append((note.channel, note.payload)))
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(0)")
            connection.execute(SCHEMA)
        connection.execute(f"LISTEN {QUEUES}".encode())
        for topic in list(self._topics):
            self._follow(topic, connection)
        if self._has_talked:
            self._owner.reconnected()
        self._has_talked = True
        self._wake(None)
        ear, bell = socket.socketpair()
        with ear, bell, selectors.DefaultSelector() as selector:
            for its in (ear, bell):
                its.setblocking(False)
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(ear, selectors.EVENT_READ)
            self._bell = bell
            while not self._closed:
                for _ in range(len(self._jobs)):
                    self._do(connection, *self._jobs.popleft())
                self._deliver(connection)
                self._since = math.inf
                selector.select()
                self._since = time.monotonic()
                with suppress(BlockingIOError):
                    ear.recv(4096)

    def _do(self, connection: Connection, future: Future, job: Job) -> None:
        if future.left:
            return
        self._since = time.monotonic()
        try:
            future.resolve(job(connection))
        except psycopg.Error as error:
            future.fail(_failure(error, LayerUnavailable))
            if connection.closed:
                raise

    def _follow(self, topic: str, connection: Connection) -> None:
        """Do what a topic's latest `subscribe` or `unsubscribe` asks for."""
        number, name = self._topics.get(topic), self._name(topic)
        if number is None:
            connection.execute(f"UNLISTEN {name}".encode())
            self._names.pop(name, None)
            return
        _calling("offload_listen", name, topic.startswith("inbox:"))(connection)
        self._names[name] = topic
        self._deliver(connection)  # what was sent before is not for who has just come
        self._owner.subscribed({topic: number})

    def _deliver(self, connection: Connection) -> None:
        """All that has come."""
        while notes := self._read(connection):
            batch: list[tuple[str, bytes]] = []
            for name, text in notes:
                if name == QUEUES:
                    self._wake(text)
                elif (topic := self._names.get(name)) is not None:
                    if text.startswith("#"):
                        rows = _calling("offload_large_load", int(text[1:]))(connection)
                        batch += [(topic, payload) for (payload,) in rows]
                    else:
                        batch.append((topic, base64.b64decode(text)))
            if batch:
                self._owner.arrived(batch)

    def _read(self, connection: Connection) -> list[tuple[str, str]]:
        connection.pgconn.consume_input()
        while (note := connection.pgconn.notifies()) is not None:
            self._notes.append((note.relname.decode(), note.extra.decode()))
        notes, self._notes = self._notes, []
        return notes

    def _wake(self, name: str | None) -> None:
        """Have those look who wait for a queue; None for all."""
        for waiter, names in list(self._waiters.items()):
            if name is None or name in names:
                waiter.set()

    def _name(self, topic: str) -> str:
        return f"offload_{blake2b((self._prefix + topic).encode(), digest_size=16).hexdigest()}"


def _calling(function: str, *arguments: Any) -> Job:
    """A function of ``schema.sql`` to call; returns its rows."""
    statement = f"SELECT * FROM {function}({', '.join(['%s'] * len(arguments))})".encode()
    return lambda connection: connection.execute(statement, arguments).fetchall()


def _failure(error: psycopg.Error, kind: type[LayerUnavailable]) -> LayerUnavailable:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return kind(f"layer 'postgresql' cannot reach its server: {reason}")

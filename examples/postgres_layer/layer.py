"""The layer, and its backend: a thread that listens, and threads that run statements for all callers.

    offload --layer 'postgresql://me@db.example/site' project.wsgi

A topic is a notification channel. A process that is subscribed to its inbox holds an advisory lock of that name: it
ends with its session, so whoever sends to the process sees whether it is there.
"""

from __future__ import annotations

import base64
import os
import queue
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import psycopg

from offload.exceptions import ChannelFull, LayerUnavailable, LayerUnreachable
from offload.layers.backend import Backend, Due, Owner
from offload.layers.front import LayerBase
from offload.layers.link.future import Future

Connection = psycopg.Connection[Any]
SCHEMA = Path(__file__).with_name("schema.sql").read_bytes()
CONNECTIONS = 4  # for statements, in each process that uses the layer
QUEUES = "offload_queues"
PAUSE = 0.2  # seconds, at most, between two tries to connect
LONGEST = 1e9  # seconds that a session is kept
LISTENING = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock'"
    " AND (classid::bigint << 32 | objid::bigint) = %s"
)


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
        self._lock = threading.Lock()
        self._started = self._closed = False
        self._is_ready = threading.Event()  # the schema
        self._jobs: queue.SimpleQueue[tuple[Future, str, Sequence[Any]] | None] = queue.SimpleQueue()
        self._connections: dict[str, Connection] = {}  # by thread
        self._since: dict[str, float] = {}  # when a thread's statement began
        self._topics: dict[str, int] = {}
        self._names: dict[str, str] = {}  # topics by what PostgreSQL calls them
        self._changes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._notes: list[tuple[str, str]] = []
        self._waiters: dict[threading.Event, list[str]] = {}
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)

    def check(self) -> None:
        self._run("SELECT 1")

    # Queues

    def push(self, channel: str, payload: bytes, expiry: float, capacity: int) -> None:
        name = self._prefix + channel
        ((expired, room),) = self._run("SELECT * FROM offload_push(%s, %s, %s, %s)", name, payload, expiry, capacity)
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
                rows = self._run("SELECT * FROM offload_take(%s)", names, unclaimed=self._give_back)
                ((expired, number, name, _, payload),) = rows
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
        for _, number, name, ends, payload in rows or ():
            if number is not None:
                again = "INSERT INTO offload_queue (id, name, ends, payload) VALUES (%s, %s, %s, %s)"
                self._jobs.put((Future(), again, (number, name, ends, payload)))
                self._jobs.put((Future(), "SELECT pg_notify(%s, %s)", (QUEUES, name)))

    # Delayed messages

    def keep(self, channel: str, payload: bytes, seconds: float) -> None:
        self._run(
            "INSERT INTO offload_delayed (prefix, channel, due, payload)"
            " VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s), %s)",
            self._prefix, channel, min(seconds, LONGEST), payload,
        )  # fmt: skip

    def take_due(self, taker: str, received: int, batch: int) -> Due:
        rows = self._run("SELECT * FROM offload_take_due(%s, %s, %s, %s)", self._prefix, taker, received, batch)
        ((seconds,),) = self._run(
            "SELECT extract(epoch FROM min(due) - clock_timestamp())::float8 FROM offload_delayed"
            " WHERE prefix = %s AND taker IS NULL",
            self._prefix,
        )
        found = [(channel, payload) for _, channel, payload in rows]
        return Due(rows[0][0] if rows else batch, found, None if seconds is None else max(0.0, seconds))

    # Publications and groups

    def subscribe(self, topic: str, number: int) -> None:
        self._topics[topic] = number
        self._tell(topic)

    def unsubscribe(self, topic: str) -> None:
        self._topics.pop(topic, None)
        self._tell(topic)

    def publish(self, topic: str, payload: bytes) -> int:
        ((_, heard),) = self._run(
            f"SELECT offload_publish(%s, %s), ({LISTENING})", self._name(topic), payload, self._key(topic)
        )
        return int(heard)

    def group_send(self, group: str, payload: bytes) -> int:
        topic, settings, full = f"group:{group}", self._owner.settings, 0
        rows = self._run(
            "SELECT offload_publish(%s, %s), array(SELECT name FROM offload_member"
            " WHERE topic = %s AND ends > clock_timestamp())",
            self._name(topic), payload, self._prefix + topic,
        )  # fmt: skip
        for name in rows[0][1]:
            channel = name[len(self._prefix) :]
            try:
                self.push(channel, payload, settings.expiry, settings.capacity_of(channel))
            except ChannelFull:
                full += 1
        return full

    def set_member(self, group: str, channel: str, is_member: bool) -> None:
        names = f"{self._prefix}group:{group}", self._prefix + channel
        if is_member:
            self._run(
                "INSERT INTO offload_member VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s))"
                " ON CONFLICT (topic, name) DO UPDATE SET ends = EXCLUDED.ends",
                *names, self._owner.settings.group_expiry,
            )  # fmt: skip
        else:
            self._run("DELETE FROM offload_member WHERE topic = %s AND name = %s", *names)

    # Sessions

    def session_load(self, key: str) -> bytes | None:
        rows = self._run(
            "SELECT payload FROM offload_session WHERE key = %s AND ends > clock_timestamp()", self._session(key)
        )
        return rows[0][0] if rows else None

    def session_save(self, key: str, payload: bytes, expiry: float) -> None:
        self._run("DELETE FROM offload_session WHERE ends <= clock_timestamp()")
        self._run(
            "INSERT INTO offload_session VALUES (%s, clock_timestamp() + make_interval(secs => %s), %s)"
            " ON CONFLICT (key) DO UPDATE SET ends = EXCLUDED.ends, payload = EXCLUDED.payload",
            self._session(key), min(expiry, LONGEST), payload,
        )  # fmt: skip

    def session_expire(self, key: str, seconds: float) -> None:
        self._run(
            "UPDATE offload_session SET ends = clock_timestamp() + make_interval(secs => %s)"
            " WHERE key = %s AND ends > clock_timestamp()",
            min(seconds, LONGEST), self._session(key),
        )  # fmt: skip

    def _session(self, key: str) -> bytes:
        return (self._prefix + key).encode(errors="surrogatepass")

    # All of it

    def flush(self) -> None:
        self._run("DELETE FROM offload_queue WHERE starts_with(name, %s)", self._prefix)
        self._run("DELETE FROM offload_member WHERE starts_with(topic, %s)", self._prefix)
        self._run("DELETE FROM offload_delayed WHERE starts_with(prefix, %s)", self._prefix)
        prefix = self._prefix.encode()
        self._run("DELETE FROM offload_session WHERE substring(key FROM 1 FOR %s) = %s", len(prefix), prefix)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.close(self._writer)  # which ends the listener's wait
            if not self._started:
                os.close(self._reader)
        while not self._jobs.empty():
            if (job := self._jobs.get()) is not None:
                job[0].fail(self._error("was closed meanwhile"))
        for _ in range(CONNECTIONS):
            self._jobs.put(None)
        for connection in list(self._connections.values()):
            _cut(connection)
        self._wake(None)

    def abandon(self) -> None:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for connection in self._connections.values():
            with suppress(psycopg.Error):
                os.dup2(nowhere, connection.fileno())  # libpq says goodbye to what it closes
        os.close(nowhere)

    # Statements: callers wait for a future, threads of the backend for PostgreSQL

    def _run(self, statement: str, *arguments: Any, unclaimed: Callable[[Any], None] | None = None) -> Any:
        """The rows of a statement."""
        self._start()
        future = Future(unclaimed)
        self._jobs.put((future, statement, arguments))
        if self._closed:
            raise self._error("was closed meanwhile")
        try:
            return future.result(self.timeout)
        except TimeoutError:
            began = time.monotonic() - 0.9 * self.timeout
            for thread in [thread for thread, since in list(self._since.items()) if since < began]:
                if (connection := self._connections.get(thread)) is not None:
                    _cut(connection)  # the thread that stands still goes on
            raise self._error(f"got no answer within {self.timeout:g} s") from None

    def _start(self) -> None:
        with self._lock:
            if self._started or self._closed:
                return
            self._started = True
        for run in (self._listen, *(partial(self._work, f"work-{number}") for number in range(CONNECTIONS))):
            threading.Thread(target=run, name="offload-postgresql", daemon=True).start()

    def _work(self, thread: str) -> None:
        while (job := self._jobs.get()) is not None:
            future, statement, arguments = job
            if future.left:
                continue
            sent = False
            self._since[thread] = time.monotonic()
            try:
                connection = self._connected(thread)
                sent = True
                cursor = connection.execute(statement.encode(), arguments)
                future.resolve(cursor.fetchall() if cursor.description else [])
            except psycopg.Error as error:
                self._disconnect(thread)
                future.fail(self._failure(error, sent))
            del self._since[thread]
        self._disconnect(thread)

    def _connected(self, thread: str) -> Connection:
        connection = self._connections.get(thread)
        if connection is not None and select.select([connection.fileno()], [], [], 0)[0]:
            self._disconnect(thread)  # what has something to say between two statements has ended
            connection = None
        if connection is None:
            connection = psycopg.connect(self._address, autocommit=True, connect_timeout=2)
            self._connections[thread] = connection
            if thread == "listen":
                with connection.transaction():
                    connection.execute("SELECT pg_advisory_xact_lock(0)")
                    connection.execute(SCHEMA)
                self._is_ready.set()
            else:
                self._is_ready.wait(self.timeout)
            if self._closed:
                raise psycopg.OperationalError("the layer was closed")
        return connection

    def _disconnect(self, thread: str) -> None:
        if (connection := self._connections.pop(thread, None)) is not None:
            connection.close()

    def _error(self, reason: str) -> LayerUnavailable:
        return LayerUnavailable(f"layer 'postgresql' {reason}")

    def _failure(self, error: psycopg.Error, sent: bool) -> LayerUnavailable:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        kind = LayerUnavailable if sent else LayerUnreachable
        return kind(f"layer 'postgresql' cannot reach its server: {reason}")

    # The listener: LISTEN and UNLISTEN in the order asked, notifications as they come

    def _listen(self) -> None:
        was_connected = False
        while not self._closed:
            try:
                connection = self._connected("listen")
                connection.add_notify_handler(self._notified)
                connection.execute(f"LISTEN {QUEUES}".encode())
                heard: set[str] = set()
                for topic in list(self._topics):
                    self._follow(connection, topic, heard)
                if was_connected:
                    self._owner.reconnected()
                was_connected = True
                self._wake(None)
                while not self._closed:
                    self._hear(connection, heard)
            except psycopg.Error as error:
                failure, topics = self._failure(error, False), self._topics.copy()
                self._owner.lost(topics, str(failure))
                self._owner.failed(topics, failure)
                select.select([self._reader], [], [], random.uniform(0.5, 1) * PAUSE)
            self._disconnect("listen")
        os.close(self._reader)

    def _hear(self, connection: Connection, heard: set[str]) -> None:
        select.select([connection.fileno(), self._reader], [], [])
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)
        while not self._changes.empty():
            self._follow(connection, self._changes.get(), heard)
        connection.pgconn.consume_input()
        while (note := connection.pgconn.notifies()) is not None:
            self._notes.append((note.relname.decode(), note.extra.decode()))
        self._deliver(connection)

    def _follow(self, connection: Connection, topic: str, heard: set[str]) -> None:
        """Do what a topic's latest `subscribe` or `unsubscribe` asks for."""
        number, name = self._topics.get(topic), self._name(topic)
        if number is None and topic in heard:
            heard.discard(topic)
            connection.execute(f"UNLISTEN {name}".encode())
        if number is None:
            self._names.pop(name, None)
            return
        heard.add(topic)
        self._names[name] = topic
        connection.execute(f"LISTEN {name}".encode())
        if topic.startswith("inbox:"):
            connection.execute("SELECT pg_advisory_lock_shared(%s)", (self._key(topic),))
        self._deliver(connection)  # what was sent before is not for who has just come
        self._owner.subscribed({topic: number})

    def _notified(self, note: psycopg.Notify) -> None:
        self._notes.append((note.channel, note.payload))

    def _deliver(self, connection: Connection) -> None:
        batch: list[tuple[str, bytes]] = []
        notes, self._notes = self._notes, []
        for name, text in notes:
            if name == QUEUES:
                self._wake(text)
            elif (topic := self._names.get(name)) is not None:
                if text.startswith("#"):
                    row = connection.execute("SELECT payload FROM offload_large WHERE id = %s", (text[1:],)).fetchone()
                    batch += [(topic, row[0])] if row is not None else []
                else:
                    batch.append((topic, base64.b64decode(text)))
        if batch:
            self._owner.arrived(batch)

    def _wake(self, name: str | None) -> None:
        """Have those look who wait for a queue; None for all."""
        for waiter, names in list(self._waiters.items()):
            if name is None or name in names:
                waiter.set()

    def _tell(self, topic: str) -> None:
        self._changes.put(topic)
        self._start()
        with self._lock:
            if not self._closed:
                os.write(self._writer, b"x")

    def _name(self, topic: str) -> str:
        return f"offload_{blake2b((self._prefix + topic).encode(), digest_size=16).hexdigest()}"

    def _key(self, topic: str) -> int:
        return int.from_bytes(blake2b((self._prefix + topic).encode(), digest_size=8).digest(), "big", signed=True)


def _cut(connection: Connection) -> None:
    """End what its thread waits for."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as sock:
        sock.shutdown(socket.SHUT_RDWR)

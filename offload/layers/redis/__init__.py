"""The layer on a Redis server: any number of processes on any number of machines.

Here names become keys and the base's calls become commands; ``offload.layers.redis.scripts`` tells the layout.
A group is a pub/sub channel at ``<prefix>group:<name>`` that carries the codec's bytes and nothing else, so that any
program may publish to it. A process's inbox is the pub/sub channel ``<prefix>inbox:<process>``.
"""

from __future__ import annotations

import itertools
import logging
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from offload.exceptions import ChannelFull, ConfigurationError, LayerUnavailable
from offload.layers.front import INBOX, LayerBase
from offload.layers.link.future import Future
from offload.layers.redis.access import Access, verification
from offload.layers.redis.address import RedisAddress, parse_hosts
from offload.layers.redis.cluster import Cluster
from offload.layers.redis.link import CLOSED
from offload.layers.redis.requests import ADD, DISCARD, Requests, message_frame
from offload.layers.redis.scripts import FETCH, GROUP_ADD, GROUP_SEND, LEAVE, PUSH, milliseconds
from offload.layers.redis.server import Server, refuse_real_thread
from offload.layers.redis.shards import Ring, Shard
from offload.layers.redis.subscriber import Owner, Router
from offload.layers.redis.takes import Takes
from offload.layers.words.codec import UndecodableMessage
from offload.layers.words.seal import PROCESS

logger = logging.getLogger("offload.layer")

_SCAN_COUNT = 1000
_LEFT_SECONDS, _MOST_LEFT = 3600.0, 1000
"""How long requests are left for a process that nobody hears, and how many."""


_MOST_SECONDS = 1e6  # of a timeout
_LONGEST = 7_000_000_000.0  # seconds that something is kept, over two centuries: its end in milliseconds has 13 digits


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < _MOST_SECONDS:
        raise ValueError("it must be a number of seconds above 0")
    return seconds


def _check_seconds(name: str, value: object, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < most:
        raise ConfigurationError(
            f"layer setting {name}={value!r} must be a number of seconds above 0 and below {most:,.0f} on Redis"
        )


def _boolean(text: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        return values[text.lower()]
    except KeyError:
        raise ValueError("it must be true or false") from None


def _sent_in_part(error: LayerUnavailable) -> LayerUnavailable:
    """Of any kind, where it is not certain that nothing was sent."""
    return LayerUnavailable(f"{error}; other members of the group may have got the message")


def _make_shard(
    owner: weakref.ref[Owner],
    connect_timeout: float,
    timeout: float,
    access: Access,
    address: RedisAddress,
    router: Router | None = None,
    sharded: bool = False,
) -> Shard:
    return Shard(Server(address, connect_timeout, timeout, access), owner, router, sharded)


class RedisLayer(LayerBase):
    """A layer on Redis 6.2 or newer, or Valkey.

    Args:
        hosts: where it is: a URL (``redis://user:password@host:6379/0``, ``rediss://``, ``redis+unix:///path``,
            ``redis+sentinel://h1,h2/0?service=name``, ``redis+cluster://h1,h2``, ``rediss+sentinel://``,
            ``rediss+cluster://``), a pair of host and port, or a list of those. Several in a list are shards; all
            processes must name the same, in any order.
        timeout: seconds after which a server that does not answer counts as unreachable.
        connect_timeout: seconds for opening a connection; by default two, but not more than `timeout`.
        db: the database, where the address names none.
        ssl_cert_reqs, ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_check_hostname: for TLS; see `Access`.
        sentinel_ssl, sentinel_username, sentinel_password: for the Sentinels; see `Access`. The address's own user and
            password are for the master.
        settings: see ``offload.layers.words.settings.LayerSettings``.
    """

    name = "redis"
    extra_settings = {
        "timeout": _seconds,
        "connect_timeout": _seconds,
        "db": int,
        "ssl_cert_reqs": verification,
        "ssl_ca_certs": str,
        "ssl_certfile": str,
        "ssl_keyfile": str,
        "ssl_check_hostname": _boolean,
        "sentinel_ssl": _boolean,
        "sentinel_username": str,
        "sentinel_password": str,
    }

    def __init__(
        self,
        hosts: Any = "redis://127.0.0.1:6379/0",
        *,
        timeout: float = 5.0,
        connect_timeout: float | None = None,
        db: int | None = None,
        ssl_cert_reqs: str | None = None,
        ssl_ca_certs: str | None = None,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        ssl_check_hostname: bool | None = None,
        sentinel_ssl: bool | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
        **settings: Any,
    ) -> None:
        _check_seconds("timeout", timeout, _MOST_SECONDS)
        if connect_timeout is not None:
            _check_seconds("connect_timeout", connect_timeout, _MOST_SECONDS)
        super().__init__(**settings)
        _check_seconds("expiry", self.expiry, _LONGEST)
        _check_seconds("group_expiry", self.group_expiry, _LONGEST)
        self._addresses = parse_hosts(hosts, db)
        self._timeout = timeout
        self._connect_timeout = min(2.0, timeout) if connect_timeout is None else connect_timeout
        self._access = Access(
            cert_reqs=ssl_cert_reqs,
            ca_certs=ssl_ca_certs,
            certfile=ssl_certfile,
            keyfile=ssl_keyfile,
            check_hostname=ssl_check_hostname,
            sentinel_ssl=sentinel_ssl,
            sentinel_username=sentinel_username,
            sentinel_password=sentinel_password,
        )
        self._access.check(self._addresses)
        prefix = self.settings.prefix
        self._group_prefix = f"{prefix}group:"
        self._members_prefix = f"{prefix}members:"
        self._inbox_prefix = f"{prefix}inbox:"
        self._queue_prefix = f"{prefix}channel:"
        self._session_prefix = f"{prefix}session:"
        self._group_bytes = self._group_prefix.encode()
        self._lifetime = milliseconds(self.expiry)
        self._finalizer: weakref.finalize[..., RedisLayer] | None = None
        self._set_out()

    @property
    def place(self) -> str:
        """See `LayerBase.place`."""
        prefix = f"?prefix={self.settings.prefix}" if self.settings.prefix else ""
        return ",".join(sorted(address.shown for address in self._addresses)) + prefix

    def _set_out(self) -> None:
        """Make what talks to the server; nothing of it connects, or makes locks that wait, before it is used."""
        first = self._addresses[0]
        # Subscribers' threads hold these, so they must not hold the layer.
        make_shard = partial(_make_shard, weakref.ref(self), self._connect_timeout, self._timeout, self._access)
        self._ring = (
            Cluster(first, make_shard, self._connect_timeout, self._access)
            if first.nodes
            else Ring([make_shard(address) for address in self._addresses])
        )
        self._numbers = itertools.count(1)
        self._subscribing: dict[int, Future] = {}
        if self._finalizer is not None:
            self._finalizer.detach()
        # A layer that is dropped without `close` must not leave its threads and connections behind.
        self._finalizer = weakref.finalize(self, self._ring.close)
        self._finalizer.atexit = False
        self._takes = Takes(
            self._ring, lambda number: self.count("expired", number), lambda number: self.count("lost", number)
        )
        self._requests = Requests(
            self._publish_to_process,
            self._seal_frame,
            self._unseal_frame,
            self._is_heard_elsewhere,
            self._leave_for_process,
            self._fetch_what_was_left,
            self.deliver_payload,
            self.add_local,
            self.discard_local,
            lambda group: self._ring.place(self._group_prefix + group),
            lambda process: self._ring.place(self._inbox_prefix + process),
            self._timeout,
        )

    # What the subscribers call

    def arrived(self, batch: list[tuple[bytes, bytes]]) -> None:
        last = len(batch) - 1
        prefix = self._group_bytes
        for place, (name, payload) in enumerate(batch):
            if name.startswith(prefix):
                self.deliver_group_payload(name[len(prefix) :].decode(), payload, place < last)
            else:
                self._requests.take(payload, place < last)

    def subscribed(self, name: str, number: int) -> None:
        if (waiting := self._subscribing.pop(number, None)) is not None:
            waiting.resolve(None)
        elif (group := self._group(name)) is not None:
            self._upstream.restore(group)
        else:
            self._requests.returned(self.process)

    def lost(self, names: Mapping[str, int], reason: str) -> None:
        groups = [group for name in names if (group := self._group(name)) is not None]
        self._upstream.lose(groups, reason, self._timeout)

    def failed(self, name: str, number: int, error: LayerUnavailable) -> None:
        if (waiting := self._subscribing.pop(number, None)) is not None:
            waiting.fail(error)
        else:
            group = self._group(name)
            self._upstream.give_up(INBOX if group is None else group)

    def reconnected(self) -> None:
        self.count("reconnects")

    def _group(self, name: str) -> str | None:
        """Of a pub/sub channel; None of the inbox."""
        return name[len(self._group_prefix) :] if name.startswith(self._group_prefix) else None

    def _seal_frame(self, process: str, frame: bytes) -> bytes:
        return self.codec.seal(frame, PROCESS, process)

    def _unseal_frame(self, frame: bytes) -> bytes | None:
        try:
            return self.codec.unseal(frame, PROCESS, self.process)
        except UndecodableMessage as error:
            self.count("lost")
            logger.warning("lost a message to this process's inbox: %s", error)
            return None

    # What the base asks for

    def _check(self) -> None:
        for shard in self._ring.shards():
            shard.check()

    def _send(self, channel: str, payload: bytes) -> None:
        capacity = self.settings.capacity_of(channel)
        full, expired = self._ring.run_script(PUSH, [self._queue_prefix + channel], payload, self._lifetime, capacity)
        if expired:
            self.count("expired", expired)
        if full:
            raise ChannelFull(f"channel {channel!r} holds {capacity} messages, which is its capacity")

    def _send_to_process(self, process: str, channel: str, payload: bytes) -> None:
        self._publish_to_process(process, message_frame(channel, payload))

    def _publish_to_process(self, process: str, frame: bytes) -> int:
        return self._ring.publish(self._inbox_prefix + process, frame)

    def _is_heard_elsewhere(self, process: str) -> bool:
        return self._ring.is_heard_elsewhere(self._inbox_prefix + process)

    def _leave_for_process(self, process: str, frame: bytes) -> int:
        inbox, most = self._inbox_prefix + process, (milliseconds(_LEFT_SECONDS), _MOST_LEFT)
        publish = self._ring.publish_command
        heard: int = self._ring.run_script(LEAVE, [self._left_for(process)], publish, inbox, frame, *most)
        return heard

    def _fetch_what_was_left(self) -> list[bytes]:
        frames: list[bytes] = self._ring.run_script(FETCH, [self._left_for(self.process)])
        return frames

    def _left_for(self, process: str) -> str:
        return f"{self.settings.prefix}left:{{{self._inbox_prefix}{process}}}"

    def _receive(self, channels: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        prefix = self._queue_prefix
        found = self._takes.take([prefix + channel for channel in channels], timeout)
        return None if found is None else (found[0][len(prefix) :], found[1])

    def _open_inbox(self) -> None:
        self._subscribe_to(self._inbox_prefix + self.process)

    def _subscribe(self, group: str) -> None:
        self._subscribe_to(self._group_prefix + group)

    def _subscribe_to(self, name: str) -> None:
        refuse_real_thread()
        number, waiting = next(self._numbers), Future()
        self._subscribing[number] = waiting
        try:
            self._ring.subscribe(name, number)
            waiting.result()
        finally:
            self._subscribing.pop(number, None)

    def _unsubscribe(self, group: str) -> None:
        self._ring.unsubscribe(self._group_prefix + group)

    def _add_for_process(self, process: str, group: str, channel: str) -> None:
        self._ask(ADD, process, group, channel)

    def _discard_for_process(self, process: str, group: str, channel: str) -> None:
        self._ask(DISCARD, process, group, channel)

    def _ask(self, kind: bytes, process: str, group: str, channel: str) -> None:
        self.open_inbox()  # where the answer comes
        self._requests.ask(kind, process, group, channel, self.process)

    def _add_queue(self, group: str, channel: str) -> None:
        self._ring.run_script(GROUP_ADD, [self._members(group)], channel, milliseconds(self.group_expiry))

    def _discard_queue(self, group: str, channel: str) -> None:
        members = self._members(group)
        self._ring.run(members, "ZREM", members, channel)

    def _members(self, group: str) -> str:
        return f"{self._members_prefix}{{{self._group_prefix}{group}}}"

    def _group_send(self, group: str, payload: bytes) -> int:
        name = self._group_prefix + group
        channels = self._ring.run_script(GROUP_SEND, [self._members(group)], self._ring.publish_command, name, payload)
        if channels is None:
            return 0
        capacities = {
            self._queue_prefix + channel: self.settings.capacity_of(channel)
            for channel in [channel.decode() for channel in channels]
        }
        try:
            pushed = self._ring.push(capacities, payload, self._lifetime)
        except LayerUnavailable as error:
            raise _sent_in_part(error) from None
        if pushed.expired:
            self.count("expired", pushed.expired)
        if pushed.failure is not None:
            self.count("full", pushed.full)
            raise _sent_in_part(pushed.failure) from None
        return pushed.full

    def _session_load(self, key: str) -> bytes | None:
        key = self._session_prefix + key
        payload: bytes | None = self._ring.run(key, "GET", key)
        return payload

    def _session_save(self, key: str, payload: bytes, expiry: float) -> None:
        key = self._session_prefix + key
        self._ring.run(key, "SET", key, payload, "PX", milliseconds(min(expiry, _LONGEST)))

    def _session_delete(self, key: str) -> None:
        key = self._session_prefix + key
        self._ring.run(key, "DEL", key)

    def _flush(self) -> None:
        prefixes = (self._queue_prefix, self._members_prefix, self._session_prefix, f"{self.settings.prefix}left:")
        patterns = [f"{prefix}*" for prefix in prefixes]
        for shard in self._ring.shards():
            for pattern in patterns:
                cursor = b"0"
                while True:
                    cursor, keys = shard.commands.run("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
                    if keys:
                        self._ring.unlink([key.decode() for key in keys])
                    if cursor == b"0":
                        break

    def _close(self) -> None:
        requests, ring, subscribing = self._requests, self._ring, self._subscribing
        self._set_out()
        requests.close()
        ring.close()
        for waiting in list(subscribing.values()):
            waiting.fail(LayerUnavailable(CLOSED))

    def _forked(self) -> None:
        self._ring.drop()
        self._set_out()

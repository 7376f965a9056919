"""The layer on a Redis server: any number of processes on any number of machines.

Here names become keys and the base's calls become commands; ``offload.layers.redis.scripts`` tells the layout.
A group is a pub/sub channel at ``<prefix>group:<name>`` that carries the codec's bytes and nothing else, so that any
program may publish to it. A process's inbox is the pub/sub channel ``<prefix>inbox:<process>``.
"""

from __future__ import annotations

import os
from _thread import RLock
from collections.abc import Sequence
from functools import partial
from typing import Any

from offload.exceptions import ChannelFull, ConfigurationError, LayerUnavailable, LayerUnreachable
from offload.layers.backend import Backend, Due, Owner
from offload.layers.front import LayerBase
from offload.layers.link.thread import refuse_real_thread, start
from offload.layers.local.broker import GIVEN_SECONDS, MOST_DUE, MOST_DUE_BYTES
from offload.layers.redis.access import Access, verification
from offload.layers.redis.address import RedisAddress, parse_hosts
from offload.layers.redis.cluster import Cluster
from offload.layers.redis.scripts import GROUP_ADD, GROUP_SEND, KEEP, PUSH, TAKE_DUE, milliseconds
from offload.layers.redis.server import Server
from offload.layers.redis.shards import Ring, Shard
from offload.layers.redis.subscriber import Router
from offload.layers.redis.takes import Takes

_SCAN_COUNT = 1000
_TELLING_BYTES = 8

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
            {
                "ssl_cert_reqs": ssl_cert_reqs,
                "ssl_ca_certs": ssl_ca_certs,
                "ssl_certfile": ssl_certfile,
                "ssl_keyfile": ssl_keyfile,
                "ssl_check_hostname": ssl_check_hostname,
                "sentinel_ssl": sentinel_ssl,
                "sentinel_username": sentinel_username,
                "sentinel_password": sentinel_password,
            }
        )
        self._access.check(self._addresses)

    @property
    def place(self) -> str:
        """See `LayerBase.place`."""
        prefix = f"?prefix={self.settings.prefix}" if self.settings.prefix else ""
        return ",".join(sorted(address.shown for address in self._addresses)) + prefix

    def make_backend(self, owner: Owner) -> Backend:
        return RedisBackend(self._addresses, self._connect_timeout, self._timeout, self._access, owner)


class RedisBackend(Backend):
    """One process's part of it."""

    def __init__(
        self, addresses: Sequence[RedisAddress], connect_timeout: float, timeout: float, access: Access, owner: Owner
    ) -> None:
        self.timeout = timeout
        self._owner = owner
        self._settings = owner.settings
        self._prefix = prefix = self._settings.prefix
        self._members_prefix = f"{prefix}members:"
        self._sent_prefix = f"{prefix}sent:"
        self._group_milliseconds = milliseconds(self._settings.group_expiry)
        self._queue_prefix = f"{prefix}channel:"
        self._session_prefix = f"{prefix}session:"
        self._lock = RLock()
        self._late: dict[str, int] = {}  # topics that are subscribed to as soon as it is known where
        self._delayed = f"{prefix}delayed"
        self._given_prefix = f"{prefix}given:"
        first = addresses[0]

        def make_shard(address: RedisAddress, router: Router | None = None, sharded: bool = False) -> Shard:
            return Shard(Server(address, connect_timeout, timeout, access), owner, router, sharded)

        # Nothing of it connects before it is used.
        self.ring = (
            Cluster(first, make_shard, connect_timeout, access)
            if first.nodes
            else Ring([make_shard(address) for address in addresses])
        )
        self._takes = Takes(self.ring, owner)

    def check(self) -> None:
        for shard in self.ring.shards():
            shard.check()

    def push(self, channel: str, payload: bytes, expiry: float, capacity: int) -> None:
        full, expired = self.ring.run_script(
            PUSH, [self._queue_prefix + channel], payload, milliseconds(expiry), capacity
        )
        if expired:
            self._owner.count("expired", expired)
        if full:
            raise ChannelFull(f"channel {channel!r} holds {capacity} messages, which is its capacity")

    def keep(self, channel: str, payload: bytes, seconds: float) -> None:
        # Equal messages are several all the same.
        message = b"%b%b\n%b" % (os.urandom(_TELLING_BYTES), channel.encode(), payload)
        self.ring.run_script(KEEP, [self._delayed], milliseconds(seconds), message)

    def take_due(self, taker: str, received: int, batch: int) -> Due:
        keys = [self._delayed, f"{self._given_prefix}{{{self._delayed}}}:{taker}"]
        (number, *given), *following = self.ring.run_script(
            TAKE_DUE, keys, MOST_DUE, MOST_DUE_BYTES, received, batch, milliseconds(GIVEN_SECONDS)
        )
        messages = []
        for message in given:
            channel, _, payload = message[_TELLING_BYTES:].partition(b"\n")
            messages.append((channel.decode(), payload))
        return Due(int(number), messages, following[0] / 1000 if following else None)

    def take(self, channels: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        prefix = self._queue_prefix
        found = self._takes.take([prefix + channel for channel in channels], timeout)
        return None if found is None else (found[0][len(prefix) :], found[1])

    def subscribe(self, topic: str, number: int) -> None:
        try:
            refuse_real_thread("redis")
            if not self.ring.subscribe(self._prefix + topic, number):
                self._late[topic] = number
                start(partial(self._subscribe_late, topic, number), "offload-redis-slots")
        except (LayerUnavailable, RuntimeError) as error:
            self._fail_late(topic, number, error)

    def _subscribe_late(self, topic: str, number: int) -> None:
        try:
            self.ring.learn()
            with self._lock:
                if self._late.pop(topic, None) != number or self.ring.subscribe(self._prefix + topic, number):
                    return
            raise LayerUnreachable("layer 'redis': no node of the cluster has the slot")
        except LayerUnavailable as error:
            self._fail_late(topic, number, error)

    def _fail_late(self, topic: str, number: int, error: Exception) -> None:
        self._late.pop(topic, None)
        reason = error if isinstance(error, LayerUnavailable) else LayerUnreachable(f"layer 'redis': {error}")
        self._owner.failed({topic: number}, reason)

    def unsubscribe(self, topic: str) -> None:
        with self._lock:
            if self._late.pop(topic, None) is None:
                self.ring.unsubscribe(self._prefix + topic)

    def publish(self, topic: str, payload: bytes) -> int:
        return self.ring.publish(self._prefix + topic, payload)

    def set_member(self, group: str, channel: str, is_member: bool) -> None:
        members = f"{self._members_prefix}{{{self._prefix}group:{group}}}"
        if is_member:
            self.ring.run_script(GROUP_ADD, [members], channel, self._group_milliseconds)
        else:
            self.ring.run(members, "ZREM", members, channel)

    def group_send(self, group: str, payload: bytes) -> int:
        name = f"{self._prefix}group:{group}"
        keys = [f"{self._members_prefix}{{{name}}}", f"{self._sent_prefix}{{{name}}}"]
        channels = self.ring.run_script(
            GROUP_SEND, keys, self.ring.publish_command, name, payload, self._group_milliseconds
        )
        if channels is None:
            return 0
        capacities = {
            self._queue_prefix + channel: self._settings.capacity_of(channel)
            for channel in [channel.decode() for channel in channels]
        }
        try:
            pushed = self.ring.push(capacities, payload, milliseconds(self._settings.expiry))
        except LayerUnavailable as error:
            raise _sent_in_part(error) from None
        if pushed.expired:
            self._owner.count("expired", pushed.expired)
        if pushed.failure is not None:
            self._owner.count("full", pushed.full)
            raise _sent_in_part(pushed.failure) from None
        return pushed.full

    def session_load(self, key: str) -> bytes | None:
        key = self._session_prefix + key
        payload: bytes | None = self.ring.run(key, "GET", key)
        return payload

    def session_save(self, key: str, payload: bytes, expiry: float) -> None:
        key = self._session_prefix + key
        self.ring.run(key, "SET", key, payload, "PX", milliseconds(min(expiry, _LONGEST)))

    def session_expire(self, key: str, seconds: float) -> None:
        key = self._session_prefix + key
        # Redis deletes at once what has no time.
        self.ring.run(key, "PEXPIRE", key, milliseconds(min(seconds, _LONGEST)) if seconds else 0)

    def flush(self) -> None:
        self.ring.run(self._delayed, "DEL", self._delayed)
        prefixes = (
            self._queue_prefix, self._members_prefix, self._sent_prefix, self._session_prefix, self._given_prefix
        )  # fmt: skip
        patterns = [f"{prefix}*" for prefix in prefixes]
        for shard in self.ring.shards():
            for pattern in patterns:
                cursor = b"0"
                while True:
                    cursor, keys = shard.commands.run("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
                    if keys:
                        self.ring.unlink([key.decode() for key in keys])
                    if cursor == b"0":
                        break

    def close(self) -> None:
        self.ring.close()

    def abandon(self) -> None:
        self.ring.drop()

"""The layer on a Redis server: any number of processes on any number of machines.

Here names become keys and the base's calls become commands; ``offload.layers.redis_scripts`` tells the layout.
A group is a pub/sub channel at ``<prefix>group:<name>`` that carries the codec's bytes and nothing else, so that any
program may publish to it. A process's inbox is the pub/sub channel ``<prefix>inbox:<process>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offload.exceptions import ChannelFull, ConfigurationError, LayerUnavailable
from offload.layers.base import LayerBase
from offload.layers.redis_address import parse_hosts
from offload.layers.redis_commands import Commands
from offload.layers.redis_requests import ADD, DISCARD, Requests, message_frame
from offload.layers.redis_scripts import (
    GROUP_ADD,
    GROUP_SEND,
    SEND,
    capacity_arguments,
    milliseconds,
)
from offload.layers.redis_server import Server
from offload.layers.redis_subscriber import Subscriber
from offload.layers.redis_takes import Takes

_SCAN_COUNT = 1000


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e6:
        raise ValueError("it must be a number of seconds above 0")
    return seconds


def _boolean(text: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        return values[text.lower()]
    except KeyError:
        raise ValueError("it must be true or false") from None


class RedisLayer(LayerBase):
    """A layer on Redis 6.2 or newer, or Valkey.

    Args:
        hosts: where it is: a URL (``redis://user:password@host:6379/0``, ``rediss://``, ``redis+unix:///path``), a pair
            of host and port, or a list with one of those.
        timeout: seconds after which a server that does not answer counts as unreachable.
        connect_timeout: seconds for opening a connection; by default two, but not more than `timeout`.
        db: the database, where the address names none.
        ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_check_hostname: for ``rediss://``.
        settings: see ``offload.layers.settings.LayerSettings``.
    """

    name = "redis"
    extra_settings = {
        "timeout": _seconds,
        "connect_timeout": _seconds,
        "db": int,
        "ssl_ca_certs": str,
        "ssl_certfile": str,
        "ssl_keyfile": str,
        "ssl_check_hostname": _boolean,
    }

    def __init__(
        self,
        hosts: Any = "redis://127.0.0.1:6379/0",
        *,
        timeout: float = 5.0,
        connect_timeout: float | None = None,
        db: int | None = None,
        ssl_ca_certs: str | None = None,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        ssl_check_hostname: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        addresses = parse_hosts(hosts, db)
        if len(addresses) > 1:
            raise ConfigurationError(f"layer 'redis' has {len(addresses)} hosts; this version takes one")
        self._address = addresses[0]
        self._timeout = timeout
        self._connect_timeout = min(2.0, timeout) if connect_timeout is None else connect_timeout
        self._tls = {
            "ssl_cert_reqs": "required",
            "ssl_ca_certs": ssl_ca_certs,
            "ssl_certfile": ssl_certfile,
            "ssl_keyfile": ssl_keyfile,
            "ssl_check_hostname": ssl_check_hostname,
        }
        prefix = self.settings.prefix
        self._group_prefix = f"{prefix}group:"
        self._inbox_prefix = f"{prefix}inbox:"
        self._queue_prefix = f"{prefix}channel:"
        self._session_prefix = f"{prefix}session:"
        self._group_bytes = self._group_prefix.encode()
        self._lifetime = milliseconds(self.expiry)
        self._capacities = tuple(capacity_arguments(self.settings.channel_capacity))
        self._set_out()

    def _set_out(self) -> None:
        """Make what talks to the server; nothing of it connects, or makes locks that wait, before it is used."""
        self._server = server = Server(self._address, self._connect_timeout, self._timeout, self._tls)
        self._commands = Commands(server)
        self._takes = Takes(server, self._commands, lambda number: self.count("expired", number))
        self._subscriber = Subscriber(server, self._deliver, lambda: self.count("reconnects"))
        self._requests = Requests(
            self._publish_to_process, self.deliver_payload, self.add_local, self.discard_local, self._timeout
        )

    # What the server sends

    def _deliver(self, batch: list[tuple[bytes, bytes]]) -> None:
        last = len(batch) - 1
        prefix = self._group_bytes
        for place, (name, payload) in enumerate(batch):
            if name.startswith(prefix):
                self.deliver_group_payload(name[len(prefix) :].decode(), payload, place < last)
            else:
                self._requests.take(payload, place < last)

    # What the base asks for

    def _check(self) -> None:
        self._commands.run("PING")

    def _send(self, channel: str, payload: bytes) -> None:
        capacity = self.settings.capacity_of(channel)
        keys = [self._queue_prefix + channel]
        with _Counting(self):
            sent, expired = self._commands.run_script(SEND, keys, payload, self._lifetime, capacity)
        if expired:
            self.count("expired", expired)
        if not sent:
            raise ChannelFull(f"channel {channel!r} holds {capacity} messages, which is its capacity")

    def _send_to_process(self, process: str, channel: str, payload: bytes) -> None:
        with _Counting(self):
            self._publish_to_process(process, message_frame(channel, payload))

    def _publish_to_process(self, process: str, frame: bytes) -> int:
        listening: int = self._commands.run("PUBLISH", self._inbox_prefix + process, frame)
        return listening

    def _receive(self, channels: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        prefix = self._queue_prefix
        found = self._takes.take([prefix + channel for channel in channels], timeout)
        return None if found is None else (found[0][len(prefix) :], found[1])

    def _open_inbox(self) -> None:
        self._subscriber.subscribe(self._inbox_prefix + self.process)

    def _subscribe(self, group: str) -> None:
        self._subscriber.subscribe(self._group_prefix + group)

    def _unsubscribe(self, group: str) -> None:
        self._subscriber.unsubscribe(self._group_prefix + group)

    def _add_for_process(self, process: str, group: str, channel: str) -> None:
        self._ask(ADD, process, group, channel)

    def _discard_for_process(self, process: str, group: str, channel: str) -> None:
        self._ask(DISCARD, process, group, channel)

    def _ask(self, kind: bytes, process: str, group: str, channel: str) -> None:
        self._upstream.ensure("")  # the inbox, where the answer comes
        self._requests.ask(kind, process, group, channel, self.process)

    def _add_queue(self, group: str, channel: str) -> None:
        self._commands.run_script(GROUP_ADD, [self._members(group)], channel, milliseconds(self.group_expiry))

    def _discard_queue(self, group: str, channel: str) -> None:
        self._commands.run("ZREM", self._members(group), channel)

    def _members(self, group: str) -> str:
        return f"{self._group_prefix}{group}:channels"

    def _group_send(self, group: str, payload: bytes) -> int:
        with _Counting(self):
            reply = self._commands.run_script(
                GROUP_SEND,
                [self._members(group)],
                self._group_prefix + group,
                payload,
                self._queue_prefix,
                self._lifetime,
                self.capacity,
                *self._capacities,
            )
        if reply is None:
            return 0
        full, expired = reply
        if expired:
            self.count("expired", expired)
        return int(full)

    def _session_load(self, key: str) -> bytes | None:
        payload: bytes | None = self._commands.run("GET", self._session_prefix + key)
        return payload

    def _session_save(self, key: str, payload: bytes, expiry: float) -> None:
        self._commands.run("SET", self._session_prefix + key, payload, "PX", milliseconds(expiry))

    def _session_delete(self, key: str) -> None:
        self._commands.run("DEL", self._session_prefix + key)

    def _flush(self) -> None:
        patterns = (f"{self._queue_prefix}*", f"{self._group_prefix}*:channels", f"{self._session_prefix}*")
        for pattern in patterns:
            cursor = b"0"
            while True:
                cursor, keys = self._commands.run("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
                if keys:
                    self._commands.run("UNLINK", *keys)
                if cursor == b"0":
                    break

    def _close(self) -> None:
        parts = (self._requests, self._subscriber, self._takes, self._commands)
        self._set_out()
        for part in parts:
            part.close()

    def _forked(self) -> None:
        self._subscriber.drop()
        self._server.drop()
        self._set_out()


class _Counting:
    """Counts a message that the layer took and could not bring to the server."""

    def __init__(self, layer: LayerBase) -> None:
        self._layer = layer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is LayerUnavailable:
            self._layer.count("lost")

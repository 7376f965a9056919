"""The layer inside one process: for tests, for development, and for sites of a single server process.

Contents are encoded all the same, so that limits, refusals and copies are those of the other layers. A `MemoryServer`
may be shared by several layer objects; each then stands for a process of its own, which is how tests use it.
"""

from __future__ import annotations

from _thread import RLock
from collections.abc import Sequence
from typing import Any

from offload.layers.backend import Backend, Due, Owner
from offload.layers.front import LayerBase
from offload.layers.local.sharing import SharedBroker


class MemoryServer:
    """What layer objects of one process can share: for each prefix a broker, and who is subscribed to which topic."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all; in a forked child, where what the parent holds is the parent's to deliver."""
        self._lock = RLock()
        self._brokers: dict[str, SharedBroker[bytes]] = {}
        self._owners: dict[tuple[str, str], list[Owner]] = {}

    def broker(self, prefix: str) -> SharedBroker[bytes]:
        with self._lock:
            return self._brokers.setdefault(prefix, SharedBroker())

    def subscribe(self, topic: str, owner: Owner) -> None:
        with self._lock:
            self._owners.setdefault((owner.settings.prefix, topic), []).append(owner)

    def unsubscribe(self, topic: str, owner: Owner) -> None:
        place = owner.settings.prefix, topic
        with self._lock:
            owners = self._owners.get(place, [])
            if owner in owners:
                owners.remove(owner)
                if not owners:
                    del self._owners[place]

    def publish(self, prefix: str, topic: str, payload: bytes) -> int:
        with self._lock:
            owners = self._owners.get((prefix, topic), []).copy()
        for owner in owners:
            owner.arrived(((topic, payload),))
        return len(owners)

    def leave(self, owner: Owner) -> None:
        with self._lock:
            for _, topic in [place for place, owners in self._owners.items() if owner in owners]:
                self.unsubscribe(topic, owner)


class MemoryBackend(Backend):
    """One layer object's part of a `MemoryServer`."""

    def __init__(self, server: MemoryServer, owner: Owner, is_private: bool) -> None:
        self.is_private = is_private
        self._server = server
        self._owner = owner
        self._prefix = owner.settings.prefix
        self._closed = False

    @property
    def broker(self) -> SharedBroker[bytes]:
        return self._server.broker(self._prefix)

    def check(self) -> None:
        pass

    def push(self, channel: str, payload: bytes, expiry: float, capacity: int) -> None:
        self.broker.send(channel, payload, expiry, capacity)

    def keep(self, channel: str, payload: bytes, seconds: float) -> None:
        with self.broker.exclusive() as (broker, now):
            broker.keep(channel, payload, now + seconds)

    def take_due(self, taker: str, received: int, batch: int) -> Due:
        with self.broker.exclusive() as (broker, now):
            return broker.take_due(taker, received, batch, now)

    def take(self, channels: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        return self.broker.receive(channels, timeout, lambda: self._closed)

    def subscribe(self, topic: str, number: int) -> None:
        self._server.subscribe(topic, self._owner)
        self._owner.subscribed({topic: number})

    def unsubscribe(self, topic: str) -> None:
        self._server.unsubscribe(topic, self._owner)

    def publish(self, topic: str, payload: bytes) -> int:
        return self._server.publish(self._prefix, topic, payload)

    def group_send(self, group: str, payload: bytes) -> int:
        self.publish(f"group:{group}", payload)
        settings = self._owner.settings
        return self.broker.group_send(group, payload, settings.expiry, settings.capacity_of)

    def set_member(self, group: str, channel: str, is_member: bool) -> None:
        with self.broker.exclusive() as (broker, now):
            if is_member:
                broker.group_add(group, channel, now, group_expiry=self._owner.settings.group_expiry)
            else:
                broker.group_discard(group, channel)

    def session_load(self, key: str) -> bytes | None:
        with self.broker.exclusive() as (broker, now):
            return broker.session_load(key, now)

    def session_save(self, key: str, payload: bytes, expiry: float) -> None:
        with self.broker.exclusive() as (broker, now):
            broker.session_save(key, payload, now, expiry=expiry)

    def session_expire(self, key: str, seconds: float) -> None:
        with self.broker.exclusive() as (broker, now):
            broker.session_expire(key, now, seconds=seconds)

    def flush(self) -> None:
        with self.broker.exclusive() as (broker, _):
            broker.flush()

    def close(self) -> None:
        self._closed = True
        self._server.leave(self._owner)
        self.broker.wake()

    def abandon(self) -> None:
        self._server.reset()


class MemoryLayer(LayerBase):
    """A layer in the memory of this process.

    Args:
        server: what is shared with other layer objects; by default with none.
        settings: see ``offload.layers.words.settings.LayerSettings``.
    """

    name = "memory"

    def __init__(self, server: MemoryServer | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self._server = server if server is not None else MemoryServer()
        self._is_private = server is None

    def make_backend(self, owner: Owner) -> Backend:
        return MemoryBackend(self._server, owner, self._is_private)

    def statistics(self) -> dict[str, int]:
        counts = super().statistics()
        with self._server.broker(self.settings.prefix).exclusive() as (broker, _):
            counts["expired"] += broker.expired
        return counts

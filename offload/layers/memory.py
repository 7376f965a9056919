"""The layer inside one process: for tests, for development, and for sites of a single server process.

Contents are encoded all the same, so that limits, refusals and copies are those of the other layers. A `MemoryServer`
may be shared by several layer objects; each then stands for a process of its own, which is how tests use it.
"""

from __future__ import annotations

import weakref
from _thread import RLock
from collections.abc import Sequence
from typing import Any

from offload.layers.front import LayerBase
from offload.layers.local.sharing import SharedBroker


class MemoryServer:
    """What layer objects of one process can share: for each prefix a broker, and the layers by process token."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all; in a forked child, where what the parent holds is the parent's to deliver."""
        self._lock = RLock()
        self._brokers: dict[str, SharedBroker[bytes]] = {}
        self._layers: weakref.WeakValueDictionary[tuple[str, str], MemoryLayer] = weakref.WeakValueDictionary()

    def broker(self, prefix: str) -> SharedBroker[bytes]:
        with self._lock:
            return self._brokers.setdefault(prefix, SharedBroker())

    def join(self, layer: MemoryLayer) -> None:
        with self._lock:
            self._layers[layer.settings.prefix, layer.process] = layer

    def leave(self, layer: MemoryLayer) -> None:
        with self._lock:
            self._layers.pop((layer.settings.prefix, layer.process), None)

    def layer(self, prefix: str, process: str) -> MemoryLayer | None:
        with self._lock:
            return self._layers.get((prefix, process))

    def layers(self, prefix: str) -> list[MemoryLayer]:
        with self._lock:
            return [layer for (its_prefix, _), layer in self._layers.items() if its_prefix == prefix]


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

    def statistics(self) -> dict[str, int]:
        counts = super().statistics()
        with self._broker.exclusive() as (broker, _):
            counts["expired"] += broker.expired
        return counts

    @property
    def _broker(self) -> SharedBroker[bytes]:
        return self._server.broker(self.settings.prefix)

    def _other(self, process: str) -> MemoryLayer | None:
        return self._server.layer(self.settings.prefix, process)

    def _check(self) -> None:
        pass

    def _send(self, channel: str, payload: bytes) -> None:
        self._broker.send(channel, payload, self.expiry, self.settings.capacity_of(channel))

    def _send_to_process(self, process: str, channel: str, payload: bytes) -> None:
        other = self._other(process)
        if other is not None:
            other.deliver_payload(channel, payload)

    def _receive(self, channels: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        return self._broker.receive(channels, timeout)

    def _open_inbox(self) -> None:
        self._server.join(self)

    def _subscribe(self, group: str) -> None:
        pass

    def _unsubscribe(self, group: str) -> None:
        pass

    def _add_for_process(self, process: str, group: str, channel: str) -> None:
        other = self._other(process)
        if other is not None:
            other.add_local(group, channel)

    def _discard_for_process(self, process: str, group: str, channel: str) -> None:
        other = self._other(process)
        if other is not None:
            other.discard_local(group, channel)

    def _add_queue(self, group: str, channel: str) -> None:
        with self._broker.exclusive() as (broker, now):
            broker.group_add(group, channel, now, group_expiry=self.group_expiry)

    def _discard_queue(self, group: str, channel: str) -> None:
        with self._broker.exclusive() as (broker, _):
            broker.group_discard(group, channel)

    def _group_send(self, group: str, payload: bytes) -> int:
        for layer in self._server.layers(self.settings.prefix):
            layer.deliver_group_payload(group, payload)
        return self._broker.group_send(group, payload, self.expiry, self.settings.capacity_of)

    def _session_load(self, key: str) -> bytes | None:
        with self._broker.exclusive() as (broker, now):
            return broker.session_load(key, now)

    def _session_save(self, key: str, payload: bytes, expiry: float) -> None:
        with self._broker.exclusive() as (broker, now):
            broker.session_save(key, payload, now, expiry=expiry)

    def _session_delete(self, key: str) -> None:
        with self._broker.exclusive() as (broker, _):
            broker.session_delete(key)

    def _flush(self) -> None:
        with self._broker.exclusive() as (broker, _):
            broker.flush()

    def _close(self) -> None:
        self._server.leave(self)

    def _forked(self) -> None:
        self._server.reset()

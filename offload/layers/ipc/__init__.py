"""The layer of one machine: a hub process behind a Unix socket that only this user can open.

The supervisor starts and watches the hub (``offload.hub.server``). Any process of the same user can use the layer, with
or without gevent: a script started in the project's directory finds the hub of the site that runs there.

The hub's memory is all there is. When it is killed, what waited in queues, memberships of queues, and sessions are
gone; processes come back to the new one by themselves, with their reply channels and groups.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from offload.exceptions import ConfigurationError
from offload.layers.front import LayerBase, logger
from offload.layers.ipc import wire
from offload.layers.ipc.link import Link
from offload.layers.ipc.path import RUNTIME_DIR_VARIABLE, absolute, check_length, default_path

__all__ = ["RUNTIME_DIR_VARIABLE", "IPCLayer", "default_path"]


class IPCLayer(LayerBase):
    """A layer shared by the processes of one user on one machine.

    Args:
        path: the hub's socket; by default that of the `directory`.
        directory: the project's; by default the current one. See `default_path`.
        timeout: seconds to wait for the hub before ``LayerUnavailable``.
        settings: see ``offload.layers.words.settings.LayerSettings``.

    Attributes:
        path: the hub's socket, absolute.
        timeout: as above.
    """

    name = "ipc"
    extra_settings = {"timeout": float}

    def __init__(
        self, path: str | None = None, *, directory: str | None = None, timeout: float = 5.0, **settings: Any
    ) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
            raise ConfigurationError(f"layer setting timeout={timeout!r} must be a number of seconds above 0")
        super().__init__(**settings)
        if (largest := self.codec.max_encoded_size) > wire.MAX_PAYLOAD_BYTES:
            sealed = f" ({largest} when sealed)" if self.settings.encryption_keys else ""
            raise ConfigurationError(
                f"layer setting max_size={self.settings.max_size}{sealed} is over the {wire.MAX_PAYLOAD_BYTES} bytes"
                " that the ipc layer carries"
            )
        self.timeout = float(timeout)
        self.path = default_path(directory) if path is None else check_length(absolute(path))
        # Root may use another user's hub, but only one that was named: the default is a name that anybody could guess.
        self._foreign = path is not None and os.geteuid() == 0
        self._hub_expected = False
        self._link = self._new_link()

    @property
    def place(self) -> str:
        """See `LayerBase.place`."""
        return f"ipc://{self.path}"

    def expect_hub(self) -> None:
        """From now on, wait up to `timeout` for a hub that is not there: somebody is starting it. A process that has
        been connected does so anyway; others are told at once that there is none."""
        self._hub_expected = True
        self._link.expect()

    def hub_statistics(self) -> dict[str, int]:
        """What the hub holds under this prefix now (``pending``, ``channels``, ``groups``, ``sessions``, ``clients``,
        ``subscriptions``, ``waiting`` ...), and its counters since its start (``full``, ``expired``).

        Raises:
            LayerUnavailable: as all that needs the hub.
        """
        counts: dict[str, int] = self._link.request(wire.STATISTICS, again=True)
        return counts

    # What the link calls

    def hello(self) -> tuple[Any, ...]:
        settings = self.settings
        return (
            settings.prefix,
            self.process,
            {
                "expiry": settings.expiry,
                "capacity": settings.capacity,
                "channel_capacity": list(settings.channel_capacity.items()),
                "group_expiry": settings.group_expiry,
            },
        )

    def pushed(self, frame: list[Any], more: bool) -> None:
        if frame[0] == wire.GROUP:
            self.deliver_group_payload(frame[1], frame[2], more)
        elif frame[0] == wire.MESSAGE:
            self.deliver_payload(frame[1], frame[2], more)
        elif frame[0] == wire.LOST:
            self.count("lost", frame[1])
            logger.warning("layer 'ipc' lost %d messages: this process did not read for a while", frame[1])

    def called(self, add: bool, group: str, channel: str) -> None:
        if add:
            self.add_local(group, channel)
        else:
            self.discard_local(group, channel)

    def lost(self, groups: Iterable[str], reason: str) -> None:
        self._upstream.lose(groups, reason, self.timeout)

    def restored(self, groups: Iterable[str]) -> None:
        for group in groups:
            self._upstream.restore(group)

    def connected_again(self) -> None:
        self.count("reconnects")

    # What the base calls

    def _check(self) -> None:
        self._link.request(wire.PING, again=True)

    def _send(self, channel: str, payload: bytes) -> None:
        self._link.request(wire.SEND, channel, payload, again=False)

    def _send_to_process(self, process: str, channel: str, payload: bytes) -> None:
        self._link.request(wire.SEND_TO_PROCESS, process, channel, payload, again=False)

    def _receive(self, channels: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        return self._link.receive(list(channels), timeout)

    def _open_inbox(self) -> None:
        self._link.open_inbox()

    def _subscribe(self, group: str) -> None:
        self._link.subscribe(group)

    def _unsubscribe(self, group: str) -> None:
        self._link.unsubscribe(group)

    def _add_for_process(self, process: str, group: str, channel: str) -> None:
        self._link.request(wire.CALL_PROCESS, process, True, group, channel, again=True)

    def _discard_for_process(self, process: str, group: str, channel: str) -> None:
        self._link.request(wire.CALL_PROCESS, process, False, group, channel, again=True)

    def _add_queue(self, group: str, channel: str) -> None:
        self._link.request(wire.ADD_QUEUE, group, channel, again=True)

    def _discard_queue(self, group: str, channel: str) -> None:
        self._link.request(wire.DISCARD_QUEUE, group, channel, again=True)

    def _group_send(self, group: str, payload: bytes) -> int:
        full: int = self._link.request(wire.GROUP_SEND, group, payload, again=False)
        return full

    def _session_load(self, key: str) -> bytes | None:
        payload: bytes | None = self._link.request(wire.SESSION_LOAD, key, again=True)
        return payload

    def _session_save(self, key: str, payload: bytes, expiry: float) -> None:
        self._link.request(wire.SESSION_SAVE, key, payload, expiry, again=True)

    def _session_delete(self, key: str) -> None:
        self._link.request(wire.SESSION_DELETE, key, again=True)

    def _flush(self) -> None:
        self._link.request(wire.FLUSH, again=True)

    def _close(self) -> None:
        old, self._link = self._link, self._new_link()
        old.close()

    def _forked(self) -> None:
        old, self._link = self._link, self._new_link()
        old.abandon()

    def _new_link(self) -> Link:
        link = Link(self.path, self.timeout, self._foreign, self._hub_expected, self)
        finalizer = getattr(self, "_finalizer", None)
        if finalizer is not None:
            finalizer.detach()
        # A layer that is dropped without `close` must not leave its thread and descriptor behind.
        self._finalizer = weakref.finalize(self, link.close, wait=False)
        self._finalizer.atexit = False
        return link

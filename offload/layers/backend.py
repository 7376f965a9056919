"""What a backend of a layer fills in; ``offload.layers.front`` calls it, with checked names and with bytes."""

from __future__ import annotations

import abc
from collections.abc import Sequence


class Backend(abc.ABC):
    """The methods for one kind of server. Unless they say otherwise they may raise ``LayerUnavailable``."""

    @abc.abstractmethod
    def _check(self) -> None:
        """Connect now; raises ``LayerUnavailable``."""

    @abc.abstractmethod
    def _send(self, channel: str, payload: bytes) -> None:
        """Put a message into a named queue for ``settings.expiry`` seconds. Raises ``ChannelFull`` by
        ``settings.capacity_of(channel)``."""

    @abc.abstractmethod
    def _send_to_process(self, process: str, channel: str, payload: bytes) -> None:
        """Send to another process's inbox; nothing happens when it is gone. There: `deliver_payload`."""

    @abc.abstractmethod
    def _receive(self, channels: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        """Take from named queues, fair between them. Timeout as in `receive`; must accept any small one."""

    @abc.abstractmethod
    def _open_inbox(self) -> None:
        """Returns when messages for this process's token arrive. Called once, not beside itself."""

    @abc.abstractmethod
    def _subscribe(self, group: str) -> None:
        """Returns when messages for the group arrive. Never runs twice at a time for one group, and alternates with
        `_unsubscribe` for it. Bounded; a failure raises and leaves no subscription that counts."""

    @abc.abstractmethod
    def _unsubscribe(self, group: str) -> None:
        """Neither waits nor raises (it is called from event loops): note it, and have it done before a later
        `_subscribe` to the same group. Also after a `_subscribe` that failed or was interrupted."""

    @abc.abstractmethod
    def _add_for_process(self, process: str, group: str, channel: str) -> None:
        """Have another process call `add_local`; returns when it has, or when the process is gone."""

    @abc.abstractmethod
    def _discard_for_process(self, process: str, group: str, channel: str) -> None:
        """Have another process call `discard_local`; returns when it has, or when the process is gone."""

    @abc.abstractmethod
    def _add_queue(self, group: str, channel: str) -> None:
        """Make a named queue a member for ``settings.group_expiry`` seconds."""

    @abc.abstractmethod
    def _discard_queue(self, group: str, channel: str) -> None:
        """End a named queue's membership."""

    @abc.abstractmethod
    def _group_send(self, group: str, payload: bytes) -> int:
        """Send to the subscribed processes, this one included (there: `deliver_group_payload`), and into the member
        queues. Returns how many full queues were passed over."""

    @abc.abstractmethod
    def _session_load(self, key: str) -> bytes | None:
        """The stored session, or None. Keys are free text."""

    @abc.abstractmethod
    def _session_save(self, key: str, payload: bytes, expiry: float) -> None:
        """Store a session."""

    @abc.abstractmethod
    def _session_delete(self, key: str) -> None:
        """Forget a session."""

    @abc.abstractmethod
    def _flush(self) -> None:
        """Drop all queues, memberships of queues, and sessions under the prefix."""

    @abc.abstractmethod
    def _close(self) -> None:
        """Give back connections and threads. Nothing is subscribed any more; any later call may open anew."""

    @abc.abstractmethod
    def _forked(self) -> None:
        """Runs in a forked child, alone, with the new `process` token set: let go of what is the parent's without
        telling the server (close descriptors, say nothing), make new locks, start no thread. May run before gevent
        patches ``threading``: make what waits when it is first needed."""

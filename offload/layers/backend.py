"""What a backend of a layer fills in, and what it tells the process whose layer it serves.

A *topic* is what processes subscribe to: ``group:<name>`` for a group of which this process has members, and
``inbox:<process>`` for what others send to this process. The front (``offload.layers.front``) decides which topics this
process needs, checks names, encodes contents, and asks other processes; a backend moves bytes.

A backend object is used once: it is made when the layer is first used, and again after `close` and after a fork. It
may be called from any thread or greenlet, several at a time. It opens connections when it needs them, and restores its
subscriptions by itself when one was lost. ``docs/howto/write-a-layer.md`` shows one.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from offload.exceptions import LayerUnavailable
from offload.layers.words.settings import LayerSettings

Topics = Mapping[str, int]
"""Topics, each with the number of the `Backend.subscribe` that it was asked for with."""


class Due(NamedTuple):
    """Delayed messages that a taker is given.

    Attributes:
        batch: the number of the call that took them first.
        messages: channels with their messages, the earliest first.
        seconds: until the next message is due, 0 where one is, None where none is kept.
    """

    batch: int
    messages: Sequence[tuple[str, bytes]]
    seconds: float | None


class Owner(Protocol):
    """The process whose layer a backend serves. None of its methods waits or raises; call them without holding a lock
    that `Backend.subscribe` or `Backend.unsubscribe` takes.

    Attributes:
        settings: the layer's; ``settings.prefix`` parts the sites that share a server.
        process: this process's token.
    """

    settings: LayerSettings
    process: str

    def arrived(self, batch: Sequence[tuple[str, bytes]]) -> None:
        """Publications have come, as pairs of topic and payload; what was read together is told together."""

    def subscribed(self, topics: Topics, missed: int = 0) -> None:
        """Publications to these topics arrive from now on: once after each `Backend.subscribe`, and again after
        `lost`. Tell it before `arrived` with what is read behind the server's answer.

        Args:
            missed: publications to these topics that this process has certainly missed, where the server can tell.
        """

    def lost(self, topics: Topics, reason: str) -> None:
        """These do not arrive until `subscribed` names them again; the reason is for error messages."""

    def failed(self, topics: Topics, error: LayerUnavailable) -> None:
        """The server cannot be reached: who waits for the first subscription to one of these gets the error, and it is
        unsubscribed. What was `subscribed` before stays, since the backend goes on trying."""

    def refused(self, topics: Topics, error: LayerUnavailable) -> None:
        """The server does not allow these: as `failed`, also for what was subscribed before."""

    def reconnected(self) -> None:
        """A connection that was lost is back."""

    def count(self, counter: str, number: int = 1) -> None:
        """Add to ``expired`` or ``lost`` what only the backend sees; the front counts the rest."""


class Backend(abc.ABC):
    """The methods for one kind of server. Unless they say otherwise they may wait, but no longer than some bound such
    as `timeout`, and raise ``LayerUnavailable``; ``LayerUnreachable`` where it is certain that nothing was sent.

    Attributes:
        timeout: seconds to wait for the server.
        is_private: whether only this object adds to the messages that it keeps.
    """

    timeout: float = 5.0
    is_private = False

    @abc.abstractmethod
    def check(self) -> None:
        """Connect now."""

    # Named queues

    @abc.abstractmethod
    def push(self, channel: str, payload: bytes, expiry: float, capacity: int) -> None:
        """Put a message into a queue for `expiry` seconds. Raises ``ChannelFull``, at once, where the queue holds
        `capacity` messages or more."""

    @abc.abstractmethod
    def take(self, channels: Sequence[str], timeout: float | None) -> tuple[str, bytes] | None:
        """Take the oldest message of one of these queues, fair between them; None when none came in time.

        A message goes to one caller only. One that was taken for a caller who has been interrupted goes back.

        Args:
            timeout: seconds to wait (0: not at all; None: until `close`).
        """

    # Delayed messages: a backend without them refuses `Layer.send` with a delay.

    def keep(self, channel: str, payload: bytes, seconds: float) -> None:
        """Keep a message for `take_due`, for at least so many seconds; for any channel, also a process-specific one."""
        raise NotImplementedError(f"{type(self).__name__} keeps no delayed messages")

    def take_due(self, taker: str, received: int, batch: int) -> Due:
        """Take messages that are due, some at a time; does not wait for any.

        A taker is given the same messages again until he has said that they came: an answer that is lost on its way,
        or comes from a server that stood still meanwhile, loses none.

        Args:
            taker: a name of his own. Messages that he was given are for him only.
            received: the batch that came last; 0 at first.
            batch: the number of this call, higher with each.
        """
        return Due(batch, (), None)

    # Publications

    @abc.abstractmethod
    def subscribe(self, topic: str, number: int) -> None:
        """Have publications to the topic arrive. Neither waits nor raises: `Owner.subscribed` or `Owner.failed` tells,
        with this number, what became of it; may be told from within. Not called again for one topic before
        `unsubscribe`."""

    @abc.abstractmethod
    def unsubscribe(self, topic: str) -> None:
        """Neither waits nor raises: note it, and have it done before a later `subscribe` to the same topic."""

    @abc.abstractmethod
    def publish(self, topic: str, payload: bytes) -> int:
        """Send to the processes that are subscribed. Returns how many these are, as far as the server knows; 0 only
        where nobody is."""

    # Groups

    @abc.abstractmethod
    def group_send(self, group: str, payload: bytes) -> int:
        """`publish` to ``group:<group>``, and put the message into the queues that are members, by
        ``settings.capacity_of`` each. Returns how many full queues were passed over."""

    @abc.abstractmethod
    def set_member(self, group: str, channel: str, is_member: bool) -> None:
        """Make a named queue a member of the group, for ``settings.group_expiry`` seconds from now, or end that."""

    # Sessions

    @abc.abstractmethod
    def session_load(self, key: str) -> bytes | None:
        """The stored session, or None. Keys are free text."""

    @abc.abstractmethod
    def session_save(self, key: str, payload: bytes, expiry: float) -> None:
        """Store a session for `expiry` seconds."""

    @abc.abstractmethod
    def session_expire(self, key: str, seconds: float) -> None:
        """Keep a session that is there for so many seconds from now; forget it with 0. In one operation: what another
        process saves in the same moment stays."""

    # All of it

    @abc.abstractmethod
    def flush(self) -> None:
        """Drop all queues, memberships of queues, and sessions under the prefix."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give back connections and threads, and end every wait with ``LayerUnavailable``. Does not raise. Nothing is
        called afterwards."""

    @abc.abstractmethod
    def abandon(self) -> None:
        """In a forked child: close the descriptors of the parent's connections, and say nothing on them. Neither takes
        a lock, since a thread that is not in this process may have it, nor starts a thread. Nothing is called
        afterwards."""

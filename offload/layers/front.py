"""What callers see of every layer: settings, checks of names and contents, encoding, counters, forks.

What this process is subscribed to, and what arrives here, is ``offload.layers.local.owner``; the server is reached by
a ``offload.layers.backend.Backend``. A layer is a subclass of `LayerBase` with a name, its own settings, and
`make_backend`. Knows no server.

Threads: all methods run in whatever thread or greenlet calls them, several at a time. Nothing that waits is made before
a layer is first used, so that it may be built before gevent patches ``threading``.
"""

from __future__ import annotations

import abc
import logging
import threading
import time
import weakref
from _thread import RLock
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

from offload import at_fork
from offload.exceptions import ChannelFull, InvalidChannelName, LayerUnavailable
from offload.interfaces import Content, Deliver, Delivery
from offload.layers.backend import Backend, Owner
from offload.layers.local.inbox import ADD, DISCARD
from offload.layers.local.kept import KeptChannels
from offload.layers.local.owner import LocalProcess
from offload.layers.local.subscriptions import Subscriptions
from offload.layers.words.codec import Codec, check_content, checked_copy
from offload.layers.words.names import (
    check_channel,
    check_group,
    is_process_specific,
    new_channel,
    new_process_token,
    owner,
)
from offload.layers.words.seal import CHANNEL, GROUP, QUEUE, SESSION
from offload.layers.words.settings import LayerSettings

logger = logging.getLogger("offload.layer")

_LONGEST_DELAY = 1_000_000_000  # thirty years
_WORD_SECONDS = 60.0
_COUNTERS = ("sent", "received", "full", "expired", "lost", "unheard", "reconnects")


class LayerBase(abc.ABC):
    """Base of all layers.

    Attributes:
        name: the layer's name in messages and URLs.
        extra_settings: what a URL may set besides the common settings: the keyword argument's name, and what makes its
            value from text (raising ``ValueError``).
        settings: the common settings.
        process: this process's token; another one after a fork.
        codec: encodes and decodes within ``max_size``.
    """

    name: ClassVar[str]
    extra_settings: ClassVar[Mapping[str, Callable[[str], Any]]] = {}

    def __init__(self, **settings: Any) -> None:
        self.settings = LayerSettings.from_arguments(settings, self.name, self.extra_settings)
        self.expiry = self.settings.expiry
        self.capacity = self.settings.capacity
        self.group_expiry = self.settings.group_expiry
        self.codec = Codec(self.settings.max_size, self.settings.encryption_keys)
        self.process = new_process_token()
        self._counts: Counter[str] = Counter(dict.fromkeys(_COUNTERS, 0))
        # Sent and received: by far the most of all messages, and a number is counted faster than an entry.
        self._own = 0
        self._next_word, self._told_of = 0.0, 0
        self._making = RLock()
        self._made: LocalProcess | None = None
        self._finalizer: weakref.finalize[..., LayerBase] | None = None
        _layers.add(self)

    @abc.abstractmethod
    def make_backend(self, owner: Owner) -> Backend:
        """What serves this process from now on, until `close` or a fork. Connects to nothing, and does not raise."""

    @classmethod
    def largest_size(cls, is_sealed: bool) -> int | None:
        """The most bytes that ``max_size`` may be; None where nothing but memory limits it.

        Args:
            is_sealed: whether there are encryption keys.
        """
        return None

    @property
    def backend(self) -> Any:
        """What serves this process now."""
        return self._local.backend

    @property
    def subscriptions(self) -> Subscriptions:
        """This process's attached channels, and their groups."""
        return self._local.subscriptions

    @property
    def kept(self) -> KeptChannels:
        """This process's own channels that are received from."""
        return self._local.kept

    @property
    def place(self) -> str:
        """Where what it carries is: processes whose layers have the same place meet there. Never holds a password."""
        return f"{self.name}://"

    def check(self) -> None:
        """As `Layer.check`."""
        self._local.backend.check()

    def send(self, channel: str, content: Content, delay: float = 0.0) -> None:
        """As `Layer.send`."""
        local = self._local
        if delay:
            self._delay(local, channel, content, delay)
            return
        try:
            receiver = local.subscriptions.receiver(channel)
        except TypeError:
            # Unhashable, so no name: refused below, where names of this process do not pay for it.
            receiver = None
        if receiver is not None:
            content = checked_copy(content, self.codec.max_size)
            self._counts["sent"] += 1
            local.hand_over(receiver, Delivery(content), channel)
            return
        check_channel(channel)
        process = owner(channel) if is_process_specific(channel) else None
        if process == self.process:
            content = checked_copy(content, self.codec.max_size)
            if local.kept.keep_if_fresh(channel):
                local.subscriptions.deliver(channel, content)
                self._counts["received"] += 1
            else:
                self._counts["lost"] += local.kept.loses(channel)
        else:
            payload = self.codec.encode(content, QUEUE if process is None else CHANNEL, channel)
            try:
                if process is None:
                    local.backend.push(channel, payload, self.expiry, self.settings.capacity_of(channel))
                elif not local.send_to_process(process, channel, payload):
                    self._counts["unheard"] += 1
                    self._tell_unheard(channel)
            except (ChannelFull, LayerUnavailable) as error:
                self._counts["full" if isinstance(error, ChannelFull) else "lost"] += 1
                raise
        self._counts["sent"] += 1

    def _delay(self, local: LocalProcess, channel: str, content: Content, delay: float) -> None:
        check_channel(channel)
        if isinstance(delay, bool) or not isinstance(delay, (int, float)) or not 0 <= delay <= _LONGEST_DELAY:
            raise ValueError(f"the delay is {delay!r}; it is a number of seconds from 0 to {_LONGEST_DELAY:,}")
        payload = self.codec.encode(content, CHANNEL if is_process_specific(channel) else QUEUE, channel)
        try:
            local.backend.keep(channel, payload, delay)
        except LayerUnavailable:
            self._counts["lost"] += 1
            raise
        self._counts["sent"] += 1
        local.delayed.added()

    def check_own(self, content: Content, size: int | None = None) -> None:
        max_size = self.codec.max_size
        if size is None or size > max_size:
            check_content(content, max_size)
        self._own += 1

    def receive(self, channels: Collection[str], timeout: float | None = None) -> tuple[str, Content] | None:
        """As `Layer.receive`. A process-specific channel of this process may be among them; from then on, or from
        `new_channel` on, its messages wait in this process, as many as its capacity, until they are received. Of very
        many that are empty and in no group, the one used the longest ago is forgotten.

        Raises:
            LayerUnavailable: also when the layer is closed meanwhile.
            InvalidChannelName: also for the process-specific name of another process.
            ValueError: no channels, or one that was attached to a receiver.
        """
        if timeout is not None and timeout > threading.TIMEOUT_MAX:
            timeout = None  # centuries
        local = self._local  # until `close` takes another
        own, shared = self._sort_out(channels, local)
        if shared and not local.backend.is_private:
            local.delayed.watch()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not shared:
                return local.kept.receive(own, remaining)
            found = local.both.take(own, shared, remaining) if own else local.backend.take(shared, remaining)
            if found is None:
                return None
            channel, message = found
            if isinstance(message, dict):
                return channel, message
            try:
                content = local.decode(message, QUEUE, channel)
                if content is not None:
                    self._counts["received"] += 1
                    return channel, content
            except BaseException:
                # A signal's: the server has let go of it, and the caller does not get it.
                self._counts["lost"] += 1
                raise
            if deadline is not None and time.monotonic() >= deadline:
                return None

    def new_channel(self, prefix: str) -> str:
        """As `Layer.new_channel`. What is sent to a process-specific name from now on is kept until it is attached or
        received, also before; for the latest ten thousand names.

        Raises:
            LayerUnavailable: this process's first such name, and the server cannot be reached.
        """
        local = self._local
        name = new_channel(prefix, self.process)
        if is_process_specific(name):
            local.kept.remember(name)
            local.open_inbox()
        return name

    def attach(self, channel: str, deliver: Deliver, joins: bool = False) -> None:
        """As `Layer.attach`. A second receiver takes the place of the first; memberships stay."""
        check_channel(channel)
        self._check_ours(channel)
        self._local.attach(channel, deliver, joins)

    def detach(self, channel: str) -> None:
        """As `Layer.detach`."""
        check_channel(channel)
        self._local.detach(channel)

    def renew(self, channel: str) -> None:
        """As `Layer.renew`."""
        self._local.subscriptions.renew(channel)

    def group_add(self, group: str, channel: str) -> None:
        """As `Layer.group_add`."""
        check_group(group)
        check_channel(channel)
        if not is_process_specific(channel):
            self._local.backend.set_member(group, channel, True)
        elif owner(channel) == self.process:
            self._local.add(group, channel)
        else:
            self._local.ask(ADD, owner(channel), group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        """As `Layer.group_discard`."""
        check_group(group)
        check_channel(channel)
        if not is_process_specific(channel):
            self._local.backend.set_member(group, channel, False)
        elif owner(channel) == self.process:
            self._local.discard(group, channel)
        else:
            self._local.ask(DISCARD, owner(channel), group, channel)

    def group_send(self, group: str, content: Content) -> None:
        """As `Layer.group_send`."""
        check_group(group)
        payload = self.codec.encode(content, GROUP, group)
        try:
            self._counts["full"] += self._local.backend.group_send(group, payload)
        except LayerUnavailable:
            self._counts["lost"] += 1
            raise
        self._counts["sent"] += 1

    def session_load(self, key: str) -> Content | None:
        """As `Layer.session_load`."""
        _check_key(key)
        local = self._local
        payload = local.backend.session_load(key)
        return None if payload is None else local.decode(payload, SESSION, key)

    def session_save(self, key: str, data: Content, expiry: float) -> None:
        """As `Layer.session_save`. Raises ``MessageTooLarge`` and ``TypeError`` as for messages."""
        _check_key(key)
        _check_expiry(expiry)
        self._local.backend.session_save(key, self.codec.encode(data, SESSION, key), expiry)

    def session_renew(self, key: str, expiry: float) -> None:
        """As `Layer.session_renew`."""
        _check_key(key)
        _check_expiry(expiry)
        self._local.backend.session_expire(key, expiry)

    def session_delete(self, key: str) -> None:
        """As `Layer.session_delete`."""
        _check_key(key)
        self._local.backend.session_expire(key, 0)

    def statistics(self) -> dict[str, int]:
        """As `Layer.statistics`. ``received`` counts what receivers and `receive` in this process got from elsewhere
        or from a queue; what was sent to an attached channel of this process directly counts too. Exact under gevent;
        real threads that count in the same instant may lose a count."""
        counts = dict(self._counts)
        counts["sent"] += self._own
        counts["received"] += self._own
        if (local := self._made) is not None:
            for counter, number in local.kept.counts().items():
                counts[counter] += number
        return counts

    def flush(self) -> None:
        """As `Layer.flush`."""
        local = self._local
        local.backend.flush()
        local.forget_groups()
        local.kept.flush()

    def close(self) -> None:
        """As `Layer.close`. Channels of this process are detached."""
        with self._making:
            local, self._made = self._made, None
            if self._finalizer is not None:
                self._finalizer.detach()
        if local is not None:
            self._counts.update(local.kept.counts())
            local.close()

    # Its own

    @property
    def _local(self) -> LocalProcess:
        made = self._made
        if made is None:
            with self._making:
                made = self._made
                if made is None:
                    made = LocalProcess(
                        self.name, self.settings, self.process, self.codec, self._counts, self.make_backend
                    )
                    # A layer that is dropped without `close` must not leave threads and descriptors behind.
                    self._finalizer = weakref.finalize(self, made.end)
                    self._finalizer.atexit = False
                    self._made = made
        return made

    def after_fork(self) -> None:
        """In a forked child: be another process from now on."""
        made, self._made = self._made, None
        self._making = RLock()  # a thread that is not here may have had it
        self.process = new_process_token()
        self._counts = Counter(dict.fromkeys(_COUNTERS, 0))
        self._own = 0
        if self._finalizer is not None:
            self._finalizer.detach()
        if made is not None:
            made.delayed.abandon()
            made.backend.abandon()

    def _tell_unheard(self, channel: str) -> None:
        """In the log, once in a minute."""
        now, number = time.monotonic(), self._counts["unheard"]
        if now >= self._next_word:
            self._next_word = now + _WORD_SECONDS
            logger.info(
                "layer %r: nobody heard %d messages for channels of processes that have ended, or are away, the last"
                " for %s",
                self.name, number - self._told_of, channel,
            )  # fmt: skip
            self._told_of = number

    def _check_ours(self, channel: str) -> None:
        if owner(channel) != self.process:
            raise InvalidChannelName(f"channel {channel!r} is no process-specific channel of this process")

    def _sort_out(self, channels: Collection[str], local: LocalProcess) -> tuple[list[str], list[str]]:
        if isinstance(channels, (str, bytes)):
            raise TypeError(f"channels must be a collection of names, not the single name {channels!r}")
        if not channels:
            raise ValueError("there are no channels to receive from")
        own: list[str] = []
        shared: list[str] = []
        for channel in channels:
            check_channel(channel)
            if not is_process_specific(channel):
                shared.append(channel)
                continue
            self._check_ours(channel)
            if not local.kept.holds(channel):
                if local.subscriptions.receiver(channel) is not None:
                    raise ValueError(f"channel {channel!r} is attached; its messages go to its receiver")
                local.kept.keep(channel)
                local.open_inbox()
            own.append(channel)
        return own, shared


# What is registered stays for as long as the interpreter: once for all layers, and none is kept by it.
_layers: weakref.WeakSet[LayerBase] = weakref.WeakSet()


def _after_fork() -> None:
    for layer in list(_layers):
        try:
            layer.after_fork()
        except Exception:
            logger.exception("layer %r is of no use in this forked child", layer.name)


at_fork.in_child(_after_fork)


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not key:
        raise TypeError(f"session key {key!r} must be a str that is not empty")


def _check_expiry(expiry: float) -> None:
    if not expiry > 0:
        raise ValueError(f"session expiry {expiry!r} must be above 0")

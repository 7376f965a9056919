"""What every layer does alike: settings, names, encoding, local delivery, subscriptions, counters, forks.

A backend fills in the methods of ``offload.layers.backend``; they get checked names without the prefix, and bytes. It
calls the methods under "For backends" with what its server sends it, and tells `_upstream` which groups are lost for a
while; not the inbox, since clients may come and be served while a server is away. Knows no server.

Threads: the public methods run in whatever thread or greenlet calls them, several at a time; so do the backend's. No
lock of this module is held while one of the backend's methods or a receiver runs.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

from offload.exceptions import ChannelFull, InvalidChannelName, LayerUnavailable
from offload.interfaces import Content, Deliver, Delivery
from offload.layers.backend import Backend
from offload.layers.link.joining import Joining
from offload.layers.link.upstream import Upstream
from offload.layers.local.kept import KeptChannels
from offload.layers.local.subscriptions import Subscriptions
from offload.layers.words.codec import Codec, UndecodableMessage, check_content, checked_copy
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

INBOX = ""  # no group has this name
_SLICE = 0.1
_SHOWN = {GROUP: "group ", SESSION: "session "}


class LayerBase(Backend):
    """Base of all layers.

    Attributes:
        name: the layer's name in messages and URLs.
        extra_settings: what a URL may set besides the common settings: the keyword argument's name, and what makes its
            value from text (raising ``ValueError``).
        settings: the common settings.
        process: this process's token; another one after a fork.
        codec: encodes and decodes within ``max_size``.
        subscriptions: this process's attached channels and their groups.
    """

    name: ClassVar[str]
    extra_settings: ClassVar[Mapping[str, Callable[[str], Any]]] = {}

    def __init__(self, **settings: Any) -> None:
        self.settings = LayerSettings.from_arguments(settings, self.name, self.extra_settings)
        self.expiry = self.settings.expiry
        self.capacity = self.settings.capacity
        self.group_expiry = self.settings.group_expiry
        self.codec = Codec(self.settings.max_size, self.settings.encryption_keys)
        self._start()
        _layers.add(self)

    # What callers see

    @property
    def place(self) -> str:
        """Where what it carries is: processes whose layers have the same place meet there. Never holds a password."""
        return f"{self.name}://"

    def check(self) -> None:
        self._check()

    def send(self, channel: str, content: Content) -> None:
        try:
            receiver = self.subscriptions.receiver(channel)
        except TypeError:  # unhashable, so no name: the check below says so, which names of this process do not pay for
            receiver = None
        if receiver is not None:
            content = checked_copy(content, self.codec.max_size)
            self._count["sent"] += 1
            self._hand_over(receiver, Delivery(content), channel)
            return
        check_channel(channel)
        process = owner(channel) if is_process_specific(channel) else None
        if process == self.process:
            content = checked_copy(content, self.codec.max_size)
            if self._kept.keep_if_fresh(channel):
                self.subscriptions.deliver(channel, content)
                self._count["received"] += 1
        else:
            payload = self.codec.encode(content, QUEUE if process is None else CHANNEL, channel)
            try:
                if process is None:
                    self._send(channel, payload)
                else:
                    self._send_to_process(process, channel, payload)
            except (ChannelFull, LayerUnavailable) as error:
                self._count["full" if isinstance(error, ChannelFull) else "lost"] += 1
                raise
        self._count["sent"] += 1

    def check_own(self, content: Content) -> None:
        check_content(content, self.codec.max_size)
        counts = self._count
        counts["sent"] += 1
        counts["received"] += 1

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
        kept_channels = self._kept  # until `close` takes another
        local, shared = self._sort_out(channels)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not shared:
                return kept_channels.receive(local, remaining)
            if local:
                # Two places to wait at, and only one can be waited for: look at the other now and then.
                kept = kept_channels.receive(local, 0)
                if kept is not None:
                    return kept
            wait = min(_SLICE, _SLICE if remaining is None else remaining) if local else remaining
            found = self._receive(shared, wait)
            if found is not None:
                try:
                    content = self._decode(found[1], QUEUE, found[0])
                    if content is not None:
                        self._count["received"] += 1
                        return found[0], content
                except BaseException:
                    # A signal's: the server has let go of it, and the caller does not get it.
                    self._count["lost"] += 1
                    raise
            elif not local:
                return None
            if deadline is not None and time.monotonic() >= deadline:
                return kept_channels.receive(local, 0) if local else None

    def new_channel(self, prefix: str) -> str:
        """As `Layer.new_channel`. What is sent to a process-specific name from now on is kept until it is attached or
        received, also before; for the latest thousand names.

        Raises:
            LayerUnavailable: this process's first such name, and the server cannot be reached.
        """
        name = new_channel(prefix, self.process)
        if is_process_specific(name):
            self._kept.remember(name)
            self.open_inbox()
        return name

    def attach(self, channel: str, deliver: Deliver) -> None:
        """As `Layer.attach`. A second receiver takes the place of the first; memberships stay."""
        check_channel(channel)
        self._check_ours(channel)
        kept = self._kept.forget(channel)
        self.subscriptions.attach(channel, deliver)
        if kept:
            self._kept.drop(channel)
        self.open_inbox()

    def detach(self, channel: str) -> None:
        check_channel(channel)
        kept = self._kept.forget(channel)
        for group in self.subscriptions.detach(channel):
            self._upstream.release(group)
        if kept:
            self._kept.drop(channel)

    def group_add(self, group: str, channel: str) -> None:
        check_group(group)
        check_channel(channel)
        if not is_process_specific(channel):
            self._add_queue(group, channel)
        elif owner(channel) == self.process:
            self.add_local(group, channel)
        else:
            self._add_for_process(owner(channel), group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        check_group(group)
        check_channel(channel)
        if not is_process_specific(channel):
            self._discard_queue(group, channel)
        elif owner(channel) == self.process:
            self.discard_local(group, channel)
        else:
            self._discard_for_process(owner(channel), group, channel)

    def group_send(self, group: str, content: Content) -> None:
        check_group(group)
        payload = self.codec.encode(content, GROUP, group)
        try:
            self._count["full"] += self._group_send(group, payload)
        except LayerUnavailable:
            self._count["lost"] += 1
            raise
        self._count["sent"] += 1

    def session_load(self, key: str) -> Content | None:
        _check_key(key)
        payload = self._session_load(key)
        return None if payload is None else self._decode(payload, SESSION, key)

    def session_save(self, key: str, data: Content, expiry: float) -> None:
        """As `Layer.session_save`. Raises ``MessageTooLarge`` and ``TypeError`` as for messages."""
        _check_key(key)
        if not expiry > 0:
            raise ValueError(f"session expiry {expiry!r} must be above 0")
        self._session_save(key, self.codec.encode(data, SESSION, key), expiry)

    def session_delete(self, key: str) -> None:
        _check_key(key)
        self._session_delete(key)

    def statistics(self) -> dict[str, int]:
        """As `Layer.statistics`. ``received`` counts what receivers and `receive` in this process got from elsewhere
        or from a queue; what was sent to an attached channel of this process directly counts too. Exact under gevent;
        real threads that count in the same instant may lose a count."""
        counts = dict(self._count)
        for counter, number in self._kept.counts().items():
            counts[counter] += number
        return counts

    def flush(self) -> None:
        self._flush()
        for group in self.subscriptions.clear_groups():
            self._upstream.release(group)
        self._kept.flush()

    def close(self) -> None:
        """As `Layer.close`. Channels of this process are detached."""
        upstream, kept = self._upstream, self._kept
        for counter, number in kept.counts().items():
            self._count[counter] += number
        self._begin()
        kept.close()
        self._close()
        upstream.close(LayerUnavailable(f"layer {self.name!r} was closed meanwhile"))

    # For backends

    def deliver_payload(self, channel: str, payload: bytes, more: bool = False) -> None:
        """A message for one process-specific channel of this process has come. Does not wait or raise."""
        receiver = self.subscriptions.receiver(channel)
        if receiver is None:
            if not self._kept.keep_if_fresh(channel):
                return
            receiver = self.subscriptions.receiver(channel)
            if receiver is None:
                return
        content = self._decode(payload, CHANNEL, channel)
        if content is not None:
            self._hand_over(receiver, Delivery(content, more), channel)

    def deliver_group_payload(self, group: str, payload: bytes, more: bool = False) -> None:
        """A message for a group has come: decode once, call each local member. Does not wait or raise."""
        # A message sent after the last member left may still be on its way here when the next one joins. No add has
        # returned while its subscription is not in force, so nothing is missed that was promised.
        if not (self.subscriptions.has_members(group) and self._upstream.is_in_force(group)):
            return
        content = self._decode(payload, GROUP, group)
        if content is None:
            return
        reached = self.subscriptions.fan_out(group, content, more)
        self._count["received"] += reached
        if not reached:
            self._upstream.release(group)

    def open_inbox(self) -> None:
        """Returns when messages for this process arrive. Raises what `_open_inbox` does."""
        self._upstream.ensure(INBOX)

    def add_local(self, group: str, channel: str) -> None:
        """Make a channel of this process a member; returns when that is in force. Nothing happens when the channel is
        gone. Calls `_subscribe`, so it may wait: not for the thread that reads what `_subscribe` waits for."""
        self._kept.keep_if_fresh(channel)
        self._joining.add(group, channel)

    def discard_local(self, group: str, channel: str) -> None:
        """End a membership of a channel of this process. Does not wait or raise."""
        self._joining.discard(group, channel)

    def count(self, counter: str, number: int = 1) -> None:
        """Add to ``expired``, ``lost`` or ``reconnects``; the base counts the others."""
        self._count[counter] += number

    # Its own

    def _start(self) -> None:
        self.process = new_process_token()
        self._count = {"sent": 0, "received": 0, "full": 0, "expired": 0, "lost": 0, "reconnects": 0}
        self._begin()

    def _begin(self) -> None:
        self.subscriptions = Subscriptions(self.group_expiry)
        self._upstream = Upstream(self._enter, self._leave, self._is_wanted)
        self._joining = Joining(self.subscriptions, self._upstream)
        self._kept = KeptChannels(self.subscriptions, self.settings.capacity_of, self.expiry, self.detach)

    def _after_fork(self) -> None:
        self._start()
        self._forked()

    def _enter(self, group: str) -> None:
        if group == INBOX:
            self._open_inbox()
        else:
            self._subscribe(group)

    def _leave(self, group: str) -> None:
        # An inbox that could not be opened is tried again by the next who needs it.
        if group != INBOX:
            self._unsubscribe(group)

    def _is_wanted(self, group: str) -> bool:
        return group == INBOX or self.subscriptions.has_members(group)

    def _check_ours(self, channel: str) -> None:
        if owner(channel) != self.process:
            raise InvalidChannelName(f"channel {channel!r} is no process-specific channel of this process")

    def _sort_out(self, channels: Collection[str]) -> tuple[list[str], list[str]]:
        if isinstance(channels, (str, bytes)):
            raise TypeError(f"channels must be a collection of names, not the single name {channels!r}")
        if not channels:
            raise ValueError("there are no channels to receive from")
        local: list[str] = []
        shared: list[str] = []
        for channel in channels:
            check_channel(channel)
            if not is_process_specific(channel):
                shared.append(channel)
                continue
            self._check_ours(channel)
            if not self._kept.holds(channel):
                if self.subscriptions.receiver(channel) is not None:
                    raise ValueError(f"channel {channel!r} is attached; its messages go to its receiver")
                self._kept.keep(channel)
                self.open_inbox()
            local.append(channel)
        return local, shared

    def _hand_over(self, receiver: Deliver, delivery: Delivery, channel: str) -> None:
        self._count["received"] += 1
        try:
            receiver(delivery)
        except Exception:
            logger.exception("receiver of channel %s raised", channel)

    def _decode(self, payload: bytes, kind: bytes, name: str) -> Content | None:
        try:
            return self.codec.decode(payload, kind, name)
        except UndecodableMessage as error:
            self._count["lost"] += 1
            logger.warning("lost a message of %s%s: %s", _SHOWN.get(kind, ""), name, error)
            return None


# What is registered stays for as long as the interpreter: once for all layers, and none is kept by it.
_layers: weakref.WeakSet[LayerBase] = weakref.WeakSet()


def _after_fork() -> None:
    for layer in list(_layers):
        try:
            layer._after_fork()
        except Exception:
            logger.exception("layer %r is of no use in this forked child", layer.name)


os.register_at_fork(after_in_child=_after_fork)


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not key:
        raise TypeError(f"session key {key!r} must be a str that is not empty")

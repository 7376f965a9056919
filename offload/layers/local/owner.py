"""This process as its layer's server sees it: what arrives here goes to receivers, members and queues of this process.

One object lasts from the layer's first use to `close`, or to a fork; it has the backend of the same time. It refers to
no layer object, so that a layer that is dropped takes its backend's threads along. Knows no server.

No lock of this module is held while a receiver or a waiting method of the backend runs.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter

from offload.exceptions import LayerUnavailable
from offload.interfaces import Content, Deliver, Delivery
from offload.layers.backend import Backend, Topics
from offload.layers.local.both import BothWaits
from offload.layers.local.delayed import DelayedMessages
from offload.layers.local.inbox import INBOX_TOPIC, Inbox, message_frame, message_of
from offload.layers.local.kept import KeptChannels
from offload.layers.local.memberships import GROUP_TOPIC, Memberships
from offload.layers.local.subscriptions import Subscriptions
from offload.layers.local.topics import SubscribedTopics
from offload.layers.words.codec import Codec, UndecodableMessage
from offload.layers.words.seal import CHANNEL, GROUP, SESSION
from offload.layers.words.settings import LayerSettings

logger = logging.getLogger("offload.layer")

_SHOWN = {GROUP: "group ", SESSION: "session "}


class LocalProcess:
    """An `Owner`, and what the front does with it.

    Args:
        layer: the layer's name, for messages.
        process: this process's token.
        codec: of the layer.
        counts: the layer's counters, which outlast this object.
        make_backend: makes the backend that serves this.
    """

    def __init__(
        self,
        layer: str,
        settings: LayerSettings,
        process: str,
        codec: Codec,
        counts: Counter[str],
        make_backend: Callable[[LocalProcess], Backend],
    ) -> None:
        self.settings = settings
        self.process = process
        self.subscriptions = Subscriptions(settings.group_expiry)
        self.backend = make_backend(self)
        self._layer = layer
        self._codec = codec
        self._counts = counts
        self._inbox_topic = INBOX_TOPIC + process
        self._topics = SubscribedTopics(self.backend, self._is_wanted, layer)
        self._memberships = Memberships(self.subscriptions, self._topics)
        self.kept = KeptChannels(self.subscriptions, settings.capacity_of, settings.expiry, self.detach)
        self.delayed = DelayedMessages(layer, self.backend, settings, self.count)
        self.both = BothWaits(process, self.backend, self.kept)
        self._inbox = Inbox(
            process, self.backend, codec, self._memberships, self.kept.keep_if_fresh, self._lost_from_inbox
        )

    # For the front

    def open_inbox(self) -> None:
        """Returns when messages for this process arrive, or did: clients may come and be served while a server is away.
        Raises ``LayerUnavailable``."""
        if not self._topics.arrives(self._inbox_topic):
            self._topics.ensure(self._inbox_topic)
            if not self.backend.is_private:
                self.delayed.watch()

    def attach(self, channel: str, deliver: Deliver, joins: bool) -> None:
        kept = self.kept.forget(channel)
        self.subscriptions.attach(channel, deliver, joins)
        if kept:
            self.kept.drop(channel)
        self.open_inbox()

    def detach(self, channel: str) -> None:
        kept = self.kept.forget(channel)
        for group in self.subscriptions.detach(channel):
            self._topics.release(GROUP_TOPIC + group)
        if kept:
            self.kept.drop(channel)

    def add(self, group: str, channel: str) -> None:
        """Make a channel of this process a member; returns when that is in force. Nothing happens when the channel is
        gone."""
        self.kept.keep_if_fresh(channel)
        self._memberships.add(group, channel)

    def discard(self, group: str, channel: str) -> None:
        """End a membership of a channel of this process. Neither waits nor raises."""
        self._memberships.discard(group, channel)

    def ask(self, kind: bytes, process: str, group: str, channel: str) -> None:
        """Have another process do it; see `Inbox.ask`."""
        self.open_inbox()  # where the answer comes
        self._inbox.ask(kind, process, group, channel)

    def send_to_process(self, process: str, channel: str, payload: bytes) -> bool:
        """Returns whether somebody heard it."""
        return self.backend.publish(INBOX_TOPIC + process, message_frame(channel, payload)) > 0

    def forget_groups(self) -> None:
        """End every membership. Neither waits nor raises."""
        for group in self.subscriptions.clear_groups():
            self._topics.release(GROUP_TOPIC + group)

    def close(self) -> None:
        """End the waits, and the backend."""
        reason = f"layer {self._layer!r} was closed meanwhile"
        self.kept.close()
        self._inbox.close(reason)
        self.both.close()
        self.end()
        self._topics.close(LayerUnavailable(reason))

    def end(self) -> None:
        """Give back the backend's connections and threads."""
        self.delayed.close()
        self.backend.close()

    def hand_over(self, receiver: Deliver, delivery: Delivery, channel: str) -> None:
        """To one channel's receiver."""
        self._counts["received"] += 1
        try:
            receiver(delivery)
        except Exception:
            logger.exception("receiver of channel %s raised", channel)

    def decode(self, payload: bytes, kind: bytes, name: str) -> Content | None:
        try:
            return self._codec.decode(payload, kind, name)
        except UndecodableMessage as error:
            self._counts["lost"] += 1
            logger.warning("lost a message of %s%s: %s", _SHOWN.get(kind, ""), name, error)
            return None

    # For the backend: see `Owner`

    def arrived(self, batch: Sequence[tuple[str, bytes]]) -> None:
        following = len(batch)
        for topic, run in groupby(batch, itemgetter(0)):
            payloads = [payload for _, payload in run]
            if topic.startswith(GROUP_TOPIC):
                following -= len(payloads)
                self._deliver_to_group(topic, payloads, following > 0)
                continue
            for payload in payloads:
                following -= 1
                if (message := message_of(payload)) is not None:
                    self._deliver(*message, following > 0)
                else:
                    self._inbox.take(payload)

    def subscribed(self, topics: Topics, missed: int = 0) -> None:
        back = self._topics.subscribed(topics)
        if missed:
            self.count("lost", missed)
            logger.warning("layer %r: %d messages for this process were missed while it was away", self._layer, missed)
        if self._inbox_topic in back:
            self._inbox.returned()

    def lost(self, topics: Topics, reason: str) -> None:
        self._topics.lost(topics, reason)

    def failed(self, topics: Topics, error: LayerUnavailable) -> None:
        self._topics.failed(topics, error)

    def refused(self, topics: Topics, error: LayerUnavailable) -> None:
        self._topics.failed(topics, error, for_good=True)

    def reconnected(self) -> None:
        self.count("reconnects")

    def count(self, counter: str, number: int = 1) -> None:
        self._counts[counter] += number

    # Its own

    def _deliver(self, channel: str, payload: bytes, more: bool) -> None:
        receiver = self.subscriptions.receiver(channel)
        if receiver is None:
            if not self.kept.keep_if_fresh(channel):
                self._counts["lost"] += self.kept.loses(channel)
                return
            receiver = self.subscriptions.receiver(channel)
            if receiver is None:
                return
        content = self.decode(payload, CHANNEL, channel)
        if content is not None:
            self.hand_over(receiver, Delivery(content, more), channel)

    def _deliver_to_group(self, topic: str, payloads: Sequence[bytes], more: bool) -> None:
        """Decode once, call each local member."""
        group = topic[len(GROUP_TOPIC) :]
        # A message sent after the last member left may still be on its way here when the next one joins. No add has
        # returned while its subscription is not in force, so nothing is missed that was promised.
        if not (self.subscriptions.has_members(group) and self._topics.arrives(topic)):
            return
        decoded = [self.decode(payload, GROUP, group) for payload in payloads]
        contents = [content for content in decoded if content is not None]
        if not contents:
            return
        reached = self.subscriptions.fan_out(group, *contents, more=more)
        self._counts["received"] += reached * len(contents)
        if not reached:
            self._topics.release(topic)

    def _is_wanted(self, topic: str) -> bool:
        return topic == self._inbox_topic or self.subscriptions.has_members(topic[len(GROUP_TOPIC) :])

    def _lost_from_inbox(self, why: str) -> None:
        self.count("lost")
        logger.warning("lost a message to this process's inbox: %s", why)

"""Takes messages of named channels from a layer, and runs their consumers in the pool of this process.

Each channel's messages run one after the other, in their order, unless concurrency is asked for. A channel is waited at
only while one of its consumers could run: what waits, waits in the layer, for other processes.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable

import gevent
from gevent.event import Event

from offload.consumers.dispatch.local import LATER_PAUSE, LATER_TRIES, Dispatch
from offload.consumers.routing import HTTP_REQUEST
from offload.consumers.synchronous import name_of
from offload.exceptions import ChannelFull, ConsumeLater, LayerUnavailable, OffloadError
from offload.interfaces import Content
from offload.transport.pool import Pool

log = logging.getLogger("offload.consumer")

TAKE_SECONDS = 1.0
"""How long one take waits; a stop is noticed in between."""
PAUSE_SECONDS = 0.5
"""Pause before the layer is asked again after it did not answer."""
AHEAD = 16
"""Messages that are taken together as long as they are done at once, so that each does not cost a round trip."""
QUICK_SECONDS = 0.005
"""The longest that a message takes of which that is true."""

TRIES_KEY = "__tries__"
"""Travels with a message that was put back, and tells how often; consumers do not see it."""


class _Batch:
    """Messages of one channel that were taken together."""

    __slots__ = ("channel", "contents", "done")

    def __init__(self, channel: str, contents: Iterable[Content]) -> None:
        self.channel = channel
        self.contents = deque(contents)
        self.done = Event()


class _Takes:
    """Takes that go on side by side, and what each has found."""

    __slots__ = ("channel", "contents", "done", "left")

    def __init__(self, channel: str, count: int) -> None:
        self.channel = channel
        self.contents: list[Content | None] = [None] * count
        self.left = count
        self.done = Event()


class NamedChannels:
    """The named channels that one process serves.

    Args:
        dispatch: finds and runs consumers, and names the layer.
        pool: where they run.
        channels: their names.
        concurrency: messages of one channel that run at a time; with more than one their order is not kept.
        unordered: channels whose messages have nothing to do with each other, so that any number run at a time.
        rested: called when nothing is in hand any more.

    Attributes:
        in_hand: takes and messages that have not ended.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        pool: Pool,
        channels: Collection[str],
        concurrency: int = 1,
        unordered: frozenset[str] = frozenset(),
        rested: Callable[[], None] | None = None,
    ) -> None:
        self._dispatch = dispatch
        self._layer = dispatch.layer
        self._pool = pool
        self._concurrency = concurrency
        self._unordered = unordered
        self.rested = rested
        self._stopped = Event()
        self._running: Counter[str] = Counter()
        # Channels that somebody waits at; and others that have room for a consumer.
        self._watched: set[str] = set()
        self._unwatched = set(channels)
        self.in_hand = 0

    def start(self) -> None:
        """Take messages from now on."""
        self._spawn(self._watch)

    def stop(self) -> None:
        """Take no more. What has been taken runs to its end."""
        self._stopped.set()

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        self.in_hand += 1
        gevent.spawn(self._count, work, arguments)

    def _count(self, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
        try:
            work(*arguments)
        finally:
            self.in_hand -= 1
            if not self.in_hand and self.rested is not None:
                self.rested()

    def _watch(self) -> None:
        """Wait at the channels that nobody waits at; each is waited at once."""
        while self._unwatched and not self._stopped.is_set():
            channels = sorted(self._unwatched)
            self._unwatched.clear()
            self._watched.update(channels)
            taken = self._take(channels, TAKE_SECONDS)
            self._watched.difference_update(channels)
            if taken is not None:
                self._running[taken[0]] += 1
                self._spawn(self._serve, *taken)
            self._unwatched.update(filter(self._has_room, channels))

    def _has_room(self, channel: str) -> bool:
        return self._running[channel] < (self._pool.size if channel in self._unordered else self._concurrency)

    def _take(self, channels: list[str], timeout: float) -> tuple[str, Content] | None:
        try:
            return self._layer.receive(channels, timeout=timeout)
        except LayerUnavailable as error:
            log.warning("no messages can be taken: %s", error)
        except Exception:
            log.exception("no messages can be taken")
        self._stopped.wait(PAUSE_SECONDS)
        return None

    def _serve(self, channel: str, content: Content) -> None:
        """Run one message of a channel, and then those that are there already."""
        contents = [content]
        while contents:
            started, count = time.monotonic(), len(contents)
            batch = _Batch(channel, contents)
            self._pool.submit(self._step, batch)
            batch.done.wait()
            is_quick = time.monotonic() - started < QUICK_SECONDS * count
            contents = []
            if not self._stopped.is_set() and channel not in self._unordered:
                contents = self._take_more(channel, AHEAD if is_quick else 1)
        self._running[channel] -= 1
        if channel not in self._watched:
            # Whoever waits at other channels does not see this one.
            self._unwatched.add(channel)
            self._spawn(self._watch)

    def _take_more(self, channel: str, count: int) -> list[Content]:
        if count == 1:
            taken = self._take([channel], 0)
            return [] if taken is None else [taken[1]]
        # Side by side, in the order in which they are asked for, which is that of the queue.
        takes = _Takes(channel, count)
        for number in range(count):
            self._pool.submit(self._take_one, (takes, number))
        takes.done.wait()
        return [content for content in takes.contents if content is not None]

    def _take_one(self, take: tuple[_Takes, int]) -> None:
        takes, number = take
        try:
            taken = self._take([takes.channel], 0)
            if taken is not None:
                takes.contents[number] = taken[1]
        finally:
            takes.left -= 1
            if not takes.left:
                takes.done.set()

    def _step(self, batch: _Batch) -> None:
        """Run the next message of a batch: each in a task of its own, and all in their order."""
        try:
            self._consume(batch.channel, batch.contents.popleft())
        finally:
            if batch.contents:
                self._pool.submit(self._step, batch)
            else:
                batch.done.set()

    def _consume(self, channel: str, content: Content) -> None:
        tried = content.pop(TRIES_KEY, 0)
        if not isinstance(tried, int):
            # Somebody else's key: it does not count anything.
            tried = 0
        consumer = self._dispatch.consumer_of(channel, content)
        if consumer is None:
            log.warning("no consumer's filters match a message on %s; it is dropped", channel)
            return
        try:
            self._dispatch.run_named(consumer, channel, content)
        except ConsumeLater:
            # Those behind it need not wait for that.
            self._spawn(self._put_back, channel, content, tried + 1, name_of(consumer[0]))
        except Exception:
            log.exception("consumer %s failed for a message on %s", name_of(consumer[0]), channel)
            if channel == HTTP_REQUEST and "reply_channel" in content:
                self._answer_failure(content)

    def _answer_failure(self, content: Content) -> None:
        """A request's client waits for an answer that its consumer will not send."""
        try:
            self._layer.send(content["reply_channel"], {"status": 500, "content": b"the server failed to answer\n"})
        except OffloadError as error:
            log.error("a request cannot be told that its consumer has failed: %s", error)

    def _put_back(self, channel: str, content: Content, tried: int, consumer: str) -> None:
        if tried >= LATER_TRIES:
            log.error("%s asked %d times for a message on %s later; it is dropped", consumer, tried, channel)
            return
        self._stopped.wait(LATER_PAUSE * tried)
        try:
            self._layer.send(channel, {**content, TRIES_KEY: tried})
        except (ChannelFull, LayerUnavailable) as error:
            log.error("a message on %s could not be put back and is lost: %s", channel, error)

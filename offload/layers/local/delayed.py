"""Delayed messages: each process that stays with a layer sends due messages on, as if they had been sent then.

The layer's server keeps them, in the order of their times; a message goes to one process only, which says with its
next call that it came. Processes ask for due messages once a second, and sooner for their own, so that a message is
late by up to a second where its sender has ended.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable

from offload.exceptions import ChannelFull, LayerUnavailable, LayerUnreachable
from offload.layers.backend import Backend
from offload.layers.link.thread import Duty, is_real_thread
from offload.layers.local.inbox import INBOX_TOPIC, message_frame
from offload.layers.words.names import is_process_specific, owner
from offload.layers.words.settings import LayerSettings

logger = logging.getLogger("offload.layer")

LOOK_SECONDS = 1.0
"""Between two looks for due messages, and before a message is sent again to a channel that is full."""


class DelayedMessages:
    """Sends due messages on, from `watch` until `close`.

    Args:
        layer: the layer's name, for messages.
        backend: keeps the messages.
        settings: of the layer.
        count: adds to the layer's counters.
    """

    def __init__(
        self, layer: str, backend: Backend, settings: LayerSettings, count: Callable[[str, int], None]
    ) -> None:
        self._layer = layer
        self._backend = backend
        self._settings = settings
        self._count = count
        self._taker = os.urandom(8).hex()
        self._calls = self._received = 0
        # What was taken and could not be sent since: the layer's server no longer has it.
        self._taken: deque[tuple[str, bytes]] = deque()
        self._sooner: threading.Event | None = None
        self._duty = Duty(self._run, "offload-delayed")
        self._is_closed = False

    def watch(self) -> None:
        """Look for due messages from now on."""
        # A real thread among greenlets cannot wait for this layer either.
        if not (self._duty.is_running or self._is_closed or is_real_thread()):
            if self._sooner is None:
                self._sooner = threading.Event()
            self._duty.ensure()

    def added(self) -> None:
        """This process has delayed a message, whose time may be the next."""
        self.watch()
        if self._sooner is not None:
            self._sooner.set()

    def close(self) -> None:
        """For good. Does not wait."""
        self.abandon()
        if self._sooner is not None:
            self._sooner.set()

    def abandon(self) -> None:
        """In a forked child, where the thread is not."""
        self._is_closed = True

    def _run(self) -> None:
        assert self._sooner is not None
        while not self._is_closed:
            self._sooner.clear()
            seconds: float | None = LOOK_SECONDS
            try:
                seconds = self._take()
                self._send_on()
            except LayerUnavailable as error:
                logger.debug("layer %r: delayed messages wait: %s", self._layer, error)
            except Exception:
                logger.exception("layer %r: delayed messages wait", self._layer)
            if seconds is None and self._backend.is_private and not self._taken:
                # Nobody else adds to them.
                self._sooner.wait()
            else:
                self._sooner.wait(LOOK_SECONDS if seconds is None else min(LOOK_SECONDS, seconds))
        if self._taken:
            self._count("lost", len(self._taken))
            logger.warning("layer %r: %d delayed messages are lost, since it was closed", self._layer, len(self._taken))

    def _take(self) -> float | None:
        self._calls += 1
        due = self._backend.take_due(self._taker, self._received, self._calls)
        self._received = due.batch
        self._taken.extend(due.messages)
        # A next call follows at once, and says that they came.
        return 0.0 if due.messages else due.seconds

    def _send_on(self) -> None:
        while self._taken and not self._is_closed:
            try:
                self._send(*self._taken[0])
            except LayerUnreachable:
                raise  # It was not sent, and is tried again.
            except LayerUnavailable as error:
                # Not again: a message goes to one receiver once.
                self._count("lost", 1)
                logger.warning("a delayed message for %s may be lost: %s", self._taken[0][0], error)
            self._taken.popleft()

    def _send(self, channel: str, payload: bytes) -> None:
        settings = self._settings
        if is_process_specific(channel):
            self._backend.publish(INBOX_TOPIC + owner(channel), message_frame(channel, payload))
            return
        try:
            self._backend.push(channel, payload, settings.expiry, settings.capacity_of(channel))
        except ChannelFull:
            self._backend.keep(channel, payload, LOOK_SECONDS)

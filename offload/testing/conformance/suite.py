"""What all parts of the suite share: layers that are closed after each test, and ways to wait for what must come."""

from __future__ import annotations

import contextlib
import math
import os
import queue
import secrets
import select
import signal
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from offload.exceptions import ChannelFull, LayerUnavailable
from offload.interfaces import Content, Delivery, Layer


class Suite(ABC):
    """The suite. Every test has a prefix of its own, and all the layers that it makes are closed after it.

    Attributes:
        patience: seconds to wait for what must come.
        short: an expiry, in seconds, that a test can wait for.
        bound: seconds within which a call raises while the server is away.
    """

    patience = 5.0
    short = 0.1
    bound = 8.0

    @abstractmethod
    def make_layer(self, **settings: Any) -> Layer:
        """A further layer object on one and the same server, as if in another process, with these settings."""

    def setup_method(self) -> None:
        self._made: list[Layer] = []
        self._prefix = f"test-{secrets.token_hex(6)}:"

    def teardown_method(self) -> None:
        for layer in self._made:
            # Its server may have come back in this instant.
            self._until(partial(self._works, layer.flush), "the server to be there")
            layer.close()

    def layer(self, **settings: Any) -> Layer:
        layer = self.make_layer(**{"prefix": self._prefix, **settings})
        self._made.append(layer)
        return layer

    def expired(self, layer: Layer) -> int:
        """Messages that were found to have expired; to be replaced where only a layer's server counts some."""
        return layer.statistics()["expired"]

    def _receive(self, layer: Layer, channels: list[str]) -> tuple[str, Content]:
        found = layer.receive(channels, self.patience)
        assert found is not None, f"nothing came to {channels} within {self.patience} s"
        return found

    def _take(self, layer: Layer, channel: str) -> Content:
        return self._receive(layer, [channel])[1]

    def _sends(self, layer: Layer, channel: str, content: Content) -> bool:
        try:
            layer.send(channel, content)
        except ChannelFull:
            return False
        return True

    def _works(self, call: Callable[[], object]) -> bool:
        try:
            call()
        except LayerUnavailable:
            return False
        return True

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.patience
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline, f"waited {self.patience} s for {what}"
            pause.wait(0.005)

    def _wait_until(self, moment: float) -> None:
        """Wait for a time of the monotonic clock: for what must have come to its end by then."""
        while (left := moment - time.monotonic()) > 0:
            threading.Event().wait(left)

    def _same(self, found: Any, expected: Any) -> None:
        assert type(found) is type(expected), (found, expected)
        if isinstance(expected, dict):
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                self._same(found[key], value)
        elif isinstance(expected, list):
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                self._same(one, other)
        elif isinstance(expected, float):
            assert math.copysign(1, found) == math.copysign(1, expected)
            assert found == expected or (math.isnan(found) and math.isnan(expected))
        else:
            assert found == expected


class Inbox:
    """A receiver that keeps what it gets."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Content] = queue.SimpleQueue()

    def __call__(self, delivery: Delivery) -> None:
        self._queue.put(delivery.content)

    def next(self, patience: float) -> Content:
        try:
            return self._queue.get(timeout=patience)
        except queue.Empty:
            raise AssertionError(f"nothing was delivered within {patience} s") from None

    def eventually(self, content: Content, patience: float) -> bool:
        """Whether this content comes in time; drops what comes before it."""
        deadline = time.monotonic() + patience
        while True:
            try:
                if self._queue.get(timeout=max(0.0, deadline - time.monotonic())) == content:
                    return True
            except queue.Empty:
                return False

    def empty(self) -> bool:
        return self._queue.empty()


@contextlib.contextmanager
def raises(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


def in_forked_child(text: Callable[[], str], patience: float) -> str:
    """What a function returns in a child of this process, where the system has forks; its error's text otherwise."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Other tests' threads are no concern of a child that does no more than this.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            said = text()
        except BaseException as error:  # noqa: BLE001
            said = repr(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    try:
        came, _, _ = select.select([reader], [], [], patience)
        assert came, f"the child has said nothing for {patience} s"
        return os.read(reader, 65_536).decode()
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):  # gevent's loop may have seen its end
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def values() -> Content:
    """Values that careless encodings change."""
    return {
        "none": None,
        "bools": [True, False],
        "ints": [0, 1, -1, 2**31, -(2**31), 2**63 - 1, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 10**40, -(10**40)],
        "floats": [0.0, -0.0, 1.5, 0.1, 1e308, 5e-324, math.inf, -math.inf, math.nan, 1.0],
        "texts": ["", "plain", "ümläut ☃ 𝄞", "\x00", "{", "line\u2028break", "\ud800"],
        "bytes": [b"", b"{}", bytes(range(256))],
        "lists": [[], [[]], [1, [2, [3]]]],
        "dicts": [{}, {"": ""}, {"a": {"b": {"c": None}}}],
        "": "a key may be empty",
        "ключ": "any key",
    }

"""Consumers under test use a memory layer of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from offload.consumers import configuration
from offload.layers.memory import MemoryLayer
from tests.consumers.pair import Pair


@pytest.fixture
def layer() -> Iterator[MemoryLayer]:
    configuration.reset()
    layer = MemoryLayer()
    configuration.configure(layer)
    yield layer
    configuration.reset()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """An owner of sockets and a worker, on a memory layer."""
    configuration.reset()
    yield Pair()
    configuration.reset()

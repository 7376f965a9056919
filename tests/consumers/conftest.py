"""Consumers under test use a memory layer of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from offload.consumers import configuration
from offload.layers.memory import MemoryLayer


@pytest.fixture
def layer() -> Iterator[MemoryLayer]:
    configuration.reset()
    layer = MemoryLayer()
    configuration.configure(layer)
    yield layer
    configuration.reset()

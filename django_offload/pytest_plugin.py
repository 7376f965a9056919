"""Fixtures for pytest, beside those of pytest-django; found by pytest by itself where this package is installed.

Nothing of Django is imported before a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from django_offload.testing import WebSocketClient


@pytest.fixture
def channel_layers() -> Iterator[None]:
    """Fresh layers in memory for this test."""
    from django_offload.testing import memory_layers

    with memory_layers():
        yield


@pytest.fixture
def websocket_client(channel_layers: None) -> WebSocketClient:
    """A client whose consumers run in the test, with fresh layers; with ``db`` in the test's transaction."""
    from django_offload.testing import WebSocketClient

    return WebSocketClient()


@pytest.fixture
def channel_live_server(channel_layers: None, transactional_db: None) -> Iterator[Any]:
    """A live server that speaks WebSocket: ``url``, ``ws_url`` and ``thread``. Needs pytest-django."""
    from django_offload.testing.live import live_server

    with live_server() as server:
        yield server

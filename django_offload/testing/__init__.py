"""Tests of a project's consumers: test cases, and clients that run consumers inside the test's transaction.

`ChannelLiveServerTestCase`, which serves browsers, brings gevent, so it is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_offload.testing.cases import ChannelTestCase, ChannelTestCaseMixin, TransactionChannelTestCase
from django_offload.testing.client import Client, Handshake, HttpClient, WebSocketClient, WSClient
from django_offload.testing.layers import apply_routes, memory_layers

if TYPE_CHECKING:
    from django_offload.testing.live import ChannelLiveServerTestCase

__all__ = [
    "ChannelLiveServerTestCase",
    "ChannelTestCase",
    "ChannelTestCaseMixin",
    "Client",
    "Handshake",
    "HttpClient",
    "TransactionChannelTestCase",
    "WSClient",
    "WebSocketClient",
    "apply_routes",
    "memory_layers",
]


def __getattr__(name: str) -> Any:
    if name != "ChannelLiveServerTestCase":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from django_offload.testing.live import ChannelLiveServerTestCase

    return ChannelLiveServerTestCase

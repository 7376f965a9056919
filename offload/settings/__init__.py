"""Settings: one declaration for each option, and how files, variables and flags become them."""

from __future__ import annotations

from offload.settings.groups import (
    DEFAULT_LAYER,
    GROUPS,
    LAST_SECONDS,
    MEMORY_DISPATCH,
    OPTIONS,
    HttpOptions,
    LayerOptions,
    ListenOptions,
    LogOptions,
    ProcessOptions,
    ProxyOptions,
    Settings,
    TlsOptions,
    WebSocketOptions,
    WorkerOptions,
)
from offload.settings.option import SERVE, WORKER, Option

__all__ = [
    "DEFAULT_LAYER",
    "GROUPS",
    "LAST_SECONDS",
    "MEMORY_DISPATCH",
    "OPTIONS",
    "SERVE",
    "WORKER",
    "HttpOptions",
    "LayerOptions",
    "ListenOptions",
    "LogOptions",
    "Option",
    "ProcessOptions",
    "ProxyOptions",
    "Settings",
    "TlsOptions",
    "WebSocketOptions",
    "WorkerOptions",
]

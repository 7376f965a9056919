"""Settings: one declaration for each option, and how files, variables and flags become them."""

from __future__ import annotations

from offload.settings.groups import (
    DEFAULT_LAYER,
    GROUPS,
    LAST_SECONDS,
    MEMORY_DISPATCH,
    OPTIONS,
    HookOptions,
    HttpOptions,
    LayerOptions,
    ListenOptions,
    LogOptions,
    MetricsOptions,
    ProcessOptions,
    ProxyOptions,
    ReplaceOptions,
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
    "HookOptions",
    "HttpOptions",
    "LayerOptions",
    "ListenOptions",
    "LogOptions",
    "MetricsOptions",
    "Option",
    "ProcessOptions",
    "ProxyOptions",
    "ReplaceOptions",
    "Settings",
    "TlsOptions",
    "WebSocketOptions",
    "WorkerOptions",
]

"""The settings of a server: each declared once, with its default, its flag and its explanation.

Plain data: it imports of offload only the exceptions and what an Origin is, so that every floor may be told by it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from offload.exceptions import ConfigurationError
from offload.origins import parse_allowed

MEMORY_DISPATCH = (
    "--dispatch layer needs a layer that workers share, and the memory layer is one process's own; "
    "use --layer ipc: on one machine, redis://HOST:PORT/DB on several"
)
ANSWER_SECONDS = 2.0
"""How long the last client that is sent away may take to answer; less of a short stop."""
LAST_SECONDS = 1.0
"""What the end of a stop leaves to the disconnect consumers of those that did not answer; less of a short stop."""


def _setting(default: Any, flags: str, text: str, **more: Any) -> Any:
    metadata = {"flags": flags.split(), "text": text, **more}
    if isinstance(default, tuple):
        return field(default=default, metadata={**metadata, "repeatable": True})
    return field(default=default, metadata=metadata)


def _check_network(text: str) -> None:
    if text != "*":
        # Strict: 192.168.1.1/24 is somebody's mistake.
        ipaddress.ip_network(text)


def _check_origin(text: str) -> None:
    if text != "*":
        parse_allowed(text)


@dataclass(frozen=True)
class Settings:
    """What a server does; the field's metadata has the flags, the help text, and bounds."""

    app: str = ""
    bind: tuple[str, ...] = _setting(
        ("127.0.0.1:8000",),
        "-b --bind",
        "listen at HOST:PORT, unix:PATH or fd://N; repeatable",
        metavar="ADDRESS",
        required=True,
    )
    workers: int = _setting(1, "-w --workers", "number of processes", low=1, high=4096, metavar="N")
    chdir: str | None = _setting(None, "--chdir", "change to this directory first", metavar="DIR")
    pythonpath: str | None = _setting(
        None, "--pythonpath", "directories, separated by commas, to import from", metavar="DIRS"
    )
    pid: str | None = _setting(None, "-p --pid", "write the supervisor's process id to this file", metavar="FILE")
    backlog: int = _setting(2048, "--backlog", "connections that may wait to be accepted", low=1, metavar="N")
    worker_connections: int = _setting(
        100_000, "--worker-connections", "connections that one server process holds", low=1, metavar="N"
    )
    pool_size: int = _setting(
        1000, "--pool-size", "greenlets that run requests and consumers in one process", low=1, metavar="N"
    )
    graceful_timeout: float = _setting(
        30.0, "--graceful-timeout", "seconds that a stop waits for requests and consumers", low=0, metavar="S"
    )
    # The least is what a process may need for its last words when its time is over.
    kill_timeout: float = _setting(
        5.0, "--kill-timeout", "seconds past the end of a stop after which a process that still runs is killed",
        low=2, metavar="S",
    )  # fmt: skip
    keep_alive: float = _setting(
        2.0, "--keep-alive", "seconds that an idle connection waits for a request; 0 for none", low=0, metavar="S"
    )
    limit_request_line: int = _setting(
        4094, "--limit-request-line", "bytes of a request line", low=64, high=65536, metavar="BYTES"
    )
    limit_request_fields: int = _setting(
        100, "--limit-request-fields", "number of header fields", low=1, high=32768, metavar="N"
    )
    limit_request_field_size: int = _setting(
        8190, "--limit-request-field_size", "bytes of one header field", low=64, high=65536, metavar="BYTES"
    )
    limit_request_head: int = _setting(
        65536, "--limit-request-head", "bytes of a request line and all its fields",
        low=128, high=1 << 20, metavar="BYTES",
    )  # fmt: skip
    limit_request_body: int = _setting(
        0, "--limit-request-body", "bytes of a request's body; 0 for no limit", low=0, metavar="BYTES"
    )
    limit_pipelined: int = _setting(
        16, "--limit-pipelined", "requests sent ahead of their answers that one connection has answered in a row, "
        "before others get their turn", low=1, metavar="N",
    )  # fmt: skip
    header_timeout: float | None = _setting(
        10.0, "--header-timeout", "seconds for a whole header block; 0 for no limit", low=0, metavar="S"
    )
    body_timeout: float | None = _setting(
        30.0, "--body-timeout", "seconds without progress in a request's body; 0 for no limit", low=0, metavar="S"
    )
    send_timeout: float | None = _setting(
        60.0, "--send-timeout", "seconds without progress in sending; 0 for no limit", low=0, metavar="S"
    )
    linger_timeout: float = _setting(
        5.0, "--linger-timeout", "seconds to let a client read the last answer before its connection closes",
        low=0.1, metavar="S",
    )  # fmt: skip
    forwarded_allow_ips: tuple[str, ...] = _setting(
        ("127.0.0.1", "::1"), "--forwarded-allow-ips",
        "addresses and networks of proxies whose X-Forwarded-* and Forwarded fields are believed; * for all",
        check=_check_network, metavar="NETWORKS",
    )  # fmt: skip
    forwarder_headers: tuple[str, ...] = _setting(
        ("SCRIPT_NAME", "PATH_INFO"), "--forwarder-headers",
        "fields with underscores that such a proxy may set; * for all; others' are dropped", metavar="NAMES",
    )  # fmt: skip
    proxy_protocol: str = _setting(
        "off", "--proxy-protocol", "take a PROXY header at a connection's beginning: off, v1, v2 or auto (either)",
        choices=("off", "v1", "v2", "auto"), words={"true": "auto", "false": "off"}, alone="auto", metavar="MODE",
    )  # fmt: skip
    proxy_allow_ips: tuple[str, ...] = _setting(
        ("127.0.0.1", "::1"), "--proxy-allow-from", "addresses and networks that may send a PROXY header; * for all",
        check=_check_network, metavar="NETWORKS",
    )  # fmt: skip
    certfile: tuple[str, ...] = _setting(
        (), "--certfile", "serve TLS with the certificate in this PEM file; repeatable, for several host names",
        metavar="FILE", whole=True,
    )  # fmt: skip
    keyfile: tuple[str, ...] = _setting(
        (), "--keyfile", "the certificate's key; default: in its file; repeatable, in the certificates' order",
        metavar="FILE", whole=True,
    )  # fmt: skip
    ca_certs: str | None = _setting(
        None, "--ca-certs", "PEM file of the authorities that sign clients' certificates", metavar="FILE"
    )
    cert_reqs: int = _setting(
        0, "--cert-reqs", "clients' certificates: 0 not asked for, 1 optional, 2 required", low=0, high=2, metavar="N"
    )
    ciphers: str | None = _setting(
        None, "--ciphers", "ciphers for TLS 1.2, as OpenSSL writes them; default: Python's", metavar="LIST"
    )
    strict_sni: str = _setting(
        "auto", "--strict-sni", "answer requests for hosts that their connection's certificate is not for with 421: "
        "off, auto (where the client named a host to choose among several certificates) or on (always); clients "
        "that --forwarded-allow-ips trusts, and those of Unix sockets, may ask for any host",
        choices=("off", "auto", "on"), words={"true": "on", "false": "off"}, alone="on", metavar="MODE",
    )  # fmt: skip
    tls_handshake_timeout: float | None = _setting(
        10.0, "--tls-handshake-timeout", "seconds for a TLS handshake; 0 for no limit", low=0, metavar="S"
    )
    layer: tuple[str, ...] = _setting(
        ("ipc:",),
        "--layer",
        "the default channel layer: memory://, ipc:, redis://HOST:PORT/DB",
        metavar="URL",
        whole=True,
    )
    routing: str | None = _setting(
        None, "--routing", "consumer routing; default: channel_routing of APP's module", metavar="MODULE:NAME"
    )
    ws_max_size: int = _setting(1 << 20, "--ws-max-size", "bytes of the largest message taken", low=1, metavar="BYTES")
    ws_ping_interval: float | None = _setting(
        25.0, "--ws-ping-interval", "seconds between pings; 0 for none", low=0, metavar="S"
    )
    ws_ping_timeout: float | None = _setting(
        20.0, "--ws-ping-timeout", "seconds of silence after a ping that end a WebSocket", low=0, metavar="S"
    )
    ws_close_timeout: float = _setting(
        10.0, "--ws-close-timeout", "seconds that a WebSocket's closing handshake may take, on either side",
        low=0.1, metavar="S",
    )  # fmt: skip
    ws_queue: int = _setting(
        32, "--ws-queue", "messages waiting for one connection's consumers before reading stops", low=1, metavar="N"
    )
    ws_send_buffer: int = _setting(
        1 << 20, "--ws-send-buffer", "unsent bytes one slow client may hold", low=1, metavar="BYTES"
    )
    ws_overflow: str = _setting(
        "close", "--ws-overflow", "what happens past that: close (1013), drop-oldest or drop-newest messages",
        choices=("close", "drop-oldest", "drop-newest"), metavar="POLICY",
    )  # fmt: skip
    ws_compression: str = _setting(
        "auto", "--ws-compression", "auto: for clients that offer it, keeping nothing between messages; off: never",
        choices=("auto", "off"), metavar="MODE",
    )  # fmt: skip
    ws_limit_per_ip: int = _setting(
        0, "--ws-limit-per-ip", "WebSockets that one client address may have in one server process; 0 for no limit",
        low=0, metavar="N",
    )  # fmt: skip
    ws_rate: float = _setting(
        0.0, "--ws-rate", "messages a second that one WebSocket may send, or close 1008; 0 for no limit",
        low=0, metavar="N",
    )  # fmt: skip
    ws_handshakes: int = _setting(
        5000, "--ws-handshakes", "WebSocket handshakes that may be undecided in one server process; 0 for no limit",
        low=0, metavar="N",
    )  # fmt: skip
    drain_timeout: float = _setting(
        30.0, "--drain-timeout", "seconds over which a stop or reload spreads the closing of WebSockets; "
        "no longer than --graceful-timeout unless set", low=0, metavar="S",
    )  # fmt: skip
    ws_origins: tuple[str, ...] = _setting(
        (), "--ws-origins", "pages that may open WebSockets: HOST, .HOST for all below it too, HOST:PORT or "
        "SCHEME://HOST, separated by commas; * for all; default: those of the host that is asked", check=_check_origin,
        metavar="ORIGINS",
    )  # fmt: skip
    dispatch: str = _setting(
        "local", "--dispatch", "where the consumers of WebSockets run: local, in the process that holds the socket; "
        "layer, in `offload worker` processes, on any machine", choices=("local", "layer"), metavar="WHERE",
    )  # fmt: skip
    dispatch_timeout: float = _setting(
        10.0, "--dispatch-timeout", "with --dispatch layer: seconds without a sign of life of a worker, or with no "
        "way to the layer, after which a handshake is answered 503 and a WebSocket closed", low=2, metavar="S",
    )  # fmt: skip
    alias: str = _setting("default", "--alias", "the configured layer whose channels a worker serves", metavar="NAME")
    takers: int = _setting(
        4, "--takers", "messages that a worker asks the layer for at a time; more where the layer is far away",
        low=1, metavar="N",
    )  # fmt: skip
    only_channels: tuple[str, ...] = _setting(
        (), "--only-channels", "globs of the channels that a worker serves; default: all routed", metavar="GLOB"
    )
    exclude_channels: tuple[str, ...] = _setting(
        (), "--exclude-channels", "globs of channels that a worker leaves to others", metavar="GLOB"
    )
    log_level: str = _setting(
        "info", "--log-level", "debug, info, warning, error or critical",
        choices=("debug", "info", "warning", "error", "critical"), metavar="LEVEL",
    )  # fmt: skip
    error_logfile: str = _setting("-", "--error-logfile --log-file", "the log; - for stderr", metavar="FILE")
    access_logfile: str | None = _setting(
        None, "--access-logfile", "a line for each answer; - for stdout; default: none", metavar="FILE"
    )
    access_logformat: str = _setting(
        '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"', "--access-logformat",
        "what such a line says, in gunicorn's words; json for JSON", metavar="FORMAT",
    )  # fmt: skip
    explicit: frozenset[str] = frozenset()
    """Names of the fields that were set by somebody, rather than left at their default."""

    def __post_init__(self) -> None:
        if self.dispatch == "layer" and any(url.strip().lower().startswith("memory:") for url in self.layer):
            raise ConfigurationError(MEMORY_DISPATCH)
        if self.routing is not None and not {".", ":"} & set(self.routing):
            raise ConfigurationError(
                f"--routing is {self.routing!r}, which is not MODULE:NAME, for instance project.routing:channel_routing"
            )

    @property
    def drain_seconds(self) -> float:
        """What `drain_timeout` comes to: who wants a short stop need not set both times."""
        if "drain_timeout" in self.explicit:
            return self.drain_timeout
        return min(self.drain_timeout, max(0.0, self.graceful_timeout - self._answer_seconds - self.last_seconds))

    @property
    def stop_seconds(self) -> float:
        """How long a stopping server process may take in all."""
        if "drain_timeout" in self.explicit:
            return max(self.graceful_timeout, self.drain_timeout + ANSWER_SECONDS + LAST_SECONDS)
        return self.graceful_timeout

    @property
    def last_seconds(self) -> float:
        """How long before that time is up the WebSockets that are left are cut off: consumers are to hear of it."""
        return min(LAST_SECONDS, self.stop_seconds / 4)

    @property
    def _answer_seconds(self) -> float:
        return min(ANSWER_SECONDS, self.graceful_timeout / 4)


_LARGEST = 2**31 - 1
"""No number may be larger: neither the kernel's integers nor a loop's timers take more."""

_OF_WORKERS_ALONE = frozenset(("alias", "takers", "only_channels", "exclude_channels"))
_OF_BOTH = frozenset(
    (
        "workers",
        "chdir",
        "pythonpath",
        "pid",
        "pool_size",
        "graceful_timeout",
        "kill_timeout",
        "layer",
        "routing",
        "log_level",
        "error_logfile",
    )
)


def setting_fields(command: str | None = None) -> Mapping[str, Any]:
    """The fields that have flags, by name, in the order of their declaration.

    Args:
        command: only those of ``"serve"`` or of ``"worker"``.
    """
    every = {f.name: f for f in fields(Settings) if f.metadata}
    if command == "worker":
        return {name: f for name, f in every.items() if name in _OF_BOTH | _OF_WORKERS_ALONE}
    return {name: f for name, f in every.items() if command is None or name not in _OF_WORKERS_ALONE}


def checked(name: str, value: Any, where: str) -> Any:
    """A value within its bounds, as its field keeps it.

    Args:
        name: the field's name.
        value: of the field's type already, or a str to be read.
        where: who said it, for the message: a flag, or a variable's name.

    Raises:
        ConfigurationError: in one sentence, with the value and the bound.
    """
    spec = setting_fields()[name]
    meta = spec.metadata
    default = spec.default
    if isinstance(default, tuple):
        parts = value if isinstance(value, (list, tuple)) else [value]
        if meta.get("whole"):
            # A layer's address may have commas of its own.
            return tuple(map(str, parts))
        pieces = tuple(piece.strip() for part in parts for piece in str(part).split(",") if piece.strip())
        for piece in pieces:
            try:
                meta.get("check", str)(piece)
            except ValueError as error:
                raise ConfigurationError(f"{where} has {piece!r}: {error}") from None
        if meta.get("required") and not pieces:
            raise ConfigurationError(f"{where} is empty; leave it out for {', '.join(default)}")
        return pieces
    if isinstance(default, (int, float)):
        kind: type[int] | type[float] = int if isinstance(default, int) else float
        try:
            value = kind(value)
        except (TypeError, ValueError):
            word = "a whole number" if kind is int else "a number"
            raise ConfigurationError(f"{where} is {value!r}, which is not {word}") from None
        low, high = meta.get("low"), meta.get("high", _LARGEST)
        if not ((low is None or value >= low) and value <= high):
            bound = f"{low} or more" if high is _LARGEST and value < _LARGEST else f"from {low} to {high}"
            raise ConfigurationError(f"{where} is {value}, but it must be {bound}")
        # "No limit" is written 0 where a time may be unlimited.
        return None if value == 0 and "None" in str(spec.type) else value
    if meta.get("choices"):
        value = str(value).lower()
    value = meta.get("words", {}).get(str(value).lower(), value)
    choices = meta.get("choices")
    if choices and value not in choices:
        raise ConfigurationError(f"{where} is {value!r}; choose one of {', '.join(choices)}")
    return value

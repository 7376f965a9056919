"""The options, in groups: each declared once, with its default, flags, bounds, explanation and commands.

A group is handed whole to what it is for. Plain data: of offload it imports the exceptions and what an Origin is, so
that every floor may be told by it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from offload.exceptions import ConfigurationError
from offload.origins import parse_allowed
from offload.settings.kinds import LARGEST, Account, Mask, Number
from offload.settings.option import (
    BOTH,
    WORKER,
    Source,
    choice,
    declare,
    hook,
    items,
    options_of,
    seconds,
    size,
    switch,
    table,
    whole,
    words,
)

MEMORY_DISPATCH = (
    "--dispatch layer needs a layer that workers share, and the memory layer is one process's own; "
    "use --layer ipc: on one machine, redis://HOST:PORT/DB on several"
)
DEFAULT_LAYER = "ipc:"
"""Where neither the application nor the command line names one."""
DRAIN_SECONDS = 30.0
"""Over which a stop closes WebSockets, where `ProcessOptions.drain_timeout` does not say it."""
ANSWER_SECONDS = 2.0
"""How long the last client that is sent away may take to answer; less of a short stop."""
LAST_SECONDS = 1.0
"""What the end of a stop leaves to the disconnect consumers of those that did not answer; less of a short stop."""

_WORKERS_ALONE = (WORKER,)
Hooked = Callable[..., Any] | None
STATEMENTS = ("for", "proto", "host", "forwarded")
_THIS_MACHINE = ("127.0.0.1", "::1")


def _check_network(text: str) -> None:
    if text != "*":
        # Strict: 192.168.1.1/24 is somebody's mistake.
        ipaddress.ip_network(text)


def _check_origin(text: str) -> None:
    if text != "*":
        parse_allowed(text)


def _check_statement(text: str) -> None:
    if text not in STATEMENTS:
        raise ValueError(f"choose of {', '.join(STATEMENTS)}")


def _check_variable(text: str) -> None:
    if not text.partition("=")[0] or "=" not in text:
        raise ValueError("it is not NAME=VALUE")


class Group:
    """A group of options, and its title in the help and the docs."""

    title: ClassVar[str]


@dataclass(frozen=True, eq=False, repr=False)
class ListenOptions(Group):
    """The listening sockets."""

    title: ClassVar[str] = "listening"

    bind: tuple[str, ...] = items(
        ("127.0.0.1:8000",), "-b --bind", "listen at HOST:PORT, unix:PATH or fd://N; repeatable", metavar="ADDRESS",
        required=True, at_start=True,
    )  # fmt: skip
    backlog: int = whole(2048, "--backlog", "connections that may wait to be accepted", low=1, at_start=True)
    reuse_port: bool = switch(
        "--reuse-port", "let other servers of the same user listen at the same port, too (SO_REUSEPORT); the kernel "
        "shares the connections out", at_start=True,
    )  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class ProcessOptions(Group):
    """The processes: how many, where they run, what each holds, and how long it may take to stop."""

    title: ClassVar[str] = "processes"

    workers: int = whole(1, "-w --workers", "number of processes", low=1, high=4096, commands=BOTH)
    chdir: str | None = words(
        None, "--chdir", "change to this directory first", metavar="DIR", at_start=True, commands=BOTH
    )
    pythonpath: str | None = words(
        None,
        "--pythonpath",
        "directories, separated by commas, to import from",
        metavar="DIRS",
        at_start=True,
        commands=BOTH,
    )
    preload: bool = switch(
        "--preload", "import the application once, in a process of its own, and fork all others from that, with which "
        "they share memory; a reload (HUP) imports it anew", gunicorn="preload_app", at_start=True, commands=BOTH,
    )  # fmt: skip
    pid: str | None = words(
        None, "-p --pid", "write the supervisor's process id to this file", metavar="FILE", gunicorn="pidfile",
        at_start=True, commands=BOTH,
    )  # fmt: skip
    name: str | None = words(
        None, "-n --name", "name of the processes in ps and top", metavar="NAME", gunicorn="proc_name", commands=BOTH
    )
    env: tuple[str, ...] = items(
        (), "-e --env", "set a variable of the environment; repeatable", metavar="NAME=VALUE", commas=False,
        check=_check_variable, gunicorn="raw_env", commands=BOTH,
    )  # fmt: skip
    user: int | None = declare(
        Account("USER"), None, "-u --user", "the user that the server processes run as", commands=BOTH
    )
    group: int | None = declare(
        Account("GROUP"), None, "-g --group", "the group that the server processes run as", commands=BOTH
    )
    initgroups: bool = switch("--initgroups", "take on all groups of --user", commands=BOTH)
    umask: int = declare(
        Mask(), 0, "-m --umask", "bits that a Unix socket of the server does not get in its mode", shown="0",
        commands=BOTH,
    )  # fmt: skip
    worker_connections: int = whole(
        100_000, "--worker-connections", "connections that one server process holds", low=1,
        differs="it counts open sockets, idle ones and WebSockets too; --pool-size limits what runs at a time",
    )  # fmt: skip
    pool_size: int = whole(
        1000, "--pool-size", "greenlets that run requests and consumers in one process", low=1, commands=BOTH
    )
    workers_inside: int = whole(
        0, "--workers-inside", "messages of each named channel that a server process runs at a time; 0 leaves them to "
        "offload worker", low=0,
    )  # fmt: skip
    request_timeout: float | None = seconds(
        None, "--request-timeout", "longest run of one request or consumer; past it a traceback in the log, and 503 or "
        "close 1011; 0 for no limit", zero=None, shown="0", commands=BOTH,
    )  # fmt: skip
    graceful_timeout: float = seconds(
        30.0, "--graceful-timeout", "seconds that a stop waits for requests and consumers", commands=BOTH
    )
    # The least is what a process may need for its last words when its time is over.
    kill_timeout: float = seconds(
        5.0, "--kill-timeout", "seconds past the end of a stop after which a process that still runs is killed",
        low=2, commands=BOTH,
    )  # fmt: skip
    drain_timeout: float | None = seconds(
        None, "--drain-timeout", "seconds over which a stop or reload spreads the closing of WebSockets; no longer "
        "than --graceful-timeout unless set", shown=f"{DRAIN_SECONDS}",
    )  # fmt: skip

    @property
    def variables(self) -> dict[str, str]:
        """What `env` says."""
        return {name: value for name, _, value in (pair.partition("=") for pair in self.env)}

    @property
    def drain_seconds(self) -> float:
        """What `drain_timeout` comes to: who wants a short stop need not set both times."""
        if self.drain_timeout is not None:
            return self.drain_timeout
        return min(DRAIN_SECONDS, max(0.0, self.graceful_timeout - self._answer_seconds - self.last_seconds))

    @property
    def stop_seconds(self) -> float:
        """How long a stopping server process may take in all."""
        if self.drain_timeout is not None:
            return max(self.graceful_timeout, self.drain_timeout + ANSWER_SECONDS + LAST_SECONDS)
        return self.graceful_timeout

    @property
    def kill_seconds(self) -> float:
        """How long after it is told to stop a server process is killed."""
        return self.stop_seconds + self.kill_timeout

    @property
    def last_seconds(self) -> float:
        """How long before that time is up the WebSockets that remain are aborted, so that consumers hear of it."""
        return min(LAST_SECONDS, self.stop_seconds / 4)

    @property
    def _answer_seconds(self) -> float:
        return min(ANSWER_SECONDS, self.graceful_timeout / 4)


@dataclass(frozen=True, eq=False, repr=False)
class ReplaceOptions(Group):
    """When a process is killed or gives way to another. None is no limit."""

    title: ClassVar[str] = "replacing processes"

    timeout: float | None = seconds(
        30.0, "-t --timeout", "seconds that one task may hold a process's loop before the process is killed; 0 for no "
        "limit", zero=None, commands=BOTH,
        differs="a process that is busy with long requests is left alone, as under -k gevent; see --request-timeout",
    )  # fmt: skip
    blocked_after: float | None = seconds(
        1.0, "--blocked-after", "seconds that one task may hold a process's loop before the log tells of it, with the "
        "task's stack; 0 for never", zero=None, commands=BOTH,
    )  # fmt: skip
    boot_timeout: float | None = seconds(
        60.0, "--boot-timeout", "seconds after which the log names a process that is not ready, and a reload gives it "
        "up; 0 for no limit", zero=None, commands=BOTH,
    )  # fmt: skip
    reload_parallel: int = whole(
        1, "--reload-parallel", "processes that a reload replaces at a time", low=1, commands=BOTH
    )
    spare: int = whole(
        0, "--spare", "imported, idle processes that take a dead one's place at once", high=64, commands=BOTH
    )
    max_requests: int | None = whole(
        None, "--max-requests", "requests and messages after which a process is replaced; 0 for no limit", zero=None,
        shown="0", commands=BOTH,
    )  # fmt: skip
    max_requests_jitter: int = whole(
        0, "--max-requests-jitter", "up to so many more, at random for each process", commands=BOTH
    )
    max_rss: int | None = size(
        None, "--max-rss", "resident memory after which a process is replaced; 0 for no limit", zero=None, high=1 << 50,
        shown="0", commands=BOTH,
    )  # fmt: skip
    max_lifetime: float | None = seconds(
        None, "--max-lifetime", "seconds after which a process is replaced; 0 for no limit", zero=None, shown="0",
        commands=BOTH,
    )  # fmt: skip
    reload: bool = switch(
        "--reload", "replace the processes whenever code changes, for development (needs the watchfiles package)",
        commands=BOTH,
    )  # fmt: skip
    reload_extra_files: tuple[str, ...] = items(
        (), "--reload-extra-file", "a further file for --reload to watch; repeatable", metavar="FILE", commas=False,
        name="reload_extra_files", commands=BOTH,
    )  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class HttpOptions(Group):
    """Limits and times of HTTP. None is no limit."""

    title: ClassVar[str] = "HTTP"

    keep_alive: float = seconds(
        2.0, "--keep-alive", "seconds that an idle connection waits for a request; 0 for none", gunicorn="keepalive"
    )
    limit_request_line: int = size(
        4094, "--limit-request-line", "bytes of a request line; 0 for as many as --limit-request-head", low=64,
        high=1 << 20, zero=LARGEST,
    )  # fmt: skip
    limit_request_fields: int = whole(
        100, "--limit-request-fields", "number of header fields; 0 for as many as --limit-request-head has room for",
        low=1, zero=LARGEST,
    )  # fmt: skip
    limit_request_field_size: int = size(
        8190, "--limit-request-field_size", "bytes of one header field; 0 for as many as --limit-request-head", low=64,
        high=1 << 20, zero=LARGEST,
    )  # fmt: skip
    limit_request_head: int = size(
        65536, "--limit-request-head", "bytes of a request line and all its fields", low=128, high=1 << 20
    )
    limit_request_body: int | None = size(
        None, "--limit-request-body", "bytes of a request's body; 0 for no limit", zero=None, shown="0"
    )
    limit_chunked_body: int | None = size(
        1 << 30, "--limit-chunked-body", "bytes of a chunked body, which is collected so that applications know its "
        "length; 0: applications read it as it comes, without a length", zero=None, high=1 << 50,
    )  # fmt: skip
    body_buffer: int = size(
        131_072, "--body-buffer", "bytes of a request's body that are collected in memory before the application runs; "
        "of a chunked one the rest goes to a temporary file", high=1 << 30,
    )  # fmt: skip
    limit_pipelined: int = whole(
        16, "--limit-pipelined", "requests sent ahead of their answers that one connection has answered in a row, "
        "before others run", low=1,
    )  # fmt: skip
    header_timeout: float | None = seconds(
        10.0, "--header-timeout", "seconds for a whole header block; 0 for no limit", zero=None
    )
    body_timeout: float | None = seconds(
        30.0, "--body-timeout", "seconds without progress in a request's body; 0 for no limit", zero=None
    )
    send_timeout: float | None = seconds(
        60.0, "--send-timeout", "seconds without progress in sending; 0 for no limit", zero=None
    )
    body_min_rate: float | None = declare(
        Number(float, 0, LARGEST, "BYTES", None), 240.0, "--body-min-rate",
        "least bytes a second of a request's body, after a grace of 5 s; 0 for none",
    )  # fmt: skip
    send_min_rate: float | None = declare(
        Number(float, 0, LARGEST, "BYTES", None), 240.0, "--send-min-rate",
        "least bytes a second that a client takes of an answer, after a grace of 5 s; 0 for none",
    )  # fmt: skip
    linger_timeout: float = seconds(
        5.0, "--linger-timeout", "seconds to let a client read the last answer before its connection closes", low=0.1
    )

    @property
    def most_chunked(self) -> int | None:
        """Bytes that a chunked body may have; None for no limit."""
        limits = [limit for limit in (self.limit_request_body, self.limit_chunked_body) if limit is not None]
        return min(limits, default=None)


@dataclass(frozen=True, eq=False, repr=False)
class ProxyOptions(Group):
    """Proxies in front, and what is believed of theirs."""

    title: ClassVar[str] = "behind proxies"

    forwarded_allow_ips: tuple[str, ...] = items(
        _THIS_MACHINE, "--forwarded-allow-ips",
        "addresses and networks of proxies whose word counts (see --forwarded-fields); * for all",
        check=_check_network, metavar="NETWORKS",
    )  # fmt: skip
    forwarded_fields: tuple[str, ...] = items(
        ("for", "proto"), "--forwarded-fields",
        "which of such a proxy's statements are used: for (X-Forwarded-For), proto (X-Forwarded-Proto, -Protocol and "
        "-Ssl), host (X-Forwarded-Host), forwarded (Forwarded, all of it); name only what the proxy itself writes",
        check=_check_statement, metavar="NAMES",
    )  # fmt: skip
    forwarder_headers: tuple[str, ...] = items(
        ("SCRIPT_NAME", "PATH_INFO"), "--forwarder-headers",
        "fields with underscores that such a proxy may set; * for all; others' are dropped", metavar="NAMES",
    )  # fmt: skip
    secure_scheme_headers: dict[str, str] | None = table(
        "secure_scheme_headers", "the fields by which such a proxy tells of HTTPS, and their words for it: "
        "{'X-FORWARDED-PROTO': 'https'}; default: X-Forwarded-Proto, -Protocol and -Ssl",
    )  # fmt: skip
    proxy_protocol: str = choice(
        "off", "--proxy-protocol", "take a PROXY header at a connection's beginning: off, v1, v2 or auto (either)",
        ("off", "v1", "v2", "auto"), synonyms={"true": "auto", "false": "off"}, alone="auto", metavar="MODE",
    )  # fmt: skip
    proxy_allow_ips: tuple[str, ...] = items(
        _THIS_MACHINE, "--proxy-allow-from", "addresses and networks that may send a PROXY header; * for all",
        name="proxy_allow_ips", check=_check_network, metavar="NETWORKS",
    )  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class TlsOptions(Group):
    """TLS."""

    title: ClassVar[str] = "TLS"

    certfile: tuple[str, ...] = items(
        (), "--certfile", "serve TLS with the certificate in this PEM file; repeatable, for several host names",
        metavar="FILE", commas=False,
    )  # fmt: skip
    keyfile: tuple[str, ...] = items(
        (), "--keyfile", "the certificate's key; default: in its file; repeatable, in the certificates' order",
        metavar="FILE", commas=False,
    )  # fmt: skip
    ca_certs: str | None = words(
        None, "--ca-certs", "PEM file of the authorities that sign clients' certificates", metavar="FILE"
    )
    cert_reqs: int = whole(0, "--cert-reqs", "clients' certificates: 0 not asked for, 1 optional, 2 required", high=2)
    ciphers: str | None = words(
        None, "--ciphers", "ciphers for TLS 1.2, as OpenSSL writes them; default: Python's", metavar="LIST"
    )
    strict_sni: str = choice(
        "auto", "--strict-sni", "answer 421 to requests for hosts that the connection's certificate is not for: off; "
        "auto, where the client named a host to choose among several certificates; on, always. Clients that "
        "--forwarded-allow-ips trusts, and those of Unix sockets, may ask for any host",
        ("off", "auto", "on"), synonyms={"true": "on", "false": "off"}, alone="on", metavar="MODE",
    )  # fmt: skip
    handshake_timeout: float | None = seconds(
        10.0, "--tls-handshake-timeout", "seconds for a TLS handshake; 0 for no limit", zero=None
    )

    @property
    def wanted(self) -> bool:
        """Whether TLS is served: asking for a part of it without a certificate is a mistake, not plain HTTP."""
        return bool(self.certfile or self.keyfile or self.ca_certs or self.cert_reqs)


@dataclass(frozen=True, eq=False, repr=False)
class LayerOptions(Group):
    """The channel layer, and where consumers run."""

    title: ClassVar[str] = "channel layer"

    urls: tuple[str, ...] = items(
        (), "--layer", "the default channel layer: memory://, ipc:, redis://HOST:PORT/DB", metavar="URL", commas=False,
        shown=DEFAULT_LAYER, commands=BOTH,
    )  # fmt: skip
    routing: str | None = words(
        None, "--routing", "consumer routing; default: channel_routing of APP's module", metavar="MODULE:NAME",
        commands=BOTH,
    )  # fmt: skip
    dispatch: str = choice(
        "local", "--dispatch", "where the consumers of WebSockets run: local, in the process that holds the socket; "
        "layer, in `offload worker` processes, on any machine", ("local", "layer"), metavar="WHERE",
    )  # fmt: skip
    dispatch_timeout: float = seconds(
        10.0, "--dispatch-timeout", "with --dispatch layer: seconds without a sign of life of a worker, or without "
        "the layer, after which a handshake is answered 503 and a WebSocket closed", low=2,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.dispatch == "layer" and any(url.strip().lower().startswith("memory:") for url in self.urls):
            raise ConfigurationError(MEMORY_DISPATCH)
        if self.routing is not None and not {".", ":"} & set(self.routing):
            raise ConfigurationError(
                f"--routing is {self.routing!r}, which is not MODULE:NAME, for instance project.routing:channel_routing"
            )


@dataclass(frozen=True, eq=False, repr=False)
class WebSocketOptions(Group):
    """What one WebSocket client may do. None is no limit."""

    title: ClassVar[str] = "WebSockets"

    max_size: int = size(
        1 << 20, "--ws-max-size --websocket-max-message-size", "bytes of the largest message taken", low=1,
        gunicorn="websocket_max_message_size",
    )  # fmt: skip
    ping_interval: float | None = seconds(25.0, "--ws-ping-interval", "seconds between pings; 0 for none", zero=None)
    ping_timeout: float | None = seconds(
        20.0, "--ws-ping-timeout", "seconds of silence after a ping that end a WebSocket", zero=None
    )
    close_timeout: float = seconds(
        10.0, "--ws-close-timeout", "seconds that a WebSocket's closing handshake may take, on either side", low=0.1
    )
    queue: int = whole(32, "--ws-queue", "messages waiting for one connection's consumers before reading stops", low=1)
    send_buffer: int = size(1 << 20, "--ws-send-buffer", "unsent bytes one slow client may hold", low=1)
    overflow: str = choice(
        "close", "--ws-overflow", "policy for clients past that: close (1013), drop-oldest or drop-newest messages",
        ("close", "drop-oldest", "drop-newest"), metavar="POLICY",
    )  # fmt: skip
    compression: str = choice(
        "auto", "--ws-compression", "auto: for clients that offer it, keeping nothing between messages; off: never",
        ("auto", "off"), metavar="MODE",
    )  # fmt: skip
    limit_per_ip: int | None = whole(
        None, "--ws-limit-per-ip", "WebSockets that one client address may have in one server process; 0 for no limit",
        zero=None, shown="0",
    )  # fmt: skip
    rate: float | None = declare(
        Number(float, zero=None), None, "--ws-rate",
        "messages a second that one WebSocket may send, or close 1008; 0 for no limit", shown="0.0",
    )  # fmt: skip
    accept: str = choice(
        "implicit", "--accept", "implicit: a connect consumer that returns accepts; explicit: it has to send accept, "
        "and returning without it refuses with 403", ("implicit", "explicit"), metavar="MODE",
    )  # fmt: skip
    handshakes: int | None = whole(
        5000, "--ws-handshakes", "WebSocket handshakes that may be undecided in one server process; 0 for no limit",
        zero=None,
    )  # fmt: skip
    origins: tuple[str, ...] = items(
        (), "--ws-origins", "pages that may open WebSockets, separated by commas: HOST, .HOST with all below it, "
        "HOST:PORT, SCHEME://HOST, null, file://, or * for all; default: pages of the requested host",
        check=_check_origin, metavar="ORIGINS",
    )  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class WorkerOptions(Group):
    """What an ``offload worker`` takes from the layer."""

    title: ClassVar[str] = "channels of a worker"

    alias: str = words(
        "default", "--alias", "the configured layer whose channels a worker serves", metavar="NAME",
        commands=_WORKERS_ALONE,
    )  # fmt: skip
    concurrency: int = whole(
        1, "--concurrency", "messages of one named channel that run at a time in one process; with more than one, "
        "their order is not kept", low=1, commands=_WORKERS_ALONE,
    )  # fmt: skip
    takers: int = whole(
        16, "--takers", "messages of WebSockets that a worker asks the layer for at a time; more where it is far away",
        low=1, commands=_WORKERS_ALONE,
    )  # fmt: skip
    only_channels: tuple[str, ...] = items(
        (), "--only-channels", "globs of the channels that a worker serves; default: all routed", metavar="GLOB",
        commands=_WORKERS_ALONE,
    )  # fmt: skip
    exclude_channels: tuple[str, ...] = items(
        (), "--exclude-channels", "globs of channels that a worker leaves to others", metavar="GLOB",
        commands=_WORKERS_ALONE,
    )  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class LogOptions(Group):
    """The log and the access log."""

    title: ClassVar[str] = "logs"

    level: str = choice(
        "info", "--log-level", "debug, info, warning, error or critical",
        ("debug", "info", "warning", "error", "critical"), synonyms={"warn": "warning", "fatal": "critical"},
        metavar="LEVEL", gunicorn="loglevel", commands=BOTH,
    )  # fmt: skip
    file: str = words(
        "-", "--error-logfile --log-file", "the log; - for stderr", metavar="FILE", gunicorn="errorlog", commands=BOTH
    )
    format: str = choice(
        "text", "--log-format", "text, for people, or json: an object a line", ("text", "json"), metavar="FORMAT",
        commands=BOTH,
    )  # fmt: skip
    config: str | None = words(
        None, "--log-config", "a file for logging.config.fileConfig", metavar="FILE", gunicorn="logconfig",
        commands=BOTH,
    )  # fmt: skip
    config_json: str | None = words(
        None, "--log-config-json", "a JSON file for logging.config.dictConfig", metavar="FILE",
        gunicorn="logconfig_json", commands=BOTH,
    )  # fmt: skip
    config_dict: dict[str, Any] | None = table("logconfig_dict", "a dict for logging.config.dictConfig", commands=BOTH)
    capture_output: bool = switch(
        "--capture-output", "send what the application prints, to stdout and stderr, into --error-logfile",
        commands=BOTH,
    )  # fmt: skip
    syslog: bool = switch("--log-syslog", "send the log to syslog, too", name="syslog", commands=BOTH)
    syslog_to: str = words(
        "udp://localhost:514", "--log-syslog-to", "where syslog is: udp://HOST:PORT, tcp://HOST:PORT, "
        "unix://PATH#dgram or unix://PATH#stream", metavar="ADDRESS", name="syslog_to",
        gunicorn="syslog_addr", commands=BOTH,
    )  # fmt: skip
    syslog_prefix: str | None = words(
        None, "--log-syslog-prefix", "the program's name in syslog", metavar="NAME", name="syslog_prefix", commands=BOTH
    )
    syslog_facility: str = words(
        "user",
        "--log-syslog-facility",
        "the facility in syslog",
        metavar="NAME",
        name="syslog_facility",
        commands=BOTH,
    )
    access_file: str | None = words(
        None, "--access-logfile", "a line for each answer; - for stdout; default: none", metavar="FILE",
        gunicorn="accesslog",
    )  # fmt: skip
    access_format: str = words(
        '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"', "--access-logformat",
        "content of such a line, in gunicorn's atoms; json for JSON", metavar="FORMAT", gunicorn="access_log_format",
    )  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class MetricsOptions(Group):
    """Figures for StatsD."""

    title: ClassVar[str] = "metrics"

    statsd_host: str | None = words(
        None, "--statsd-host", "send figures to StatsD at HOST:PORT or unix://PATH", metavar="ADDRESS", commands=BOTH
    )
    statsd_prefix: str = words(
        "", "--statsd-prefix", "begin the names of figures with this", metavar="PREFIX", commands=BOTH
    )
    dogstatsd_tags: str = words(
        "", "--dogstatsd-tags", "tags of the figures, separated by commas, for DataDog", metavar="TAGS", commands=BOTH
    )


@dataclass(frozen=True, eq=False, repr=False)
class HookOptions(Group):
    """Functions of a configuration file, called at gunicorn's moments with gunicorn's arguments."""

    title: ClassVar[str] = "hooks"

    on_starting: Hooked = hook("on_starting", "server", "before the supervisor binds its sockets", commands=BOTH)
    on_reload: Hooked = hook("on_reload", "server", "a reload (HUP) begins", commands=BOTH)
    when_ready: Hooked = hook("when_ready", "server", "the supervisor has bound its sockets", commands=BOTH)
    pre_fork: Hooked = hook("pre_fork", "server worker", "before a process is forked", commands=BOTH)
    post_fork: Hooked = hook(
        "post_fork", "server worker", "in a new process, before it imports the application", commands=BOTH
    )
    post_worker_init: Hooked = hook(
        "post_worker_init", "worker", "in a process that has imported the application", commands=BOTH
    )
    worker_int: Hooked = hook("worker_int", "worker", "in a process that is told to stop by INT or QUIT", commands=BOTH)
    worker_abort: Hooked = hook(
        "worker_abort", "worker", "in a process that --timeout ends, before it is killed", commands=BOTH
    )
    pre_exec: Hooked = hook("pre_exec", "server", "before a new supervisor is started by USR2", commands=BOTH)
    pre_request: Hooked = hook("pre_request", "worker req", "before the application gets a request")
    post_request: Hooked = hook(
        "post_request", "worker req environ resp", "when a request has been answered", optional=2
    )
    child_exit: Hooked = hook(
        "child_exit", "server worker", "in the supervisor, when a process has ended", commands=BOTH
    )
    worker_exit: Hooked = hook("worker_exit", "server worker", "in a process that ends", commands=BOTH)
    nworkers_changed: Hooked = hook(
        "nworkers_changed", "server new_value old_value", "the number of processes has changed", commands=BOTH
    )
    on_exit: Hooked = hook("on_exit", "server", "before the supervisor ends", commands=BOTH)
    ssl_context: Hooked = hook(
        "ssl_context", "config default_ssl_context_factory", "makes the context of TLS, in place of the options"
    )


@dataclass(frozen=True, eq=False, repr=False)
class Settings:
    """What a server, or a worker, does.

    Attributes:
        app: ``MODULE[:CALLABLE]``.
        sources: by an option's name, where its value was read, for those that somebody set.
    """

    app: str = ""
    listen: ListenOptions = ListenOptions()
    process: ProcessOptions = ProcessOptions()
    replace: ReplaceOptions = ReplaceOptions()
    http: HttpOptions = HttpOptions()
    proxy: ProxyOptions = ProxyOptions()
    tls: TlsOptions = TlsOptions()
    layer: LayerOptions = LayerOptions()
    websocket: WebSocketOptions = WebSocketOptions()
    worker: WorkerOptions = WorkerOptions()
    log: LogOptions = LogOptions()
    metrics: MetricsOptions = MetricsOptions()
    hooks: HookOptions = HookOptions()
    sources: Mapping[str, Source] = field(default_factory=dict)

    @classmethod
    def of(cls, app: str, values: Mapping[str, Any], sources: Mapping[str, Source]) -> Settings:
        """From values by the names of options, each as its kind has read it.

        Raises:
            ConfigurationError: two values do not go together.
        """
        groups: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            option = OPTIONS[name]
            groups.setdefault(option.group, {})[option.field] = value
        made: dict[str, Any] = {name: type(group)(**groups.get(name, {})) for name, group in GROUPS.items()}
        return cls(app=app, sources=sources, **made)

    def value_of(self, name: str) -> Any:
        """The value of an option, by its name."""
        option = OPTIONS[name]
        return getattr(getattr(self, option.group), option.field)


GROUPS: Mapping[str, Group] = {f.name: f.default for f in fields(Settings) if isinstance(f.default, Group)}
"""The groups of a server of which nobody said anything, by their fields in `Settings`."""
OPTIONS = options_of(GROUPS)
"""All options by their names, in the order of their declaration."""

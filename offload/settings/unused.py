"""Gunicorn's settings that are no options here: taken wherever gunicorn takes them, and told of once at the start.

With the options of the same name, or with one of theirs as `Option.gunicorn`, they answer for all of gunicorn's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SPECIAL: Mapping[str, tuple[str, str]] = {
    "config": (
        "-c --config",
        "a Python file, `file:PATH` or `python:MODULE`; default: ./offload.conf.py, else ./gunicorn.conf.py",
    ),
    "wsgi_app": ("", "APP, where the command line names none"),
    "check_config": (
        "--check-config",
        "imports the application, reads settings and routing, says what is wrong, and ends",
    ),
    "print_config": ("--print-config", "the same, and prints every setting with its source"),
}
"""Read before all others, or instead of serving: the flags, and what they do here."""


@dataclass(frozen=True)
class Unused:
    """A setting of gunicorn's without effect here.

    Attributes:
        flags: on gunicorn's command line; none where it is of configuration files alone.
        why: it has no effect, as a clause.
        is_switch: whether the flag takes no value.
        same: values that ask for nothing else than what is done, so that nothing need be said.
    """

    flags: tuple[str, ...]
    why: str
    is_switch: bool
    same: tuple[Any, ...]

    def is_silent(self, value: Any) -> bool:
        """Whether such a value is not worth a word."""
        return value in self.same or str(value) in map(str, self.same)


_HTTP2 = "offload speaks HTTP/1.1 and WebSockets"
_ASGI = "it is for ASGI applications"
_DIRTY = "there are no dirty arbiters; `offload worker` runs what takes long"
_CONTROL = "there is no control socket; signals are the control"
_STRICT = "such requests are refused: proxies and servers must not differ on where one ends"


def _unused(flags: str, why: str, *, is_switch: bool = False, same: tuple[Any, ...] = ()) -> Unused:
    return Unused(tuple(flags.split()), why, is_switch, same)


UNUSED: Mapping[str, Unused] = {
    "worker_class": _unused(
        "-k --worker-class",
        "requests run in greenlets, as under gunicorn's gevent workers",
        same=(
            "gevent",
            "gunicorn.workers.ggevent.GeventWorker",
            "geventwebsocket.gunicorn.workers.GeventWebSocketWorker",
            "offload.integrations.gunicorn.Worker",
        ),
    ),
    "threads": _unused(
        "--threads", "requests run in greenlets, up to --pool-size of them in each process", same=(1,)
    ),
    "reload_engine": _unused("--reload-engine", "watchfiles watches, by the system's own means", same=("auto",)),
    "spew": _unused("--spew", "no line of code is traced", is_switch=True, same=(False,)),
    "sendfile": _unused(
        "--no-sendfile", "files are sent by the kernel where it can, and read where it cannot", is_switch=True,
        same=(None, True),
    ),
    "daemon": _unused(
        "-D --daemon", "it stays in the foreground, for systemd, a container or the shell's &", is_switch=True,
        same=(False,),
    ),
    "worker_tmp_dir": _unused("--worker-tmp-dir", "heartbeats are in memory", same=(None, "/dev/shm")),
    "tmp_upload_dir": _unused("", "files of large chunked bodies are where the variable TMPDIR says", same=(None,)),
    "disable_redirect_access_to_syslog": _unused(
        "--disable-redirect-access-to-syslog", "the access log goes where --access-logfile says, never to syslog",
        is_switch=True, same=(False, True),
    ),
    "logger_class": _unused(
        "--logger-class", "loggers are Python's own, called offload.*; logconfig_dict gives them filters and handlers",
        same=("gunicorn.glogging.Logger",),
    ),
    "enable_stdio_inheritance": _unused(
        "-R --enable-stdio-inheritance", "stdin, stdout and stderr are always inherited", is_switch=True,
        same=(False, True),
    ),
    "enable_backlog_metric": _unused(
        "--enable-backlog-metric", "ss -ltn shows the backlog", is_switch=True, same=(False,)
    ),
    "default_proc_name": _unused("", "--name names the processes", same=("gunicorn",)),
    "paste": _unused(
        "--paster --paste", "PasteDeploy's files are not read; write application = loadapp(...) into a module",
        same=(None,),
    ),
    "raw_paste_global_conf": _unused("--paste-global", "PasteDeploy's files are not read", same=([],)),
    "protocol": _unused(
        "--protocol", "offload speaks HTTP; in nginx, write proxy_pass for uwsgi_pass", same=("http",)
    ),
    "uwsgi_allow_ips": _unused("--uwsgi-allow-from", "offload speaks HTTP", same=("127.0.0.1,::1",)),
    "ssl_version": _unused(
        "--ssl-version", "TLS 1.2 and 1.3 are served, whatever it says",
        same=("TLS", "TLSv1_2", "TLS_SERVER", 2, 5, 17),
    ),
    "suppress_ragged_eofs": _unused(
        "--suppress-ragged-eofs", "an end without TLS's goodbye is an end", is_switch=True, same=(True, False)
    ),
    "do_handshake_on_connect": _unused(
        "--do-handshake-on-connect", "handshakes hold up nobody else, and --tls-handshake-timeout ends them",
        is_switch=True, same=(False, True),
    ),
    "http_protocols": _unused("--http-protocols", _HTTP2, same=("h1",)),
    "http2_cleartext": _unused("--http2-cleartext", _HTTP2, same=("off", False)),
    "http2_max_concurrent_streams": _unused("--http2-max-concurrent-streams", _HTTP2, same=(100,)),
    "http2_initial_window_size": _unused("--http2-initial-window-size", _HTTP2, same=(65535,)),
    "http2_max_frame_size": _unused("--http2-max-frame-size", _HTTP2, same=(16384,)),
    "http2_max_header_list_size": _unused("--http2-max-header-list-size", _HTTP2, same=(65536,)),
    "permit_obsolete_folding": _unused("--permit-obsolete-folding", _STRICT, is_switch=True, same=(False,)),
    # Of gunicorn 22 alone.
    "tolerate_dangerous_framing": _unused("--tolerate-dangerous-framing", _STRICT, is_switch=True, same=(False,)),
    "strip_header_spaces": _unused("--strip-header-spaces", _STRICT, is_switch=True, same=(False,)),
    "permit_unconventional_http_method": _unused(
        "--permit-unconventional-http-method", "every method that is a token of RFC 9110 is served", is_switch=True,
        same=(False, True),
    ),
    "permit_unconventional_http_version": _unused(
        "--permit-unconventional-http-version", "HTTP/1.0 and HTTP/1.1 are served", is_switch=True, same=(False,)
    ),
    "casefold_http_method": _unused(
        "--casefold-http-method", "methods are told to the application as they were sent", is_switch=True, same=(False,)
    ),
    "header_map": _unused(
        "--header-map", "names with underscores are dropped, unless --forwarder-headers names them", same=("drop",)
    ),
    "http_parser": _unused("--http-parser", "llhttp reads requests, under stricter rules", same=("auto", "fast")),
    "asgi_loop": _unused("--asgi-loop", _ASGI, same=("auto",)),
    "asgi_lifespan": _unused("--asgi-lifespan", _ASGI, same=("auto", "off")),
    "asgi_disconnect_grace_period": _unused("--asgi-disconnect-grace-period", _ASGI, same=(3,)),
    "root_path": _unused(
        "--root-path", "it is for ASGI applications; the variable SCRIPT_NAME mounts a WSGI application", same=("",)
    ),
    "dirty_apps": _unused("--dirty-app", _DIRTY, same=([],)),
    "dirty_workers": _unused("--dirty-workers", _DIRTY, same=(0,)),
    "dirty_timeout": _unused("--dirty-timeout", _DIRTY, same=(300,)),
    "dirty_threads": _unused("--dirty-threads", _DIRTY, same=(1,)),
    "dirty_graceful_timeout": _unused("--dirty-graceful-timeout", _DIRTY, same=(30,)),
    "on_dirty_starting": _unused("", _DIRTY),
    "dirty_post_fork": _unused("", _DIRTY),
    "dirty_worker_init": _unused("", _DIRTY),
    "dirty_worker_exit": _unused("", _DIRTY),
    "control_socket": _unused("--control-socket", _CONTROL),
    "control_socket_mode": _unused("--control-socket-mode", _CONTROL, same=(0o600,)),
    "control_socket_disable": _unused("--no-control-socket", _CONTROL, is_switch=True, same=(True, False)),
}  # fmt: skip
"""Those without effect, by their names in gunicorn's configuration files."""

"""Logging as operators configure it: syslog, and dicts and files for ``logging.config``, as gunicorn reads them.

Configurations name gunicorn's loggers. What they say of ``gunicorn.error`` holds for ``offload``, and what they say of
``gunicorn.access`` for ``offload.access``, which then gets the lines of the access log.

What this needs of the standard library is imported where it is used: few servers configure logging, and all start here.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from offload.exceptions import ConfigurationError
from offload.settings import LogOptions

SERVER_LOGGER = "offload"
ACCESS_LOGGER = "offload.access"
_OURS = {"gunicorn.error": SERVER_LOGGER, "gunicorn.access": ACCESS_LOGGER}
FORMAT = "%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
DATE_FORMAT = "[%Y-%m-%d %H:%M:%S %z]"
DEFAULTS: Mapping[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"generic": {"format": FORMAT, "datefmt": DATE_FORMAT}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "generic", "stream": "ext://sys.stdout"},
        "error_console": {"class": "logging.StreamHandler", "formatter": "generic", "stream": "ext://sys.stderr"},
    },
}
"""What a dict may leave out, or refer to, as with gunicorn."""
DEFAULT_PORT = 514


def configure(options: LogOptions) -> None:
    """Do what a dict, a JSON file or a file of ``logging.config`` says, in this order of preference.

    Raises:
        ConfigurationError: it cannot be read, or says what cannot be.
    """
    if not (options.config_dict or options.config_json or options.config):
        return
    import logging.config

    if options.config_dict:
        _adopting("logconfig_dict", lambda: logging.config.dictConfig({**DEFAULTS, **(options.config_dict or {})}))
    elif options.config_json is not None:
        path = options.config_json
        _adopting(path, lambda: logging.config.dictConfig({**DEFAULTS, **_json_of(path)}))
    elif options.config is not None:
        path = options.config
        names = {"__file__": path, "here": os.path.dirname(path)}
        _adopting(path, lambda: logging.config.fileConfig(path, names, disable_existing_loggers=False))


def _json_of(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    if not isinstance(document, dict):
        raise ValueError("it is not an object")
    return document


def _adopting(name: str, configuring: Callable[[], None]) -> None:
    """Configure, and have our loggers be what gunicorn's became."""
    import configparser

    markers = {}
    for theirs in _OURS:
        markers[theirs] = logging.NullHandler()
        logging.getLogger(theirs).addHandler(markers[theirs])
    try:
        configuring()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, configparser.Error) as error:
        why = f"{error}: {error.__cause__}" if error.__cause__ is not None else str(error)
        raise ConfigurationError(f"the configuration of logging {name!r} cannot be used: {why}") from error
    for theirs, ours in _OURS.items():
        logger, own = logging.getLogger(theirs), logging.getLogger(ours)
        if markers[theirs] in logger.handlers:
            # It is not named: then its marker is still there.
            logger.removeHandler(markers[theirs])
            continue
        own.handlers = [*logger.handlers, *(logging.root.handlers if logger.propagate else ())]
        own.propagate = False
        if logger.level:
            own.setLevel(logger.level)


def takes_access_lines() -> bool:
    """Whether the access log is lines of a logger."""
    return bool(logging.getLogger(ACCESS_LOGGER).handlers)


def log_access(line: str) -> None:
    """Have a line of the access log written by its logger."""
    logging.getLogger(ACCESS_LOGGER).info("%s", line.rstrip("\n"))


def syslog_handler(options: LogOptions) -> logging.Handler:
    """A handler for syslog.

    Raises:
        ConfigurationError: its address or facility cannot be, or nobody is there.
    """
    from logging.handlers import SysLogHandler

    class Syslog(SysLogHandler):
        def close(self) -> None:
            """An application's own configuration closes all handlers that there are; this one goes on."""

    facility = SysLogHandler.facility_names.get(options.syslog_facility.lower())
    if facility is None:
        known = ", ".join(sorted(SysLogHandler.facility_names))
        raise ConfigurationError(
            f"--log-syslog-facility is {options.syslog_facility!r}, which is no facility; choose one of {known}"
        )
    kind, address = _address_of(options.syslog_to)
    try:
        handler = Syslog(address, facility, kind)
    except OSError as error:
        raise ConfigurationError(f"cannot reach syslog at {options.syslog_to}: {error.strerror or error}") from error
    name = options.syslog_prefix or "offload"
    handler.setFormatter(logging.Formatter(f"{name.replace('%', '%%')}: [%(process)d] %(message)s"))
    return handler


def _address_of(text: str) -> tuple[socket.SocketKind | None, str | tuple[str, int]]:
    try:
        parts = urlsplit(text)
        if parts.scheme == "unix":
            kinds = {"dgram": socket.SOCK_DGRAM, "stream": socket.SOCK_STREAM, "": None}
            return kinds[parts.fragment], parts.netloc + parts.path
        kind = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}[parts.scheme]
        return kind, (parts.hostname or "localhost", parts.port or DEFAULT_PORT)
    except (KeyError, ValueError):
        raise ConfigurationError(
            f"--log-syslog-to is {text!r}, which is not udp://HOST:PORT, tcp://HOST:PORT, unix://PATH#dgram or "
            "unix://PATH#stream"
        ) from None

"""Where a Redis server is, and how to be let in: what the layer is given, checked, and what may be shown of it.

Knows no sockets. Complaints and `RedisAddress.shown` never hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from offload.exceptions import ConfigurationError

_CREDENTIALS = re.compile(r"//[^/?#\s]*@")
_DEFAULT_PORT = 6379


@dataclass(frozen=True)
class RedisAddress:
    """One server.

    Attributes:
        shown: the address for logs and errors.
        path: of its Unix socket; None for TCP.
        username: None: Redis's default user.
    """

    shown: str
    host: str = ""
    port: int = _DEFAULT_PORT
    path: str | None = None
    database: int = 0
    tls: bool = False
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


def parse_hosts(hosts: Any, database: int | None = None) -> list[RedisAddress]:
    """The layer's `hosts` argument: a URL, a pair of host and port, or a list of those.

    Args:
        database: for addresses that name none.

    Raises:
        ConfigurationError: one sentence.
    """
    if isinstance(hosts, str) or _is_pair(hosts):
        hosts = [hosts]
    if not isinstance(hosts, Sequence) or not hosts:
        raise ConfigurationError(f"layer 'redis' has hosts={hosts!r}; it takes a list such as ['redis://host:6379/0']")
    return [_parse(host, database) for host in hosts]


def _is_pair(host: Any) -> bool:
    return (
        isinstance(host, Sequence)
        and len(host) == 2
        and isinstance(host[0], str)
        and isinstance(host[1], int)
        and not isinstance(host[1], bool)
    )


def _parse(host: Any, database: int | None) -> RedisAddress:
    if _is_pair(host):
        return _tcp(host[0], host[1], database or 0)
    if not isinstance(host, str):
        raise ConfigurationError(
            f"layer 'redis' has the host {host!r}; a host is a URL such as 'redis://host:6379/0',"
            " or a pair such as ('host', 6379)"
        )
    shown = repr(_CREDENTIALS.sub("//***@", host.partition("?")[0]))
    parts = urlsplit(host)
    if parts.query or parts.fragment:
        raise ConfigurationError(f"layer address {shown} has settings in its query; here they are keyword arguments")
    username = unquote(parts.username) if parts.username else None
    password = None if parts.password is None else unquote(parts.password)
    if parts.scheme in ("redis+unix", "unix"):
        path = unquote(parts.path)
        if not path.strip("/"):
            raise ConfigurationError(
                f"layer address {shown} has no socket path; it looks like 'redis+unix:///path/to.sock'"
            )
        return RedisAddress(
            f"redis+unix://{path}", path=path, database=database or 0, username=username, password=password
        )
    if parts.scheme not in ("redis", "rediss"):
        raise ConfigurationError(f"layer address {shown} is none of 'redis://', 'rediss://' and 'redis+unix://'")
    try:
        name, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"layer address {shown} has a wrong port") from None
    if not name:
        raise ConfigurationError(f"layer address {shown} names no host; it looks like 'redis://host:6379/0'")
    number = parts.path.strip("/")
    if number and not number.isdecimal():
        raise ConfigurationError(f"layer address {shown} has the database {number!r}, not a number")
    return _tcp(
        unquote(name),
        _DEFAULT_PORT if port is None else port,
        int(number) if number else database or 0,
        parts.scheme == "rediss",
        username,
        password,
    )


def _tcp(
    host: str, port: int, database: int, tls: bool = False, username: str | None = None, password: str | None = None
) -> RedisAddress:
    named = f"[{host}]" if ":" in host else host
    shown = f"redis{'s' if tls else ''}://{named}:{port}/{database}"
    return RedisAddress(shown, host, port, None, database, tls, username, password)

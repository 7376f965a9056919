"""Where a Redis server is, and how to be let in: what the layer is given, checked, and what may be shown of it.

redis-py reads the URLs; what it would pass over in silence is complained of here. Knows no sockets. Complaints and
`RedisAddress.shown` never hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from offload.exceptions import ConfigurationError

try:
    from redis.connection import parse_url
except ModuleNotFoundError:
    raise ConfigurationError(
        "layer 'redis' needs the redis package; run: pip install 'django-offload[redis]'"
    ) from None

_CREDENTIALS = re.compile(r"//[^/?#\s]*@")
_DEFAULT_PORT = 6379


@dataclass(frozen=True)
class RedisAddress:
    """One server.

    Attributes:
        shown: the address for logs and errors.
        arguments: redis-py's, with the user and the password.
    """

    shown: str
    arguments: Mapping[str, Any] = field(repr=False)


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
    return [_parse(host, database or 0) for host in hosts]


def _is_pair(host: Any) -> bool:
    return (
        isinstance(host, Sequence)
        and len(host) == 2
        and isinstance(host[0], str)
        and isinstance(host[1], int)
        and not isinstance(host[1], bool)
    )


def _parse(host: Any, database: int) -> RedisAddress:
    if _is_pair(host):
        return _address("redis", {"host": host[0], "port": host[1]}, database)
    if not isinstance(host, str):
        raise ConfigurationError(
            f"layer 'redis' has the host {host!r}; a host is a URL such as 'redis://host:6379/0',"
            " or a pair such as ('host', 6379)"
        )
    shown = repr(_CREDENTIALS.sub("//***@", host.partition("?")[0]))
    parts = urlsplit(host)
    if parts.query or parts.fragment:
        raise ConfigurationError(f"layer address {shown} has settings in its query; here they are keyword arguments")
    if parts.scheme not in ("redis", "rediss", "redis+unix"):
        raise ConfigurationError(f"layer address {shown} is none of 'redis://', 'rediss://' and 'redis+unix://'")
    try:
        arguments = parse_url(host.removeprefix("redis+"))  # type: ignore[no-untyped-call]
    except ValueError:
        raise ConfigurationError(f"layer address {shown} has a wrong port") from None
    if parts.scheme == "redis+unix":
        if not parts.path.strip("/"):
            raise ConfigurationError(
                f"layer address {shown} has no socket path; it looks like 'redis+unix:///path/to.sock'"
            )
    elif "host" not in arguments:
        raise ConfigurationError(f"layer address {shown} names no host; it looks like 'redis://host:6379/0'")
    number = parts.path.strip("/")
    if "path" not in arguments and number and not number.isdecimal():
        raise ConfigurationError(f"layer address {shown} has the database {number!r}, not a number")
    return _address(parts.scheme, arguments, database)


def _address(scheme: str, arguments: dict[str, Any], database: int) -> RedisAddress:
    arguments = {"db": database, **arguments}
    if "path" in arguments:
        return RedisAddress(f"redis+unix://{arguments['path']}", arguments)
    arguments.setdefault("port", _DEFAULT_PORT)
    host = f"[{arguments['host']}]" if ":" in arguments["host"] else arguments["host"]
    return RedisAddress(f"{scheme}://{host}:{arguments['port']}/{arguments['db']}", arguments)

"""Where a Redis server is, and how to be let in: what the layer is given, checked, and what may be shown of it.

redis-py reads the URLs; what it would pass over in silence is complained of here. Knows no sockets. Complaints and
`RedisAddress.shown` never hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from offload.exceptions import ConfigurationError
from offload.layers.addresses.schemes import SCHEMES, parts_of, shown, shown_value, unreadable

try:
    import hiredis  # noqa: F401 - comes with that extra, too
    from redis.connection import parse_url
except ModuleNotFoundError:
    raise ConfigurationError(
        "layer 'redis' needs the redis package; run: pip install 'django-offload[redis]'"
    ) from None

_NO_HOST = re.compile(r"[@/?#\s]|\A\Z")
_DEFAULT_PORT = 6379
_SENTINEL_PORT = 26379
_SENTINEL = ("redis+sentinel", "rediss+sentinel")
_CLUSTER = ("redis+cluster", "rediss+cluster")


@dataclass(frozen=True)
class RedisAddress:
    """One server.

    Attributes:
        shown: the address for logs and errors.
        arguments: redis-py's, with the user and the password.
        service: the name by which Sentinel knows the master; then the `sentinels` are hosts and ports.
        sentinels: see `service`.
        nodes: hosts and ports of nodes of a cluster; then `arguments` are for all of its nodes.
        encrypted: whether it is spoken to over TLS.
    """

    shown: str
    arguments: Mapping[str, Any] = field(repr=False)
    service: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()
    nodes: tuple[tuple[str, int], ...] = ()
    encrypted: bool = False


def parse_hosts(hosts: Any, database: int | None = None) -> list[RedisAddress]:
    """The layer's `hosts` argument: a URL, a pair of host and port, or a list of those.

    Args:
        database: for addresses that name none.

    Raises:
        ConfigurationError: one sentence.
    """
    if isinstance(hosts, str) or _is_pair(hosts):
        hosts = [hosts]
    if isinstance(hosts, (bytes, bytearray)) or not isinstance(hosts, Sequence) or not hosts:
        raise ConfigurationError(
            f"layer 'redis' has hosts={shown_value(hosts)}; it takes a list such as ['redis://host:6379/0']"
        )
    addresses = [_parse(host, database or 0) for host in hosts]
    names = [address.shown for address in addresses]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"layer 'redis' has a host twice in {', '.join(names)}; each shard is named once")
    if len(addresses) > 1 and any(address.nodes for address in addresses):
        raise ConfigurationError(f"layer 'redis' has other hosts beside a cluster: {', '.join(names)}")
    return addresses


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
        if _NO_HOST.search(host[0]) or not 0 < host[1] < 65_536:
            raise ConfigurationError("layer 'redis' has a wrong pair of host and port; one looks like ('host', 6379)")
        return _address("redis", {"host": host[0], "port": host[1]}, database)
    if not isinstance(host, str):
        raise ConfigurationError(
            f"layer 'redis' has the host {shown_value(host)}; a host is a URL such as 'redis://host:6379/0',"
            " or a pair such as ('host', 6379)"
        )
    name = repr(shown(host))
    parts = parts_of(host)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    service = query.pop("service", "")
    if query or (service and parts.scheme not in _SENTINEL):
        raise ConfigurationError(f"layer address {name} has settings in its query; here they are keyword arguments")
    if SCHEMES.get(parts.scheme) != "redis":
        known = ", ".join(f"'{scheme}://'" for scheme, kind in SCHEMES.items() if kind == "redis")
        raise ConfigurationError(f"layer address {name} is none of {known}")
    if parts.scheme == "redis+unix":
        if not parts.path.strip("/"):
            raise ConfigurationError(
                f"layer address {name} has no socket path; it looks like 'redis+unix:///path/to.sock'"
            )
        return _address("unix", _arguments(f"unix://{_user(parts)}{parts.path}", host), database)
    several = parts.scheme in (*_SENTINEL, *_CLUSTER)
    default_port = _SENTINEL_PORT if parts.scheme in _SENTINEL else _DEFAULT_PORT
    hosts = [_host(item, name, default_port) for item in parts.netloc.rpartition("@")[2].split(",")]
    if len(hosts) > 1 and not several:
        raise ConfigurationError(
            f"layer address {name} names several hosts; several shards are written"
            " 'redis://h1:6379/0,redis://h2:6379/0', a cluster 'redis+cluster://h1,h2'"
        )
    number = parts.path.strip("/")
    if number and not number.isdecimal():
        what = f"the database {number!r}, not a number" if number in name else "a database that is not a number"
        raise ConfigurationError(f"layer address {name} has {what}")
    scheme = parts.scheme.partition("+")[0]
    arguments = _arguments(f"{scheme}://{_user(parts)}host:{default_port}/{number}", host)
    if not several:
        arguments["host"], arguments["port"] = hosts[0]
        return _address(scheme, arguments, database)
    del arguments["host"], arguments["port"]
    arguments = {"db": database, **arguments}
    name = f"{parts.scheme}://{','.join(_named(*item) for item in hosts)}"
    if parts.scheme in _CLUSTER:
        if arguments["db"]:
            raise ConfigurationError(f"layer address {name!r} is a cluster, which has database 0 only")
        return RedisAddress(name, arguments, nodes=tuple(hosts), encrypted=scheme == "rediss")
    if not service:
        raise ConfigurationError(
            f"layer address {name!r} names no service; add '?service=NAME', as Sentinel knows the master"
        )
    return RedisAddress(
        f"{name}/{arguments['db']}?service={service}",
        arguments,
        service=service,
        sentinels=tuple(hosts),
        encrypted=scheme == "rediss",
    )


def _arguments(url: str, host: str) -> dict[str, Any]:
    try:
        arguments: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:
        raise unreadable(host) from None
    return arguments


def _user(parts: SplitResult) -> str:
    user, at, _ = parts.netloc.rpartition("@")
    return user + at


def _host(item: str, name: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{item}")
        host, port = parts.hostname, parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ConfigurationError(
            f"layer address {name} has a wrong host or port{f' in {item!r}' if item in name else ''}"
        )
    if not host:
        raise ConfigurationError(f"layer address {name} names no host; it looks like 'redis://host:6379/0'")
    return unquote(host), default_port if port is None else port


def _named(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(scheme: str, arguments: dict[str, Any], database: int) -> RedisAddress:
    arguments = {"db": database, **arguments}
    if "path" in arguments:
        return RedisAddress(f"redis+unix://{arguments['path']}", arguments)
    name = f"{scheme}://{_named(arguments['host'], arguments['port'])}/{arguments['db']}"
    return RedisAddress(name, arguments, encrypted=scheme == "rediss")

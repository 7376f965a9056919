"""Layer addresses as text: their schemes, where one ends and the next begins, and what may be shown of one.

Knows no layer. An address may hold a password, and a password that was not quoted may hold whatever ends a password:
what is shown leaves out all that it may have spread to.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from offload.exceptions import ConfigurationError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

SCHEMES = {
    "memory": "memory",
    "ipc": "ipc",
    "redis": "redis",
    "rediss": "redis",
    "redis+unix": "redis",
    "redis+sentinel": "redis",
    "redis+cluster": "redis",
    "rediss+sentinel": "redis",
    "rediss+cluster": "redis",
}
ENTRY_POINTS = "offload.layers"
"""The group in which an installed package names its layers: the scheme of their addresses, and the class."""
SECRET_SETTINGS = ("encryption_keys", "sentinel_password")

# Commas also stand between hosts, and in passwords.
_BETWEEN_ADDRESSES = re.compile(rf"\s*,\s*(?=(?:{'|'.join(map(re.escape, SCHEMES))}):/)", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):/{0,2}")
_BEHIND_THE_PATH = re.compile("[?#]")


def installed_layers() -> dict[str, EntryPoint]:
    """The layers of other packages, by the scheme of their addresses; one of ours stays ours."""
    # A quarter of the time that an import of offload takes, and of use where an address is of none of our schemes.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS) if point.name not in SCHEMES}


def is_known(scheme: str) -> bool:
    return scheme in SCHEMES or scheme in installed_layers()


def split_addresses(text: str) -> list[str]:
    """The addresses in a text, which has commas between them.

    Raises:
        ConfigurationError: a comma may be one of a password.
    """
    addresses = _BETWEEN_ADDRESSES.split(text.strip())
    with_user = ["@" in address for address in addresses]
    if with_user != sorted(with_user, reverse=True):
        raise ConfigurationError(
            f"layer addresses {shown(text)!r} have a password for a later one only; write a comma in a password as %2C,"
            " or give the addresses as a list"
        )
    return addresses


def shown(address: str) -> str:
    """What complaints may show of an address: its scheme and where it leads, without user, password and query."""
    credentials, at, place = address.rpartition("@")
    if not at:
        return _BEHIND_THE_PATH.split(address)[0]
    scheme = _SCHEME.match(address)
    start = scheme[0] if scheme is not None and is_known(scheme[1].lower()) else ""
    if _BEHIND_THE_PATH.search(credentials):
        # The last "@" may be one of a password in the query.
        return f"{start}***"
    return f"{start}***@{_BEHIND_THE_PATH.split(place)[0]}"


def shown_value(value: object) -> str:
    """What complaints may show of a value that should be something else, and may hold addresses."""
    if isinstance(value, str):
        return repr(shown(value))
    return repr(value) if not value or isinstance(value, (int, float)) else f"<{type(value).__name__}>"


def may_have_secrets(address: str) -> bool:
    """Whether the query may have secrets, or the end of a password with a "?" in it."""
    _, _, query = address.partition("?")
    return "@" in query or any(name in query for name in SECRET_SETTINGS)


def parts_of(address: str) -> SplitResult:
    """The address, read.

    Raises:
        ConfigurationError: it cannot be read, or not as it was meant.
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        parts = None
    if parts is None or "#" in address or ("@" in parts.path and SCHEMES.get(parts.scheme) == "redis"):
        raise unreadable(address)
    return parts


def unreadable(address: str) -> ConfigurationError:
    """The complaint about an address that cannot be read."""
    # Its parser's own complaint may show the password.
    return ConfigurationError(
        f"layer address {shown(address)!r} cannot be read; in a user, a password and a path, write '/' as %2F,"
        " '?' as %3F, '#' as %23, '@' as %40, and '[' as %5B"
    )

"""How the layer is let in beyond what an address says: certificates, and the Sentinels' own user; as redis-py wants it.

Knows no sockets, and of files whether they can be read. Complaints never hold a password.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from offload.exceptions import ConfigurationError
from offload.layers.redis.address import RedisAddress

# The last two as Celery writes them.
_VERIFICATIONS = {"required": "required", "none": "none", "CERT_REQUIRED": "required", "CERT_NONE": "none"}
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def verification(text: str) -> str:
    """``ssl_cert_reqs`` from an address. Raises ``ValueError``."""
    try:
        return _VERIFICATIONS[text]
    except KeyError:
        raise ValueError("it must be 'required' or 'none'") from None


class Access:
    """
    Args:
        given: ``ssl_cert_reqs`` (``required`` or ``none``; then the certificate is not looked at), ``ssl_ca_certs``,
            ``ssl_certfile``, ``ssl_keyfile`` (files in PEM), ``ssl_check_hostname`` (whether the certificate must name
            the host), ``sentinel_ssl`` (whether Sentinels are spoken to over TLS; by default as the master is),
            ``sentinel_username``, ``sentinel_password``; None is as if it were not given.

    Attributes:
        tls: redis-py's arguments for TLS.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = {name: value for name, value in given.items() if value is not None}
        cert_reqs = self._given.get("ssl_cert_reqs", "required")
        try:
            verified = verification(cert_reqs)
        except ValueError as error:
            raise ConfigurationError(f"layer setting ssl_cert_reqs={cert_reqs!r} is wrong: {error}") from None
        self.tls: Mapping[str, Any] = {
            **{name: given.get(name) for name in _FILES},
            "ssl_cert_reqs": verified,
            "ssl_check_hostname": verified == "required" and self._given.get("ssl_check_hostname") is not False,
        }

    def check(self, addresses: Iterable[RedisAddress]) -> None:
        """Refuse what these addresses would leave unused: who names certificates must not go without TLS.

        Raises:
            ConfigurationError: one sentence.
        """
        addresses = list(addresses)
        shown = ", ".join(address.shown for address in addresses)
        watched = any(address.service for address in addresses)
        encrypted = any(address.encrypted for address in addresses) or (
            watched and bool(self._given.get("sentinel_ssl"))
        )
        for name, value in self._given.items():
            if name.startswith("sentinel_") and not watched:
                raise ConfigurationError(f"layer setting {name!r} is for addresses with Sentinels, not for {shown}")
            if name.startswith("ssl_") and not encrypted:
                raise ConfigurationError(
                    f"layer setting {name!r} is for TLS, which {shown} does not use; write 'rediss' for 'redis'"
                )
            if name in _FILES:
                _check_file(name, value)

    def to_sentinels(self, encrypted: bool) -> dict[str, Any]:
        """redis-py's arguments for connections to the Sentinels.

        Args:
            encrypted: whether the master is spoken to over TLS.
        """
        names = ("username", "password")
        arguments: dict[str, Any] = {name: self._given.get(f"sentinel_{name}") for name in names}
        if self._given.get("sentinel_ssl", encrypted):
            arguments.update(ssl=True, **self.tls)
        return arguments


def _check_file(name: str, value: Any) -> None:
    try:
        with open(os.fspath(value), "rb"):
            pass
    except (OSError, TypeError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ConfigurationError(
            f"layer setting {name}={value!r} cannot be read: {reason[:1].lower()}{reason[1:]}"
        ) from None

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
        cert_reqs: ``required`` or ``none``; then the certificate is not looked at.
        ca_certs, certfile, keyfile, check_hostname: files in PEM; whether the certificate must name the host.
        sentinel_ssl: whether Sentinels are spoken to over TLS; by default as the master is.
        sentinel_username, sentinel_password: for the Sentinels.

    Attributes:
        tls: redis-py's arguments for TLS.
    """

    def __init__(
        self,
        *,
        cert_reqs: str | None,
        ca_certs: str | None,
        certfile: str | None,
        keyfile: str | None,
        check_hostname: bool | None,
        sentinel_ssl: bool | None,
        sentinel_username: str | None,
        sentinel_password: str | None,
    ) -> None:
        try:
            verified = verification("required" if cert_reqs is None else cert_reqs)
        except ValueError as error:
            raise ConfigurationError(f"layer setting ssl_cert_reqs={cert_reqs!r} is wrong: {error}") from None
        self.tls: Mapping[str, Any] = {
            "ssl_cert_reqs": verified,
            "ssl_ca_certs": ca_certs,
            "ssl_certfile": certfile,
            "ssl_keyfile": keyfile,
            "ssl_check_hostname": verified == "required" and check_hostname is not False,
        }
        self._sentinel_ssl = sentinel_ssl
        self._sentinel = {"username": sentinel_username, "password": sentinel_password}
        self._given = {
            "ssl_cert_reqs": cert_reqs,
            "ssl_ca_certs": ca_certs,
            "ssl_certfile": certfile,
            "ssl_keyfile": keyfile,
            "ssl_check_hostname": check_hostname,
            "sentinel_ssl": sentinel_ssl,
            "sentinel_username": sentinel_username,
            "sentinel_password": sentinel_password,
        }

    def check(self, addresses: Iterable[RedisAddress]) -> None:
        """Refuse what these addresses would leave unused: who names certificates must not go without TLS.

        Raises:
            ConfigurationError: one sentence.
        """
        addresses = list(addresses)
        shown = ", ".join(address.shown for address in addresses)
        watched = any(address.service for address in addresses)
        encrypted = any(address.encrypted for address in addresses) or (watched and bool(self._sentinel_ssl))
        for name, value in self._given.items():
            if value is None:
                continue
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
        arguments: dict[str, Any] = dict(self._sentinel)
        if encrypted if self._sentinel_ssl is None else self._sentinel_ssl:
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

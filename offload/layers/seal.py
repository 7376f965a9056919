"""Sealing encoded messages: who can read a layer's server cannot read them, and who can write to it cannot make any.

Fernet (AES-128-CBC and HMAC-SHA-256) of the cryptography package, with keys derived from the setting's texts. Knows no
layer and no encoding. Names of channels and groups are not sealed, nor is a message bound to them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from offload.exceptions import ConfigurationError

_PURPOSE = b"offload layer messages 1"


class Seal:
    """Seals with the first key, and opens what was sealed with any.

    Args:
        keys: texts that cannot be guessed, the newest first.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet
        except ModuleNotFoundError:
            raise ConfigurationError(
                "layer setting encryption_keys needs the cryptography package;"
                " run: pip install 'django-offload[encryption]'"
            ) from None
        self._invalid = InvalidToken
        self._fernet = MultiFernet([Fernet(_derived(key)) for key in keys])

    @staticmethod
    def sealed_size(size: int) -> int:
        """How many bytes so many are when they are sealed."""
        # Fernet: version, time and vector; whole cipher blocks, with padding; the digest. All in base 64.
        return 4 * -((1 + 8 + 16 + 16 * (size // 16 + 1) + 32) // -3)

    def close(self, data: bytes) -> bytes:
        return self._fernet.encrypt(data)

    def open(self, sealed: bytes) -> bytes | None:
        """None for what none of the keys has sealed."""
        try:
            return self._fernet.decrypt(sealed)
        except self._invalid:
            return None


def _derived(key: str) -> bytes:
    """For Fernet alone: the text may be used for other things, as Django's ``SECRET_KEY`` is."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return base64.urlsafe_b64encode(HKDF(hashes.SHA256(), 32, salt=None, info=_PURPOSE).derive(key.encode()))

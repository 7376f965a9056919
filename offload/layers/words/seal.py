"""Sealing encoded messages: who can read a layer's server cannot read them, and who can write to it cannot make any.

Fernet (AES-128-CBC and HMAC-SHA-256) of the cryptography package, with keys derived from the setting's texts. What is
sealed says what it is for, and opens for nothing else: a byte for the kind, and the name's 16-byte BLAKE2b hash, before
the message. One exception: what was sent to a group opens for any queue, which may be a member. Knows no layer and no
encoding. Names of channels and groups are not sealed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from hashlib import blake2b

from offload.exceptions import ConfigurationError

QUEUE, CHANNEL, GROUP, SESSION, PROCESS = b"q", b"c", b"g", b"s", b"p"
"""What something is sealed for: a named channel, a process-specific one, a group, a session, or a process itself."""

_PURPOSE = b"offload layer messages 1"
_HASH_BYTES = 16
_LABEL_BYTES = 1 + _HASH_BYTES


class Unsealable(ValueError):
    """Bytes that do not open, with these keys or for this use."""


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
        return 4 * -((1 + 8 + 16 + 16 * ((_LABEL_BYTES + size) // 16 + 1) + 32) // -3)

    def close(self, data: bytes, kind: bytes, name: str) -> bytes:
        return self._fernet.encrypt(kind + _hashed(name) + data)

    def open(self, sealed: bytes, kind: bytes, name: str) -> bytes:
        """Raises ``Unsealable``."""
        try:
            opened = self._fernet.decrypt(sealed)
        except self._invalid:
            raise Unsealable("message is sealed with none of this layer's encryption_keys") from None
        to_a_member = kind == QUEUE and opened.startswith(GROUP)
        if not (to_a_member or opened.startswith(kind + _hashed(name))):
            raise Unsealable("message was sealed for another channel, group or session")
        return opened[_LABEL_BYTES:]


def _hashed(name: str) -> bytes:
    # Keys of sessions are free text.
    return blake2b(name.encode(errors="surrogatepass"), digest_size=_HASH_BYTES).digest()


def _derived(key: str) -> bytes:
    """For Fernet alone: the text may be used for other things, as Django's ``SECRET_KEY`` is."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return base64.urlsafe_b64encode(HKDF(hashes.SHA256(), 32, salt=None, info=_PURPOSE).derive(key.encode()))

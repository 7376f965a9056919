"""A secret key that all server processes share, and that a restart keeps, without anyone having to choose one.

A copy stands in each example, so that any of them can be taken as it is.
"""

import os
import secrets
import tempfile
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

KEY_FILE = Path(__file__).resolve().parent.parent / ".secret-key"


def secret_key(path: Path = KEY_FILE) -> str:
    """The key in the file, which the first process to come here makes."""
    if not path.exists():
        try:
            _make(path)
        except OSError as error:
            raise ImproperlyConfigured(f"cannot write {path} ({error.strerror}); set SECRET_KEY instead") from error
    return path.read_text()


def _make(path: Path) -> None:
    # Server processes start side by side: each writes a file of its own (mode 0600), and one of them gets the name.
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".secret-key.") as file:
        file.write(secrets.token_urlsafe(50))
        file.flush()
        try:
            os.link(file.name, path)
        except FileExistsError:
            pass

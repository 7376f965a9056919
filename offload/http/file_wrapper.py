"""``wsgi.file_wrapper``: an iterable over a file, of which the server can tell what part of which file it is."""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Iterator
from typing import Any

READ_BYTES = 65536


class FileWrapper:
    """What PEP 3333 calls the file wrapper. Iterating it works for anything with ``read``.

    Args:
        filelike: has ``read``, and ``close`` where closing matters.
        block_size: how much to read at once, at least.
    """

    def __init__(self, filelike: Any, block_size: int = 8192) -> None:
        self.filelike = filelike
        self.block_size = max(block_size, READ_BYTES)
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        data: bytes = self.filelike.read(self.block_size)
        if data:
            return data
        raise StopIteration

    def part(self) -> tuple[int, int, int] | None:
        """What is left to read, as ``(descriptor, offset, size)`` of a regular file.

        Returns:
            None where reading may give anything else than the file's own bytes: a GzipFile has a descriptor, too.
        """
        file = _real_file(self.filelike)
        if file is None:
            return None
        try:
            descriptor, offset = file.fileno(), file.tell()
            status = os.fstat(descriptor)
        except (OSError, ValueError):
            # Closed, or not seekable: reading it says what is wrong, or works.
            return None
        # Files of /proc have content but no size.
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return None
        return descriptor, offset, max(0, status.st_size - offset)


def _real_file(filelike: Any) -> Any:
    for _ in range(3):
        kind = type(filelike)
        if kind is io.BufferedReader or kind is io.BufferedRandom:
            return filelike if type(filelike.raw) is io.FileIO else None
        if kind is io.FileIO:
            return filelike
        # Wrappers that read by the file's own method, such as Django's File.
        inner = getattr(filelike, "file", None)
        if inner is None:
            return None
        if not isinstance(filelike, tempfile._TemporaryFileWrapper) and filelike.read != inner.read:
            return None
        filelike = inner
    return None

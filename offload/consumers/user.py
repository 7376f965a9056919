"""`User`: all open connections of one user, wherever they are.

A user's connections are a group whose name is made of the user's id, so that any process that knows the id reaches
them; nothing is kept beside it.
"""

from __future__ import annotations

import re

from offload.consumers.channel import Group
from offload.consumers.configuration import DEFAULT
from offload.interfaces import Content, Layer

LOGGED_OUT = 4001
"""The close code of connections whose user is no longer let stay."""

_PLAIN = re.compile(r"[A-Za-z0-9_.\-]{1,50}")


class User:
    """All connections of one user.

    Args:
        id: the user's, such as a primary key; what has the same text is the same user.
        alias: which configured layer is used.
        channel_layer: that layer itself, where it is at hand.
    """

    __slots__ = ("_group", "id")

    def __init__(self, id: object, alias: str = DEFAULT, channel_layer: Layer | None = None) -> None:
        self.id = str(id)
        self._group = Group(f"offload.user.{name_of_key(self.id)}", alias, channel_layer)

    @property
    def group(self) -> Group:
        """The group of the connections."""
        return self._group

    def add(self, channel: str) -> None:
        """Make a connection, by its reply channel, one of the user's. It ends with the connection."""
        self._group.add(channel)

    def discard(self, channel: str) -> None:
        """Make a connection nobody's again."""
        self._group.discard(channel)

    def send(self, content: Content) -> None:
        """Send to all of them.

        Args:
            content: a reply, such as ``{"text": "hello"}``.
        """
        self._group.send(content)

    def disconnect(self, code: int = LOGGED_OUT) -> None:
        """Close all of them, with a close code."""
        self._group.send({"close": code})

    def __repr__(self) -> str:
        return f"User({self.id!r})"


def name_of_key(key: str) -> str:
    """What stands for a key in a group's name: the key itself, or a digest where it has other characters.

    Args:
        key: any text.
    """
    if _PLAIN.fullmatch(key):
        return key
    import hashlib  # with OpenSSL, which few supervisors and scripts have another use for

    # Longer than any key that stands for itself, so that the two cannot be the same.
    return f"sha256_{hashlib.sha256(key.encode()).hexdigest()[:48]}"

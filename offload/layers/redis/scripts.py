"""What must happen in one piece on the server, as Lua, and how its keys are laid out.

A queue is a list at ``<prefix>channel:<name>``. An item is thirteen digits, the millisecond at which it expires by the
server's clock, and the payload. An item without them, as other programs may push, does not expire. A queue's key
itself expires some seconds after its last message, so that what expired is counted when somebody looks.

Channels that are members of a group are a sorted set at ``<prefix>members:{<prefix>group:<name>}``, scored by the
millisecond at which the membership ends. The braces keep it on that node of a cluster that has the group's pub/sub
channel, ``<prefix>group:<name>``. A hash at ``<prefix>sent:{<prefix>group:<name>}`` has how many messages were ``sent``
to the group, ``since`` when. Delayed messages are a sorted set at ``<prefix>delayed``, scored by the millisecond
at which they are due; a list at ``<prefix>given:{<prefix>delayed}:<taker>`` has the number of the batch and the
messages that a taker was given, until he says that they came.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

STAMP_LENGTH = 13
_FILES = Path(__file__).with_name("scripts")
_STAMP = re.compile(rb"\d{13}")


class Script:
    """A script and the name that the server knows it by.

    Args:
        files: whose texts are its own, one after the other.
    """

    def __init__(self, *files: str) -> None:
        self.text = "".join((_FILES / f"{name}.lua").read_text() for name in files)
        # SHA-1 names it and protects nothing.
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


PUSH = Script("now", "push")
TAKE = Script("now", "take")
GIVE_BACK = Script("now", "give_back")
GROUP_SEND = Script("group_send")
GROUP_ADD = Script("now", "group_add")
KEEP = Script("now", "keep")
TAKE_DUE = Script("now", "take_due")


def payload_of(item: bytes) -> bytes:
    """A queue's item without its stamp."""
    return item[STAMP_LENGTH:] if _STAMP.match(item) else item


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))

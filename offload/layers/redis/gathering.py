"""Waiting for messages that are about to come, where delivering them one by one would cost more than the wait.

What a large group's members get together leaves in one system call for each member.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from offload.layers.redis.server import give_way
from offload.layers.redis.wire import threads_are_greenlets

# What a wait may cost and save is measured as it goes, so none of these needs to be set for a machine or a site.
_WORTH_WAITING = 0.0005  # seconds that a delivery must take before others are awaited for its sake: some round trips
_LONGEST_WAIT = 0.005  # seconds; nobody sees them, and a group so large that it could save more takes longer itself
_TURNS = 5  # of the loop, in which an answered consumer ends and the next one sends


def is_worth_waiting(cost: float) -> bool:
    """
    Args:
        cost: seconds that the last delivery took.
    """
    return cost > _WORTH_WAITING and threads_are_greenlets()


def gather(connection: Any, replies: list[Any], most: int, cost: float, expects: Callable[[], bool]) -> None:
    """Add to the replies what is about to come, up to this many.

    One who sends message after message sends the next when the last is answered, so let that happen first. Then wait
    for it, but no longer than half of the time that it may save.

    Args:
        expects: whether this process has just sent what may come back.
    """
    until = time.monotonic() + min(cost / 2, _LONGEST_WAIT)
    while len(replies) < most:
        for _ in range(_TURNS):
            give_way()
        left = until - time.monotonic()
        if left <= 0 or not expects():
            break
        try:
            found = connection.more(most - len(replies), left)
        except RedisError:
            break  # what came before the end counts; the next read fails at once
        if not found:
            break
        replies += found

"""Processes that take long to be ready: the log names them, and names them again ever more seldom."""

from __future__ import annotations

import logging
import os
import selectors
import time

import pytest

from offload.server.child import Child
from offload.server.children import Children
from offload.server.control import pair


def test_the_notice_of_a_slow_boot_comes_after_ten_seconds_and_again_with_doubling_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mine, theirs = pair()
    with selectors.DefaultSelector() as selector, mine.sock, theirs.sock:
        children = Children(selector, lambda: None, lambda child, note: None)
        began = time.monotonic()
        child = children.add(Child(os.getpid(), "server process", mine, began))
        child.expect(None)
        told_at = []
        with caplog.at_level(logging.WARNING, "offload.server"):
            logging.getLogger("offload.server").propagate = True
            while len(told_at) < 4:
                assert child.tell_at is not None
                told_at.append(child.tell_at - child.started)
                children.look_at_boots(None)
                assert len(caplog.messages) == len(told_at) - 1, "too early"
                # As if the time had come.
                passed = child.tell_at - time.monotonic()
                child.started -= passed
                child.tell_at -= passed
                children.look_at_boots(None)
        assert [round(seconds) for seconds in told_at] == [10, 20, 40, 80]
        assert caplog.messages == [
            f"server process {os.getpid()} is not ready yet, after {seconds} s" for seconds in (10, 20, 40, 80)
        ]

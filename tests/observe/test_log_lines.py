"""What the lines of the log share."""

from __future__ import annotations

import logging
from functools import partial
from logging.handlers import QueueHandler

import gevent
import pytest
from gevent.queue import Queue

from offload.observe.log_lines import RepeatedLines, address_text
from tests.serving import DEADLINE


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (("192.0.2.7", 51234), "192.0.2.7:51234"),
        (("2001:db8::7", 51234, 0, 0), "[2001:db8::7]:51234"),
        (["192.0.2.7", "51234"], "192.0.2.7:51234"),
        (("", ""), "a Unix socket"),
        ("", "a Unix socket"),
        (b"", "a Unix socket"),
    ],
)
def test_address_is_host_and_port(peer: object, text: str) -> None:
    assert address_text(peer) == text


def test_lines_past_the_first_ten_of_a_kind_are_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("tests.repeated")
    timer = partial(gevent.get_hub().loop.timer, ref=False)
    records: Queue[logging.LogRecord] = Queue()
    handler = QueueHandler(records)
    log.addHandler(handler)
    lines = RepeatedLines(log, "doors were shut", timer, seconds=0.05)
    with caplog.at_level(logging.INFO, log.name), gevent.Timeout(DEADLINE):
        for number in range(24):
            lines.write(logging.INFO, "wind", "door %d was shut", number)
        for number in range(24, 36):
            lines.write(logging.WARNING, "rain", "door %d was shut", number)
        lines.write(logging.ERROR, "hail", "door %d was shut", 36)
        shown = [*range(10), *range(24, 34), 36]
        assert caplog.messages == [f"door {number} was shut" for number in shown]
        for _ in range(len(shown) + 1):
            records.get()
        log.removeHandler(handler)
        assert caplog.messages[-1] == "16 more doors were shut within 0.05 s (wind: 14, rain: 2)"
        assert caplog.records[-1].levelno == logging.WARNING
        # The next period begins with the next line.
        lines.write(logging.INFO, "wind", "door %d was shut", 37)
        assert caplog.messages[-1] == "door 37 was shut"

"""What the lines of the log share."""

from __future__ import annotations

import logging
from functools import partial

import gevent
import pytest

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


def test_lines_past_the_first_ten_of_a_period_are_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("tests.repeated")
    timer = partial(gevent.get_hub().loop.timer, ref=False)
    lines = RepeatedLines(log, "doors were shut", timer, 0.05)
    with caplog.at_level(logging.INFO, log.name), gevent.Timeout(DEADLINE):
        for number in range(30):
            lines.write(logging.INFO, "wind" if number % 3 else "rain", "door %d was shut", number)
        assert caplog.messages == [f"door {number} was shut" for number in range(10)]
        while len(caplog.messages) < 11:
            gevent.sleep(0)
        assert caplog.messages[10] == "20 more doors were shut within 0.05 s (wind: 14, rain: 6)"
        # The next period begins with the next line, and a period of few lines needs no summary.
        caplog.clear()
        lines.write(logging.INFO, "wind", "door %d was shut", 30)
        for number in range(31, 47):
            lines.write(logging.INFO, f"reason {number}", "door %d was shut", number)
        while len(caplog.messages) < 11:
            gevent.sleep(0)
        assert caplog.messages[0] == "door 30 was shut"
        assert caplog.messages[10].startswith("7 more doors were shut within 0.05 s (reason 40: 1, ")
        assert caplog.messages[10].endswith(" and 2 other reasons)")

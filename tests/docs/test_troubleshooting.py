"""The page on troubleshooting quotes messages that the code has, word for word."""

from __future__ import annotations

import re

import pytest

from tests.serving import ROOT

PAGE = (ROOT / "docs" / "howto" / "troubleshooting.md").read_text()
LOGGED = re.findall(r"^\| `([^`]+)` \|", PAGE.partition("## In the browser")[0], re.MULTILINE)
SOURCE = "".join(
    path.read_text() for package in ("offload", "django_offload") for path in sorted((ROOT / package).rglob("*.py"))
)


@pytest.mark.parametrize("message", LOGGED)
def test_a_quoted_message_is_one_of_the_codes(message: str) -> None:
    # A text may be parted over lines of the source.
    assert message in re.sub(r'"\s*\n\s*f?"', "", SOURCE)


def test_messages_are_quoted() -> None:
    assert len(LOGGED) > 10

"""Fixtures of the layers' tests."""

import pytest

from tests.stalls import Stalls


@pytest.fixture
def stalls():
    """How long the machine stands still during the test."""
    with Stalls() as stalls:
        yield stalls

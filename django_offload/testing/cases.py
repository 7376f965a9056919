"""Test cases whose layers are fresh for each test, and in memory."""

from __future__ import annotations

import unittest
from typing import TYPE_CHECKING, Any

from django.test import TestCase, TransactionTestCase

from django_offload.testing.layers import memory_layers
from offload import Message
from offload.consumers.configuration import DEFAULT, layer_for

if TYPE_CHECKING:
    _Base = unittest.TestCase
else:
    _Base = object


class ChannelTestCaseMixin(_Base):
    """Gives each test layers of its own. To be named before a test case of Django's."""

    def run(self, result: Any = None) -> Any:
        """Run one test; see ``unittest``."""
        with memory_layers():
            return super().run(result)

    def get_next_message(self, channel: str, alias: str = DEFAULT, require: bool = False) -> Message | None:
        """The next message that was sent to a channel.

        Args:
            channel: its name.
            alias: its layer's.
            require: whether the test fails where there is none.

        Returns:
            The message, or None.
        """
        layer = layer_for(alias)
        found = layer.receive([channel], timeout=0)
        if found is None:
            if require:
                self.fail(f"expected a message on channel {channel}, got none")
            return None
        return Message(found[1], found[0], layer)


class ChannelTestCase(ChannelTestCaseMixin, TestCase):
    """Each test in a transaction that is rolled back; consumers of its clients run inside of it."""


class TransactionChannelTestCase(ChannelTestCaseMixin, TransactionTestCase):
    """Tests whose transactions are committed; tables are emptied afterwards."""

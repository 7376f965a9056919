"""What a channel layer must do, as tests: subclass `LayerConformance`, and pytest runs them against your layer.

    class TestMyLayer(LayerConformance):
        def make_layer(self, **settings):
            return MyLayer("my-server:1234", **settings)

Knows nothing of a layer but ``offload.interfaces.Layer``, and nothing of pytest but the names of its methods. No test
sleeps: each waits for what it expects, up to `patience` seconds.
"""

from __future__ import annotations

from offload.testing.conformance.delays import Delays
from offload.testing.conformance.groups import Groups
from offload.testing.conformance.queues import Queues
from offload.testing.conformance.replies import Replies
from offload.testing.conformance.state import State

__all__ = ["LayerConformance"]


class LayerConformance(Queues, Replies, Groups, State, Delays):
    """The suite. Every test has a prefix of its own, and all the layers that it makes are closed after it.

    Attributes:
        patience: seconds to wait for what must come.
        short: an expiry, in seconds, that a test can wait for.
    """

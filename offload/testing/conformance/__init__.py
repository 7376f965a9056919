"""What a channel layer must do, as tests: subclass `LayerConformance`, and pytest runs them against your layer.

    class TestMyLayer(LayerConformance):
        def make_layer(self, **settings):
            return MyLayer("my-server:1234", **settings)

A layer with a server of its own also fills in `stop_server`, `start_server`, `freeze_server` and `thaw_server`
(``offload.testing.conformance.faults``): without them, the tests of faults are skipped.

Knows nothing of a layer but ``offload.interfaces.Layer``, and nothing of pytest but the names of its methods. No test
sleeps: each waits for what it expects, up to `patience` seconds.
"""

from __future__ import annotations

from offload.testing.conformance.delays import Delays
from offload.testing.conformance.faults import Faults
from offload.testing.conformance.members import Groups
from offload.testing.conformance.queues import Queues
from offload.testing.conformance.replies import Replies
from offload.testing.conformance.state import State

__all__ = ["LayerConformance"]


class LayerConformance(Queues, Replies, Groups, State, Delays, Faults):
    """The suite. Every test has a prefix of its own, and all the layers that it makes are closed after it.

    Attributes:
        patience: seconds to wait for what must come.
        short: an expiry, in seconds, that a test can wait for.
        bound: seconds within which a call raises while the server is away.
    """

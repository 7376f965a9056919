"""Delayed messages: when they arrive, where, and what they outlive."""

from __future__ import annotations

import time

from offload.testing.conformance.suite import Inbox, Suite, raises


class Delays(Suite):
    """Delayed messages."""

    def test_delayed_message_arrives_at_its_time(self) -> None:
        sender, receiver = self.layer(), self.layer()
        began = time.monotonic()
        sender.send("later", {"n": 2}, delay=0.6)
        sender.send("later", {"n": 1}, delay=0.3)
        sender.send("later", {"n": 0})
        assert [self._take(receiver, "later")["n"] for _ in range(3)] == [0, 1, 2]
        assert 0.55 < time.monotonic() - began < self.patience
        assert receiver.receive(["later"], 0) is None

    def test_delayed_message_reaches_a_reply_channel(self) -> None:
        owner, other = self.layer(), self.layer()
        inbox = Inbox()
        channel = owner.new_channel("reply")
        owner.attach(channel, inbox)
        for layer in (owner, other):
            layer.send(channel, {"text": "later"}, delay=0.05)
            assert inbox.next(self.patience) == {"text": "later"}
        gone = owner.new_channel("reply")
        owner.attach(gone, inbox)
        other.send(gone, {"text": "late"}, delay=0.05)
        owner.detach(gone)
        other.send(channel, {"text": "last"}, delay=0.3)
        assert inbox.next(self.patience) == {"text": "last"}

    def test_delayed_message_outlives_its_sender(self) -> None:
        sender, receiver = self.layer(), self.layer()
        sender.send("later", {"n": 1}, delay=0.2)
        sender.close()
        assert self._take(receiver, "later") == {"n": 1}

    def test_each_of_equal_delayed_messages_arrives_once(self) -> None:
        sender, receiver, other = self.layer(), self.layer(), self.layer()
        other.receive(["elsewhere"], 0)
        for _ in range(20):
            sender.send("later", {"same": True}, delay=0.05)
        for _ in range(20):
            assert self._take(receiver, "later") == {"same": True}
        assert receiver.receive(["later"], 0.3) is None

    def test_delayed_message_waits_for_a_full_channel(self) -> None:
        layer = self.layer(capacity=1)
        layer.send("later", {"n": 1})
        layer.send("later", {"n": 2}, delay=0.01)
        layer.send("other", {}, delay=0.2)
        assert self._take(layer, "other") == {}
        assert self._take(layer, "later") == {"n": 1}
        assert self._take(layer, "later") == {"n": 2}

    def test_flush_drops_delayed_messages(self) -> None:
        layer = self.layer()
        layer.send("later", {"n": 1}, delay=0.2)
        layer.flush()
        layer.send("later", {"n": 2}, delay=0.3)
        assert self._take(layer, "later") == {"n": 2}

    def test_what_cannot_be_delayed_is_refused_at_once(self) -> None:
        layer = self.layer()
        for delay in (-1.0, float("nan"), float("inf"), "1", True, 1e12):
            with raises(ValueError):
                layer.send("later", {}, delay=delay)  # type: ignore[arg-type]
        with raises(TypeError):
            layer.send("later", {"set": {1}}, delay=1.0)
        with raises(TypeError):
            layer.send("no name at all", {}, delay=1.0)

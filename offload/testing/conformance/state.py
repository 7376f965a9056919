"""Sessions, and the layer itself: settings, statistics, flush, close."""

from __future__ import annotations

import threading

from offload.exceptions import ChannelFull
from offload.interfaces import Delivery
from offload.testing.conformance.suite import Inbox, Suite, in_forked_child, raises, values


class State(Suite):
    """Sessions, and the layer itself: settings, statistics, flush, close."""

    def test_session_is_read_by_any_process(self) -> None:
        layer, other = self.layer(), self.layer()
        assert layer.session_load("key") is None
        data = values()
        layer.session_save("key", data, 60)
        loaded = other.session_load("key")
        assert loaded is not None
        self._same(loaded, data)
        other.session_save("key", {"n": 2}, 60)
        assert layer.session_load("key") == {"n": 2}
        other.session_delete("key")
        other.session_delete("key")
        assert layer.session_load("key") is None

    def test_session_expires(self) -> None:
        layer = self.layer()
        layer.session_save("key", {"n": 1}, self.short)
        layer.session_save("lasting", {"n": 2}, 60)
        self._until(lambda: layer.session_load("key") is None, "the session to expire")
        assert layer.session_load("lasting") == {"n": 2}

    def test_session_is_renewed_as_it_is(self) -> None:
        layer, other = self.layer(), self.layer()
        for key in ("renewed", "left"):
            layer.session_save(key, {"n": 1}, self.short)
        other.session_save("renewed", {"n": 2}, self.short)
        layer.session_renew("renewed", 60)
        layer.session_renew("unknown", 60)
        self._until(lambda: other.session_load("left") is None, "the session to expire that nobody renewed")
        assert other.session_load("renewed") == {"n": 2}
        assert other.session_load("unknown") is None

    def test_session_is_renewed_beside_a_save(self) -> None:
        layer, other = self.layer(), self.layer()
        layer.session_save("key", {"n": 0}, 60)

        def renew() -> None:
            for _ in range(100):
                layer.session_renew("key", 60)

        thread = threading.Thread(target=renew)
        thread.start()
        number = 0
        while thread.is_alive():
            number += 1
            other.session_save("key", {"n": number}, 60)
            assert other.session_load("key") == {"n": number}
        thread.join(self.patience)

    def test_session_refuses_what_no_message_may_hold(self) -> None:
        layer = self.layer()
        with raises(TypeError):
            layer.session_save("key", {"object": object()}, 60)
        assert layer.session_load("key") is None

    def test_settings_are_attributes(self) -> None:
        layer = self.layer(expiry=12.5, capacity=7, group_expiry=99.0)
        assert (layer.expiry, layer.capacity, layer.group_expiry) == (12.5, 7, 99.0)
        plain = self.layer()
        assert (plain.expiry, plain.capacity, plain.group_expiry) == (60, 100, 86_400)

    def test_statistics_count(self) -> None:
        layer = self.layer(capacity=2)
        before = layer.statistics()
        assert {"sent", "received", "full", "expired", "lost", "reconnects"} <= before.keys()
        layer.send("queue", {})
        layer.send("queue", {})
        with raises(ChannelFull):
            layer.send("queue", {})
        self._take(layer, "queue")
        after = layer.statistics()
        assert after["sent"] - before["sent"] == 2
        assert after["full"] - before["full"] == 1
        assert after["received"] - before["received"] == 1
        assert after["lost"] == before["lost"]

    def test_messages_that_an_own_channel_had_no_room_for_are_counted_as_lost(self) -> None:
        owner, other = self.layer(capacity=2), self.layer(capacity=2)
        own = owner.new_channel("answer")
        for sender in (owner, other):
            for _ in range(3):
                sender.send(own, {})
        self._until(lambda: owner.statistics()["lost"] == 4, "the lost messages to be counted")
        for _ in range(2):
            assert self._take(owner, own) == {}
        assert owner.receive([own], 0) is None

    def test_flush_drops_messages_groups_and_sessions(self) -> None:
        layer = self.layer()
        inbox = Inbox()
        channel = layer.new_channel("reply")
        layer.attach(channel, inbox)
        layer.send("queue", {})
        layer.group_add("group", "member")
        layer.group_add("group", channel)
        layer.session_save("key", {}, 60)
        layer.flush()
        layer.group_send("group", {"text": "missed"})
        assert layer.receive(["queue", "member"], 0) is None
        assert layer.session_load("key") is None
        layer.group_add("group", channel)
        layer.group_send("group", {"text": "marker"})
        assert inbox.next(self.patience) == {"text": "marker"}

    def test_closed_layer_can_be_used_again(self) -> None:
        layer, other = self.layer(), self.layer()
        inbox, old = Inbox(), Inbox()
        channel = layer.new_channel("reply")
        layer.attach(channel, old)
        layer.group_add("group", channel)
        layer.close()
        layer.close()
        other.send(channel, {"text": "lost"})
        other.group_send("group", {"text": "lost"})
        other.send("queue", {"n": 1})
        assert self._take(layer, "queue") == {"n": 1}
        channel = layer.new_channel("reply")
        layer.attach(channel, inbox)
        layer.group_add("group", channel)
        other.group_send("group", {"text": "hi"})
        assert inbox.next(self.patience) == {"text": "hi"}
        assert old.empty()

    def test_receiver_that_raises_does_not_stop_the_others(self) -> None:
        layer = self.layer()
        inbox = Inbox()

        def broken(delivery: Delivery) -> None:
            raise RuntimeError("a receiver of the conformance suite raises on purpose")

        for deliver in (broken, inbox, broken):
            channel = layer.new_channel("reply")
            layer.attach(channel, deliver)
            layer.group_add("group", channel)
            layer.send(channel, {"text": "one"})
        layer.group_send("group", {"text": "all"})
        assert inbox.next(self.patience) == {"text": "one"}
        assert inbox.next(self.patience) == {"text": "all"}

    def test_forked_child_is_a_process_of_its_own(self) -> None:
        layer, other = self.layer(), self.layer()
        inbox = Inbox()
        channel = layer.new_channel("reply")
        layer.attach(channel, inbox)
        name = in_forked_child(lambda: layer.new_channel("reply"), self.patience)
        assert name.startswith("reply.")
        assert name.partition("!")[0] != channel.partition("!")[0]
        # And here nothing has changed.
        assert layer.new_channel("reply").partition("!")[0] == channel.partition("!")[0]
        other.send(channel, {"text": "hi"})
        assert inbox.next(self.patience) == {"text": "hi"}

    def test_layer_serves_short_lived_threads(self) -> None:
        layer = self.layer(capacity=100)
        threads = [threading.Thread(target=layer.send, args=("queue", {"n": number})) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.patience)
        assert sorted(self._take(layer, "queue")["n"] for _ in range(50)) == list(range(50))

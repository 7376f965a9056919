"""What a channel layer must do, as tests: subclass `LayerConformance`, and pytest runs them against your layer.

    class TestMyLayer(LayerConformance):
        def make_layer(self, **settings):
            return MyLayer("my-server:1234", **settings)

Knows nothing of a layer but ``offload.interfaces.Layer``, and nothing of pytest but the names of its methods. No test
sleeps: each waits for what it expects, up to `patience` seconds.
"""

from __future__ import annotations

import contextlib
import math
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from offload.exceptions import ChannelFull, InvalidChannelName, MessageTooLarge
from offload.interfaces import Content, Delivery, Layer


class LayerConformance:
    """The suite. Every test has a prefix of its own, and all the layers that it makes are closed after it.

    Attributes:
        patience: seconds to wait for what must come.
        short: an expiry, in seconds, that a test can wait for.
    """

    patience = 5.0
    short = 0.1

    def make_layer(self, **settings: Any) -> Layer:
        """A further layer object on one and the same server, as if in another process, with these settings."""
        raise NotImplementedError

    def setup_method(self) -> None:
        self._made: list[Layer] = []
        self._prefix = f"test-{secrets.token_hex(6)}:"

    def teardown_method(self) -> None:
        for layer in self._made:
            layer.flush()
            layer.close()

    def layer(self, **settings: Any) -> Layer:
        layer = self.make_layer(**{"prefix": self._prefix, **settings})
        self._made.append(layer)
        return layer

    # Named channels

    def test_check_of_a_reachable_server_says_nothing(self) -> None:
        self.layer().check()

    def test_channel_delivers_in_order_from_another_process(self) -> None:
        sender, receiver = self.layer(), self.layer()
        for number in range(20):
            sender.send("numbers", {"n": number})
        assert [self._take(receiver, "numbers")["n"] for _ in range(20)] == list(range(20))

    def test_receive_says_which_channel_the_message_came_from(self) -> None:
        layer = self.layer()
        layer.send("second", {"n": 2})
        assert layer.receive(["first", "second"], self.patience) == ("second", {"n": 2})

    def test_receive_without_messages_returns_none(self) -> None:
        layer = self.layer()
        assert layer.receive(["nothing"], 0) is None
        assert layer.receive(["nothing", "nothing.else"], 0.01) is None

    def test_receive_leaves_other_channels_alone(self) -> None:
        layer = self.layer()
        layer.send("other", {"n": 1})
        assert layer.receive(["mine"], 0) is None
        assert self._take(layer, "other") == {"n": 1}

    def test_message_goes_to_one_listener_only(self) -> None:
        layers = [self.layer() for _ in range(3)]
        taken: list[int] = []

        def listen(layer: Layer) -> None:
            while True:
                found = layer.receive(["jobs", "stop"], self.patience)
                if found is None or found[0] == "stop":
                    return
                taken.append(found[1]["n"])
                if len(taken) >= 60:
                    for _ in layers:
                        layer.send("stop", {})

        threads = [threading.Thread(target=listen, args=(layer,)) for layer in layers]
        for thread in threads:
            thread.start()
        for number in range(60):
            layers[0].send("jobs", {"n": number})
        for thread in threads:
            thread.join(2 * self.patience)
            assert not thread.is_alive()
        assert sorted(taken) == list(range(60))

    def test_receive_is_fair_between_channels(self) -> None:
        layer = self.layer()
        for number in range(40):
            layer.send("busy", {"n": number})
        layer.send("quiet", {"n": 0})
        served = [self._receive(layer, ["busy", "quiet"])[0] for _ in range(30)]
        assert "quiet" in served

    def test_waiting_receive_is_woken_by_a_send(self) -> None:
        receiver, sender = self.layer(), self.layer()
        found: list[object] = []
        started = threading.Event()

        def wait() -> None:
            started.set()
            found.append(receiver.receive(["late"], self.patience))

        thread = threading.Thread(target=wait)
        thread.start()
        assert started.wait(self.patience)
        sender.send("late", {"n": 1})
        thread.join(2 * self.patience)
        assert found == [("late", {"n": 1})]

    def test_message_expires(self) -> None:
        layer = self.layer(expiry=self.short, capacity=1)
        layer.send("short.lived", {"n": 1})
        with _raises(ChannelFull):
            layer.send("short.lived", {"n": 2})
        self._until(lambda: self._sends(layer, "short.lived", {"n": 3}), "the expired message to give up its place")
        found = layer.receive(["short.lived"], 0)
        assert found in (("short.lived", {"n": 3}), None)  # None: a slow machine; this one is over its time as well
        assert layer.receive(["short.lived"], 0) is None

    def test_full_channel_refuses_at_once_and_takes_again_after_a_receive(self) -> None:
        layer, other = self.layer(capacity=3), self.layer(capacity=3)
        for number in range(3):
            layer.send("small", {"n": number})
        with _raises(ChannelFull):
            other.send("small", {"n": 3})
        assert self._take(other, "small") == {"n": 0}
        layer.send("small", {"n": 4})
        assert [self._take(layer, "small")["n"] for _ in range(3)] == [1, 2, 4]

    def test_capacity_of_single_channels_follows_the_first_glob_that_matches(self) -> None:
        layer = self.layer(capacity=3, channel_capacity={"tiny.*": 1, "t*": 2})
        for channel, capacity in [("tiny.one", 1), ("tall", 2), ("other", 3)]:
            for _ in range(capacity):
                layer.send(channel, {})
            with _raises(ChannelFull):
                layer.send(channel, {})

    def test_message_over_the_size_limit_is_refused(self) -> None:
        layer = self.layer(max_size=1000)
        attached = layer.new_channel("reply")
        inbox = _Inbox()
        layer.attach(attached, inbox)
        for channel in ("queue", attached, self.layer().new_channel("reply")):
            with _raises(MessageTooLarge):
                layer.send(channel, {"text": "x" * 1001})
            with _raises(MessageTooLarge):
                layer.send(channel, {"list": [{"bytes": b"x" * 1001}]})
        with _raises(MessageTooLarge):
            layer.group_send("group", {"text": "x" * 1001})
        with _raises(MessageTooLarge):
            layer.session_save("key", {"text": "x" * 1001}, 60)
        assert layer.receive(["queue"], 0) is None
        layer.send("queue", {"text": "x" * 900})
        assert self._take(layer, "queue") == {"text": "x" * 900}

    def test_content_of_other_types_is_refused(self) -> None:
        layer = self.layer()
        attached = layer.new_channel("reply")
        layer.attach(attached, _Inbox())
        wrong: list[Any] = [
            None,
            "text",
            b"bytes",
            [("text", "x")],
            {1: "key"},
            {b"bytes": "key"},
            {"tuple": (1, 2)},
            {"set": {1}},
            {"object": object()},
            {"complex": 1j},
            {"bytearray": bytearray(b"x")},
            {"nested": {"list": [{"deep": {2: 3}}]}},
            {"nested": [[object()]]},
        ]
        for content in wrong:
            for channel in ("queue", attached):
                with _raises(TypeError):
                    layer.send(channel, content)
            with _raises(TypeError):
                layer.group_send("group", content)
        assert layer.receive(["queue"], 0) is None

    def test_values_come_back_exactly(self) -> None:
        sender, receiver = self.layer(), self.layer()
        content = _values()
        sender.send("values", content)
        self._same(self._take(receiver, "values"), content)
        reply = receiver.new_channel("reply")
        inbox = _Inbox()
        receiver.attach(reply, inbox)
        for layer in (sender, receiver):
            layer.send(reply, content)
            self._same(inbox.next(self.patience), content)
        receiver.group_add("values", reply)
        sender.group_send("values", content)
        self._same(inbox.next(self.patience), content)

    def test_message_does_not_change_with_the_senders_dict(self) -> None:
        layer = self.layer()
        own = layer.new_channel("own")
        for channel in ("queue", own):
            content = {"list": [1]}
            layer.send(channel, content)
            content["list"].append(2)
            assert self._take(layer, channel) == {"list": [1]}

    # Names

    def test_names_of_letters_digits_and_marks_are_accepted(self) -> None:
        layer = self.layer()
        for name in ("a", "A-b_c.9", "x" * 99, "single?reader"):
            layer.send(name, {"n": name})
            assert self._take(layer, name) == {"n": name}
        layer.send("reply.nobody!gone", {})
        layer.group_send("A-b_c.9", {})
        layer.group_send("x" * 99, {})

    def test_names_that_break_the_rules_are_refused(self) -> None:
        layer = self.layer()
        wrong: list[Any] = [
            "",
            "two words",
            "x" * 100,
            "a!b!c",
            "a!b?c",
            "sla/sh",
            "ümlaut",
            "new\nline",
            "end\n",
            7,
            None,
        ]
        for name in wrong:
            with _raises(InvalidChannelName):
                layer.send(name, {})
            with _raises(InvalidChannelName):
                layer.receive([name], 0)
            with _raises(InvalidChannelName):
                layer.group_add("group", name)
            with _raises(InvalidChannelName):
                layer.group_discard("group", name)
        for name in [*wrong, "a!b", "a?b"]:
            with _raises(InvalidChannelName):
                layer.group_send(name, {})
            with _raises(InvalidChannelName):
                layer.group_add(name, "channel")
            with _raises(InvalidChannelName):
                layer.group_discard(name, "channel")

    def test_new_names_are_unique_and_long(self) -> None:
        layer, other = self.layer(), self.layer()
        names = [maker.new_channel("websocket.send") for maker in (layer, other) for _ in range(50)]
        assert len(set(names)) == 100
        for name in names:
            head, _, random = name.partition("!")
            assert head.startswith("websocket.send.")
            assert len(random) >= 16
        owners = {name.partition("!")[0] for name in names}
        assert len(owners) == 2

    # Process-specific and single-reader channels

    def test_reply_channel_is_reached_from_any_process(self) -> None:
        owner, other = self.layer(), self.layer()
        inbox, bystander = _Inbox(), _Inbox()
        channel = owner.new_channel("websocket.send")
        owner.attach(channel, inbox)
        owner.attach(owner.new_channel("websocket.send"), bystander)
        for layer in (owner, other):
            layer.send(channel, {"text": "hi"})
            assert inbox.next(self.patience) == {"text": "hi"}
        assert bystander.empty()

    def test_reply_channel_gets_messages_of_one_sender_in_order(self) -> None:
        owner, other = self.layer(), self.layer()
        inbox = _Inbox()
        channel = owner.new_channel("reply")
        owner.attach(channel, inbox)
        for number in range(200):
            other.send(channel, {"n": number})
        assert [inbox.next(self.patience)["n"] for _ in range(200)] == list(range(200))

    def test_reply_channel_has_no_capacity(self) -> None:
        owner, other = self.layer(capacity=1), self.layer(capacity=1)
        inbox = _Inbox()
        channel = owner.new_channel("reply")
        owner.attach(channel, inbox)
        for layer in (owner, other):
            for _ in range(10):
                layer.send(channel, {})
        for _ in range(20):
            inbox.next(self.patience)

    def test_send_to_a_reply_channel_that_is_gone_does_nothing(self) -> None:
        owner, other = self.layer(), self.layer()
        inbox = _Inbox()
        channel, alive = owner.new_channel("reply"), owner.new_channel("reply")
        owner.attach(channel, inbox)
        owner.attach(alive, inbox)
        owner.detach(channel)
        owner.detach(channel)
        for layer in (owner, other):
            layer.send(channel, {"text": "lost"})
            layer.send("reply.noSuchProcess!0123456789abcdef", {"text": "lost"})
            layer.send(alive, {"text": "marker"})
            assert inbox.next(self.patience) == {"text": "marker"}

    def test_process_specific_channel_can_be_received_from_its_own_process(self) -> None:
        owner, other = self.layer(), self.layer()
        channel = owner.new_channel("answer")
        other.send(channel, {"n": 1})
        owner.send(channel, {"n": 2})
        assert sorted(self._take(owner, channel)["n"] for _ in range(2)) == [1, 2]
        assert owner.receive([channel], 0) is None
        with _raises(InvalidChannelName):
            other.receive([channel], 0)

    def test_receive_from_own_and_named_channels_at_once(self) -> None:
        owner, other = self.layer(), self.layer()
        own = owner.new_channel("answer")
        other.send("named", {"n": 1})
        other.send(own, {"n": 2})
        found = [self._receive(owner, ["named", own]) for _ in range(2)]
        assert sorted(found, key=lambda item: int(item[1]["n"])) == [("named", {"n": 1}), (own, {"n": 2})]

    def test_single_reader_channel_is_a_queue_of_its_own(self) -> None:
        reader, sender = self.layer(), self.layer()
        name, second = reader.new_channel("answer?"), reader.new_channel("answer?")
        assert name.startswith("answer?")
        assert len(name) >= len("answer?") + 16
        assert name != second
        sender.send(name, {"n": 1})
        assert reader.receive([second], 0) is None
        assert self._take(reader, name) == {"n": 1}

    # Groups

    def test_group_reaches_members_of_all_processes_once(self) -> None:
        layers = [self.layer() for _ in range(3)]
        inboxes = []
        for layer in layers:
            for _ in range(3):
                inbox = _Inbox()
                channel = layer.new_channel("reply")
                layer.attach(channel, inbox)
                layer.group_add("everyone", channel)
                layer.group_add("everyone", channel)
                inboxes.append(inbox)
        for sender in [*layers, self.layer()]:
            sender.group_send("everyone", {"text": "hi"})
            for inbox in inboxes:
                assert inbox.next(self.patience) == {"text": "hi"}
        assert all(inbox.empty() for inbox in inboxes)

    def test_group_send_without_members_does_nothing(self) -> None:
        self.layer().group_send("nobody", {"text": "hi"})

    def test_group_reaches_members_only(self) -> None:
        layer = self.layer()
        inboxes = {}
        for group in ("red", "blue"):
            inboxes[group] = _Inbox()
            channel = layer.new_channel("reply")
            layer.attach(channel, inboxes[group])
            layer.group_add(group, channel)
        layer.group_send("red", {"text": "red"})
        layer.group_send("blue", {"text": "blue"})
        assert inboxes["red"].next(self.patience) == {"text": "red"}
        assert inboxes["blue"].next(self.patience) == {"text": "blue"}
        assert inboxes["red"].empty()
        assert inboxes["blue"].empty()

    def test_add_is_in_force_on_return_whoever_adds_and_sends(self) -> None:
        owner, adder, sender = self.layer(), self.layer(), self.layer()
        for number in range(20):
            inbox = _Inbox()
            channel = owner.new_channel("reply")
            owner.attach(channel, inbox)
            group = f"room-{number}"
            (adder if number % 2 else owner).group_add(group, channel)
            sender.group_send(group, {"n": number})
            assert inbox.next(self.patience) == {"n": number}

    def test_add_by_several_threads_is_in_force_for_each(self) -> None:
        owner, sender = self.layer(), self.layer()
        missing: list[int] = []

        def join(number: int) -> None:
            inbox = _Inbox()
            channel = owner.new_channel("reply")
            owner.attach(channel, inbox)
            for turn in range(5):
                owner.group_add("crowd", channel)
                sender.group_send("crowd", {"from": number, "turn": turn})
                if not inbox.eventually({"from": number, "turn": turn}, self.patience):
                    missing.append(number)
                owner.group_discard("crowd", channel)

        threads = [threading.Thread(target=join, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(6 * self.patience)
        assert missing == []

    def test_discard_is_in_force_on_return_whoever_discards(self) -> None:
        owner, other = self.layer(), self.layer()
        inbox = _Inbox()
        channel = owner.new_channel("reply")
        owner.attach(channel, inbox)
        for discarder in (owner, other):
            owner.group_add("room", channel)
            discarder.group_discard("room", channel)
            other.group_send("room", {"text": "missed"})
            owner.group_add("room", channel)
            other.group_send("room", {"text": "marker"})
            assert inbox.next(self.patience) == {"text": "marker"}

    def test_discard_of_no_member_is_no_error(self) -> None:
        layer = self.layer()
        channel = layer.new_channel("reply")
        for name in (channel, "named", "reply.noSuchProcess!0123456789abcdef"):
            layer.group_discard("room", name)

    def test_discard_leaves_the_other_members(self) -> None:
        layer = self.layer()
        inboxes, channels = [_Inbox(), _Inbox()], [layer.new_channel("reply") for _ in range(2)]
        for inbox, channel in zip(inboxes, channels, strict=True):
            layer.attach(channel, inbox)
            layer.group_add("room", channel)
        layer.group_discard("room", channels[0])
        layer.group_send("room", {"text": "hi"})
        assert inboxes[1].next(self.patience) == {"text": "hi"}
        assert inboxes[0].empty()

    def test_detach_leaves_every_group(self) -> None:
        layer, other = self.layer(), self.layer()
        inbox, again = _Inbox(), _Inbox()
        channel = layer.new_channel("reply")
        layer.attach(channel, inbox)
        for group in ("one", "two", "three"):
            layer.group_add(group, channel)
        layer.detach(channel)
        layer.attach(channel, again)
        layer.group_add("three", channel)
        for group in ("one", "two", "three"):
            other.group_send(group, {"group": group})
        assert again.next(self.patience) == {"group": "three"}
        assert again.empty()
        assert inbox.empty()

    def test_add_of_a_channel_that_is_gone_leaves_no_member(self) -> None:
        layer, other = self.layer(), self.layer()
        inbox = _Inbox()
        channel = layer.new_channel("reply")
        layer.attach(channel, inbox)
        layer.detach(channel)
        layer.group_add("room", channel)
        other.group_add("room", channel)
        other.group_add("room", "reply.noSuchProcess!0123456789abcdef")
        layer.attach(channel, inbox)
        other.group_send("room", {"text": "missed"})
        layer.group_add("room", channel)
        other.group_send("room", {"text": "marker"})
        assert inbox.next(self.patience) == {"text": "marker"}

    def test_group_has_named_channels_as_members(self) -> None:
        layer, other = self.layer(), self.layer()
        layer.group_add("workers", "queue.one")
        other.group_add("workers", "queue.two")
        layer.group_add("workers", "queue.two")
        other.group_send("workers", {"n": 1})
        for channel in ("queue.one", "queue.two"):
            assert self._take(layer, channel) == {"n": 1}
            assert layer.receive([channel], 0) is None
        other.group_discard("workers", "queue.one")
        layer.group_send("workers", {"n": 2})
        assert self._take(layer, "queue.two") == {"n": 2}
        assert layer.receive(["queue.one"], 0) is None

    def test_group_has_named_and_reply_channels_together(self) -> None:
        layer, other = self.layer(), self.layer()
        inbox = _Inbox()
        reply, own = layer.new_channel("reply"), layer.new_channel("own")
        layer.attach(reply, inbox)
        for channel in (reply, own, "queue"):
            other.group_add("mixed", channel)
        other.group_send("mixed", {"n": 1})
        assert inbox.next(self.patience) == {"n": 1}
        assert self._take(layer, own) == {"n": 1}
        assert self._take(layer, "queue") == {"n": 1}

    def test_group_send_passes_over_full_channels(self) -> None:
        layer = self.layer(capacity=1)
        layer.group_add("group", "full")
        layer.group_add("group", "free")
        layer.send("full", {"n": 0})
        layer.group_send("group", {"n": 1})
        assert layer.statistics()["full"] == 1
        assert self._take(layer, "full") == {"n": 0}
        assert layer.receive(["full"], 0) is None
        assert self._take(layer, "free") == {"n": 1}

    def test_membership_expires(self) -> None:
        layer = self.layer(group_expiry=self.short)
        inbox = _Inbox()
        reply, lasting = layer.new_channel("reply"), layer.new_channel("reply")
        layer.attach(reply, inbox)
        layer.attach(lasting, inbox)
        layer.group_add("group", reply)
        layer.group_add("group", "queue")

        def reached() -> bool:
            layer.group_send("group", {"text": "group"})
            layer.send(lasting, {"text": "end"})
            # Both come by the same way in some layers, by two in others: allow the group's message its time.
            by_reply = inbox.eventually({"text": "group"}, self.short)
            return layer.receive(["queue"], 0) is not None or by_reply

        self._until(lambda: not reached(), "the memberships to end")

    def test_prefix_keeps_layers_apart(self) -> None:
        layer, stranger = self.layer(), self.layer(prefix=self._prefix + "other:")
        stranger.group_add("group", "queue")
        inbox = _Inbox()
        channel = stranger.new_channel("reply")
        stranger.attach(channel, inbox)
        stranger.group_add("group", channel)
        layer.send("queue", {"n": 1})
        layer.group_send("group", {"n": 2})
        layer.session_save("key", {"n": 3}, 60)
        assert stranger.receive(["queue"], 0) is None
        assert stranger.session_load("key") is None
        stranger.group_send("group", {"n": 4})
        assert inbox.next(self.patience) == {"n": 4}
        stranger.flush()
        assert self._take(layer, "queue") == {"n": 1}

    # Sessions

    def test_session_is_read_by_any_process(self) -> None:
        layer, other = self.layer(), self.layer()
        assert layer.session_load("key") is None
        data = _values()
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

    def test_session_refuses_what_no_message_may_hold(self) -> None:
        layer = self.layer()
        with _raises(TypeError):
            layer.session_save("key", {"object": object()}, 60)
        assert layer.session_load("key") is None

    # The layer itself

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
        with _raises(ChannelFull):
            layer.send("queue", {})
        self._take(layer, "queue")
        after = layer.statistics()
        assert after["sent"] - before["sent"] == 2
        assert after["full"] - before["full"] == 1
        assert after["received"] - before["received"] == 1
        assert after["lost"] == before["lost"]

    def test_flush_drops_messages_groups_and_sessions(self) -> None:
        layer = self.layer()
        inbox = _Inbox()
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
        inbox, old = _Inbox(), _Inbox()
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
        inbox = _Inbox()

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

    def test_layer_serves_short_lived_threads(self) -> None:
        layer = self.layer(capacity=100)
        threads = [threading.Thread(target=layer.send, args=("queue", {"n": number})) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.patience)
        assert sorted(self._take(layer, "queue")["n"] for _ in range(50)) == list(range(50))

    # What the tests share

    def _receive(self, layer: Layer, channels: list[str]) -> tuple[str, Content]:
        found = layer.receive(channels, self.patience)
        assert found is not None, f"nothing came to {channels} within {self.patience} s"
        return found

    def _take(self, layer: Layer, channel: str) -> Content:
        return self._receive(layer, [channel])[1]

    def _sends(self, layer: Layer, channel: str, content: Content) -> bool:
        try:
            layer.send(channel, content)
        except ChannelFull:
            return False
        return True

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.patience
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline, f"waited {self.patience} s for {what}"
            pause.wait(0.005)

    def _same(self, found: Any, expected: Any) -> None:
        assert type(found) is type(expected), (found, expected)
        if isinstance(expected, dict):
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                self._same(found[key], value)
        elif isinstance(expected, list):
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                self._same(one, other)
        elif isinstance(expected, float):
            assert math.copysign(1, found) == math.copysign(1, expected)
            assert found == expected or (math.isnan(found) and math.isnan(expected))
        else:
            assert found == expected


class _Inbox:
    """A receiver that keeps what it gets."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Content] = queue.SimpleQueue()

    def __call__(self, delivery: Delivery) -> None:
        self._queue.put(delivery.content)

    def next(self, patience: float) -> Content:
        try:
            return self._queue.get(timeout=patience)
        except queue.Empty:
            raise AssertionError(f"nothing was delivered within {patience} s") from None

    def eventually(self, content: Content, patience: float) -> bool:
        """Whether this content comes in time; drops what comes before it."""
        deadline = time.monotonic() + patience
        while True:
            try:
                if self._queue.get(timeout=max(0.0, deadline - time.monotonic())) == content:
                    return True
            except queue.Empty:
                return False

    def empty(self) -> bool:
        return self._queue.empty()


@contextlib.contextmanager
def _raises(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


def _values() -> Content:
    """Values that careless encodings change."""
    return {
        "none": None,
        "bools": [True, False],
        "ints": [0, 1, -1, 2**31, -(2**31), 2**63 - 1, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 10**40, -(10**40)],
        "floats": [0.0, -0.0, 1.5, 0.1, 1e308, 5e-324, math.inf, -math.inf, math.nan, 1.0],
        "texts": ["", "plain", "ümläut ☃ 𝄞", "\x00", "{", "line\u2028break", "\ud800"],
        "bytes": [b"", b"{}", bytes(range(256))],
        "lists": [[], [[]], [1, [2, [3]]]],
        "dicts": [{}, {"": ""}, {"a": {"b": {"c": None}}}],
        "": "a key may be empty",
        "ключ": "any key",
    }

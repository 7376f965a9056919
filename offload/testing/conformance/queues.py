"""Named channels, and the rules for names."""

from __future__ import annotations

import threading
import time
from typing import Any

from offload.exceptions import ChannelFull, InvalidChannelName, MessageTooLarge
from offload.interfaces import Layer
from offload.testing.conformance.suite import Inbox, Suite, raises, values


class Queues(Suite):
    """Named channels, and the rules for names."""

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

    def test_receive_without_patience_does_not_wait(self) -> None:
        layer = self.layer()
        layer.receive(["nothing"], 0)  # what opens connections
        start = time.monotonic()
        for _ in range(20):
            assert layer.receive(["nothing"], 0) is None
        assert time.monotonic() - start < self.patience

    def test_receive_without_limit_waits_for_a_message(self) -> None:
        receiver, sender = self.layer(), self.layer()
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(receiver.receive(["late"], None)), daemon=True)
        thread.start()
        # Long enough for one that does not wait to have returned.
        thread.join(2 * self.short)
        assert thread.is_alive(), found
        sender.send("late", {"n": 1})
        thread.join(self.patience)
        assert found == [("late", {"n": 1})]

    def test_receive_looks_at_every_channel(self) -> None:
        layer = self.layer()
        channels = [f"one.of.many.{number}" for number in range(30)]
        for number in (29, 0, 15):
            layer.send(channels[number], {"n": number})
            assert self._receive(layer, channels) == (channels[number], {"n": number})
            for channel in channels:
                layer.send(channel, {})
            assert {self._receive(layer, channels)[0] for _ in channels} == set(channels)

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
        with raises(ChannelFull):
            layer.send("short.lived", {"n": 2})
        self._until(lambda: self._sends(layer, "short.lived", {"n": 3}), "the expired message to give up its place")
        found = layer.receive(["short.lived"], 0)
        assert found in (("short.lived", {"n": 3}), None)  # None: a slow machine; this one is over its time as well
        assert layer.receive(["short.lived"], 0) is None

    def test_messages_that_expired_are_counted(self) -> None:
        layer = self.layer(expiry=self.short)
        own = layer.new_channel("own")
        for channel in ("queue", own):
            before = self.expired(layer)
            for _ in range(3):
                layer.send(channel, {})
            self._wait_until(time.monotonic() + 2 * self.short)
            assert layer.receive([channel], 0) is None
            self._until(lambda before=before: self.expired(layer) == before + 3, "three to be counted")  # type: ignore[misc]

    def test_capacity_holds_whoever_sends_at_once(self) -> None:
        layers = [self.layer(capacity=2) for _ in range(4)]
        rounds, senders = range(10), 8
        together = threading.Barrier(senders)
        sent: list[list[int]] = [[] for _ in rounds]

        def send(layer: Layer, sender: int) -> None:
            for number in rounds:
                together.wait(4 * self.patience)
                if self._sends(layer, f"small.{number}", {"n": sender}):
                    sent[number].append(sender)

        threads = [threading.Thread(target=send, args=(layers[n % len(layers)], n)) for n in range(senders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5 * self.patience)
            assert not thread.is_alive()
        for number in rounds:
            assert len(sent[number]) == 2, f"a channel with a capacity of 2 took {len(sent[number])} messages"
            taken = [self._take(layers[0], f"small.{number}")["n"] for _ in range(2)]
            assert sorted(taken) == sorted(sent[number])
            assert layers[0].receive([f"small.{number}"], 0) is None

    def test_full_channel_refuses_at_once_and_takes_again_after_a_receive(self) -> None:
        layer, other = self.layer(capacity=3), self.layer(capacity=3)
        for number in range(3):
            layer.send("small", {"n": number})
        with raises(ChannelFull):
            other.send("small", {"n": 3})
        assert self._take(other, "small") == {"n": 0}
        layer.send("small", {"n": 4})
        assert [self._take(layer, "small")["n"] for _ in range(3)] == [1, 2, 4]

    def test_capacity_of_single_channels_follows_the_first_glob_that_matches(self) -> None:
        layer = self.layer(capacity=3, channel_capacity={"tiny.*": 1, "t*": 2})
        for channel, capacity in [("tiny.one", 1), ("tall", 2), ("other", 3)]:
            for _ in range(capacity):
                layer.send(channel, {})
            with raises(ChannelFull):
                layer.send(channel, {})

    def test_message_over_the_size_limit_is_refused(self) -> None:
        layer = self.layer(max_size=1000)
        attached = layer.new_channel("reply")
        inbox = Inbox()
        layer.attach(attached, inbox)
        for channel in ("queue", attached, self.layer().new_channel("reply")):
            with raises(MessageTooLarge):
                layer.send(channel, {"text": "x" * 1001})
            with raises(MessageTooLarge):
                layer.send(channel, {"list": [{"bytes": b"x" * 1001}]})
        with raises(MessageTooLarge):
            layer.group_send("group", {"text": "x" * 1001})
        with raises(MessageTooLarge):
            layer.session_save("key", {"text": "x" * 1001}, 60)
        assert layer.receive(["queue"], 0) is None
        layer.send("queue", {"text": "x" * 900})
        assert self._take(layer, "queue") == {"text": "x" * 900}

    def test_content_of_other_types_is_refused(self) -> None:
        layer = self.layer()
        attached = layer.new_channel("reply")
        layer.attach(attached, Inbox())
        wrong: list[Any] = [
            None,
            "text",
            b"bytes",
            [("text", "x")],
            {1: "key"},
            {b"bytes": "key"},
            {"set": {1}},
            {"object": object()},
            {"complex": 1j},
            {"bytearray": bytearray(b"x")},
            {"nested": {"list": [{"deep": {2: 3}}]}},
            {"nested": [[object()]]},
        ]
        for content in wrong:
            for channel in ("queue", attached):
                with raises(TypeError):
                    layer.send(channel, content)
            with raises(TypeError):
                layer.group_send("group", content)
        assert layer.receive(["queue"], 0) is None

    def test_tuples_come_back_as_lists(self) -> None:
        layer = self.layer()
        attached, inbox = layer.new_channel("reply"), Inbox()
        layer.attach(attached, inbox)
        for channel in ("queue", attached):
            layer.send(channel, {"pair": (1, ("a",))})
        self._same(self._take(layer, "queue"), {"pair": [1, ["a"]]})
        self._same(inbox.next(self.patience), {"pair": [1, ["a"]]})

    def test_values_come_back_exactly(self) -> None:
        sender, receiver = self.layer(), self.layer()
        content = values()
        sender.send("values", content)
        self._same(self._take(receiver, "values"), content)
        reply = receiver.new_channel("reply")
        inbox = Inbox()
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
            b"bytes",
            ["unhashable"],
            {"unhashable": 1},
            ("a", "tuple"),
        ]
        for name in wrong:
            with raises(InvalidChannelName):
                layer.send(name, {})
            with raises(InvalidChannelName):
                layer.receive([name], 0)
            with raises(InvalidChannelName):
                layer.new_channel(name)
            with raises(InvalidChannelName):
                layer.attach(name, Inbox())
            with raises(InvalidChannelName):
                layer.detach(name)
            with raises(InvalidChannelName):
                layer.group_add("group", name)
            with raises(InvalidChannelName):
                layer.group_discard("group", name)
        for name in [*wrong, "a!b", "a?b"]:
            with raises(InvalidChannelName):
                layer.group_send(name, {})
            with raises(InvalidChannelName):
                layer.group_add(name, "channel")
            with raises(InvalidChannelName):
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

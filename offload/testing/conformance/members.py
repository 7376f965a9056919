"""Groups of reply channels and of named channels."""

from __future__ import annotations

import threading
import time

from offload.testing.conformance.suite import Inbox, Suite


class Groups(Suite):
    """Groups of reply channels and of named channels."""

    def test_group_reaches_members_of_all_processes_once(self) -> None:
        layers = [self.layer() for _ in range(3)]
        inboxes = []
        for layer in layers:
            for _ in range(3):
                inbox = Inbox()
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
            inboxes[group] = Inbox()
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
            inbox = Inbox()
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
            inbox = Inbox()
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
        inbox = Inbox()
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
        inboxes, channels = [Inbox(), Inbox()], [layer.new_channel("reply") for _ in range(2)]
        for inbox, channel in zip(inboxes, channels, strict=True):
            layer.attach(channel, inbox)
            layer.group_add("room", channel)
        layer.group_discard("room", channels[0])
        layer.group_send("room", {"text": "hi"})
        assert inboxes[1].next(self.patience) == {"text": "hi"}
        assert inboxes[0].empty()

    def test_detach_leaves_every_group(self) -> None:
        layer, other = self.layer(), self.layer()
        inbox, again = Inbox(), Inbox()
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
        inbox = Inbox()
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
        inbox = Inbox()
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
        inbox = Inbox()
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

    def test_adding_again_renews_a_membership(self) -> None:
        # A machine that stops for longer than a membership lasts is not the layer's fault, five times over it would be.
        assert any(self._is_renewed(f"group-{number}") for number in range(5)), "what was added again is no member"

    def _is_renewed(self, group: str) -> bool:
        lasting = 4 * self.short
        layer = self.layer(group_expiry=lasting)
        inbox, queue = Inbox(), f"queue.{group}"
        reply = layer.new_channel("reply")
        layer.attach(reply, inbox)
        for channel in (reply, queue):
            layer.group_add(group, channel)
        start = time.monotonic()
        self._wait_until(start + 0.5 * lasting)
        for channel in (reply, queue):
            layer.group_add(group, channel)
        if time.monotonic() > start + 0.9 * lasting:
            return False
        self._wait_until(start + 1.1 * lasting)
        layer.group_send(group, {"text": "still"})
        return inbox.eventually({"text": "still"}, lasting) and layer.receive([queue], 0) is not None

    def test_message_through_a_group_expires_in_a_queue(self) -> None:
        layer = self.layer(expiry=self.short)
        layer.group_add("group", "queue")
        layer.group_send("group", {})
        self._wait_until(time.monotonic() + 2 * self.short)
        assert layer.receive(["queue"], 0) is None

    def test_prefix_keeps_layers_apart(self) -> None:
        layer, stranger = self.layer(), self.layer(prefix=self._prefix + "other:")
        stranger.group_add("group", "queue")
        inbox = Inbox()
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

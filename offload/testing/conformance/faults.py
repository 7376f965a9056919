"""A server that stops, freezes and comes back: callers are told in time, and everything goes on by itself."""

from __future__ import annotations

import threading
import time
import unittest
from collections.abc import Callable
from functools import partial

from offload.exceptions import LayerUnavailable
from offload.interfaces import Content, Layer
from offload.testing.conformance.suite import Inbox, Suite

GONE = "reply.noSuchProcess!0123456789abcdef"


class Faults(Suite):
    """A server that stops, freezes and comes back. Skipped where the hooks are not filled in."""

    def stop_server(self) -> None:
        """End the server, as a crash does: what it had in memory may be gone. Returns when it has ended."""
        raise unittest.SkipTest("stop_server is not filled in")

    def start_server(self) -> None:
        """Start it again at the same address. Returns when it takes connections."""

    def freeze_server(self) -> None:
        """Have it stand still with its connections open (SIGSTOP)."""
        raise unittest.SkipTest("freeze_server is not filled in")

    def thaw_server(self) -> None:
        """Have it go on."""

    def test_stopped_server_raises_in_time_whatever_is_called(self) -> None:
        layer, inbox, channel = self._member("group")
        self.stop_server()
        try:
            for call in self._calls(layer):
                self._raises_in_time(call)
            # What needs no server works all the same.
            layer.send(channel, {"text": "local"})
            assert inbox.next(self.patience) == {"text": "local"}
            layer.detach(channel)
        finally:
            self.start_server()

    def test_frozen_server_raises_in_time_whatever_is_called(self) -> None:
        layer, _, _ = self._member("group")
        self.freeze_server()
        try:
            for call in self._calls(layer):
                self._raises_in_time(call)
        finally:
            self.thaw_server()
        self._until(lambda: self._works(layer.check), "the layer to find its server again")

    def test_stopped_server_is_found_again_with_every_subscription(self) -> None:
        owner, inbox, channel = self._member("group", "second")
        sender = self.layer()
        sender.check()
        for turn in range(2):
            self._restart()
            for group in ("group", "second"):
                self._reaches(partial(sender.group_send, group), inbox, {"turn": turn})
            self._reaches(partial(sender.send, channel), inbox, {"reply": turn})
        self._until(lambda: owner.statistics()["reconnects"] >= 2, "both returns to be counted")

    def test_frozen_server_loses_no_subscription(self) -> None:
        _, inbox, channel = self._member("group")
        sender = self.layer()
        sender.check()
        self.freeze_server()
        try:
            self._raises_in_time(lambda: sender.group_send("group", {"text": "frozen"}))
        finally:
            self.thaw_server()
        self._reaches(partial(sender.group_send, "group"), inbox, {"text": "thawed"})
        self._reaches(partial(sender.send, channel), inbox, {"text": "direct"})

    def test_memberships_follow_after_the_server_came_back(self) -> None:
        owner, inbox, channel = self._member("left", "kept")
        other = self.layer()
        other.check()
        self.stop_server()
        try:
            owner.group_discard("left", channel)
            self._raises_in_time(lambda: owner.group_add("queues", "queue"))
        finally:
            self.start_server()
        self._until(lambda: self._works(lambda: other.group_add("new", channel)), "an add by another process")
        for group in ("new", "kept"):
            self._reaches(partial(other.group_send, group), inbox, {"group": group})
        other.group_send("left", {"group": "left"})
        other.group_discard("new", channel)
        other.group_send("new", {"group": "new"})
        other.group_send("kept", {"text": "marker"})
        assert inbox.next(self.patience) == {"text": "marker"}

    def test_group_that_nobody_could_add_to_is_added_to_later(self) -> None:
        layer, inbox, channel = self._member("group")
        self.stop_server()
        try:
            self._raises_in_time(lambda: layer.group_add("late", channel))
        finally:
            self.start_server()
        self._until(lambda: self._works(lambda: layer.group_add("late", channel)), "an add")
        layer.group_send("late", {"text": "late"})
        assert inbox.eventually({"text": "late"}, self.patience)

    def test_waiting_receive_ends_or_goes_on_with_the_server_that_came_back(self) -> None:
        receiver, sender = self.layer(), self.layer()
        sender.check()
        found: list[object] = []
        over = threading.Event()

        def receive() -> None:
            while not (found or over.is_set()):
                try:
                    if (message := receiver.receive(["queue"], self.bound)) is not None:
                        found.append(message)
                except LayerUnavailable:
                    pass

        assert receiver.receive(["queue"], 0) is None
        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        try:
            self._restart()
            self._until(lambda: self._works(lambda: sender.send("queue", {"n": 1})), "a send")
            thread.join(2 * self.bound)
        finally:
            over.set()
        assert found == [("queue", {"n": 1})]

    def test_what_could_not_be_sent_is_counted_as_lost(self) -> None:
        layer = self.layer()
        layer.check()
        self.stop_server()
        try:
            self._raises_in_time(lambda: layer.group_send("group", {}))
            self._raises_in_time(lambda: layer.send("queue", {}))
        finally:
            self.start_server()
        assert layer.statistics()["lost"] == 2

    def test_delayed_messages_arrive_once_each_though_the_server_stood_still(self) -> None:
        sender, receiver = self.layer(), self.layer()
        receiver.check()
        for number in range(10):
            sender.send("later", {"n": number}, delay=0.1 + 0.1 * number)
        self.freeze_server()
        try:
            self._raises_in_time(sender.check)
        finally:
            self.thaw_server()
        self._until(lambda: self._works(receiver.check), "the server to be found again")
        assert sorted(self._take(receiver, "later")["n"] for _ in range(10)) == [*range(10)]
        assert receiver.receive(["later"], self.short) is None

    def test_message_for_a_process_that_nobody_hears_is_counted(self) -> None:
        layer = self.layer()
        layer.send(GONE, {})
        assert layer.statistics()["unheard"] == 1
        _, inbox, channel = self._member()
        layer.send(channel, {"n": 1})
        assert inbox.next(self.patience) == {"n": 1}
        assert layer.statistics()["unheard"] == 1

    def _member(self, *groups: str) -> tuple[Layer, Inbox, str]:
        """A layer with a channel that is in the groups."""
        layer, inbox = self.layer(), Inbox()
        channel = layer.new_channel("reply")
        layer.attach(channel, inbox)
        for group in groups:
            layer.group_add(group, channel)
        return layer, inbox, channel

    def _calls(self, layer: Layer) -> list[Callable[[], object]]:
        return [
            layer.check,
            lambda: layer.send("queue", {}),
            lambda: layer.send(GONE, {}),
            lambda: layer.receive(["queue"], 0),
            lambda: layer.group_add("queues", "queue"),
            lambda: layer.group_discard("queues", "queue"),
            lambda: layer.group_add("group", GONE),
            lambda: layer.group_send("group", {}),
            lambda: layer.session_load("key"),
            lambda: layer.session_save("key", {}, 60),
            lambda: layer.session_delete("key"),
        ]

    def _restart(self) -> None:
        self.stop_server()
        self.start_server()

    def _raises_in_time(self, call: Callable[[], object]) -> None:
        start = time.monotonic()
        try:
            call()
        except LayerUnavailable:
            took = time.monotonic() - start
            assert took < self.bound, f"it raised after {took:.1f} s"
        else:
            raise AssertionError("LayerUnavailable was not raised while the server was away")

    def _reaches(self, send: Callable[[Content], None], inbox: Inbox, content: Content) -> None:
        """Send until it arrives: in its first moments a server may not know everybody."""
        self._until(
            lambda: self._works(partial(send, content)) and inbox.eventually(content, self.short),
            f"{content} to arrive",
        )
        while inbox.eventually(content, self.short):
            pass  # sent more than once

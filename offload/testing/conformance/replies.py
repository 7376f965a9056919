"""Process-specific and single-reader channels."""

from __future__ import annotations

from offload.exceptions import InvalidChannelName
from offload.testing.conformance.suite import Inbox, Suite, raises


class Replies(Suite):
    """Process-specific and single-reader channels."""

    def test_reply_channel_is_reached_from_any_process(self) -> None:
        owner, other = self.layer(), self.layer()
        inbox, bystander = Inbox(), Inbox()
        channel = owner.new_channel("websocket.send")
        owner.attach(channel, inbox)
        owner.attach(owner.new_channel("websocket.send"), bystander)
        for layer in (owner, other):
            layer.send(channel, {"text": "hi"})
            assert inbox.next(self.patience) == {"text": "hi"}
        assert bystander.empty()

    def test_reply_channel_gets_messages_of_one_sender_in_order(self) -> None:
        owner, other = self.layer(), self.layer()
        inbox = Inbox()
        channel = owner.new_channel("reply")
        owner.attach(channel, inbox)
        for number in range(200):
            other.send(channel, {"n": number})
        assert [inbox.next(self.patience)["n"] for _ in range(200)] == list(range(200))

    def test_reply_channel_has_no_capacity(self) -> None:
        owner, other = self.layer(capacity=1), self.layer(capacity=1)
        inbox = Inbox()
        channel = owner.new_channel("reply")
        owner.attach(channel, inbox)
        for layer in (owner, other):
            for _ in range(10):
                layer.send(channel, {})
        for _ in range(20):
            inbox.next(self.patience)

    def test_send_to_a_reply_channel_that_is_gone_does_nothing(self) -> None:
        owner, other = self.layer(), self.layer()
        inbox = Inbox()
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
        with raises(InvalidChannelName):
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

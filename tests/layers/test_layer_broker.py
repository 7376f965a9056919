"""The broker in memory, by itself and against a simple model."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from offload.exceptions import ChannelFull
from offload.layers.local.broker import GIVEN_SECONDS, MOST_DUE, MOST_DUE_BYTES, SWEEP_INTERVAL, Broker


def put(broker, channel, payload, now=0.0, expiry=60.0, capacity=100):
    broker.send(channel, payload, now, expiry=expiry, capacity=capacity)


def test_broker_serves_channels_in_turn():
    broker = Broker()
    for number in range(4):
        put(broker, "busy", number)
    put(broker, "quiet", 0)
    served = [broker.receive(["busy", "quiet"], 0)[0] for _ in range(5)]
    assert served.index("quiet") <= 1


def test_broker_does_not_starve_a_channel_by_one_that_is_refilled_each_time():
    broker = Broker()
    for number in range(10):
        put(broker, "old", number)
    served = []
    for number in range(10):
        put(broker, "refilled", number)
        served.append(broker.receive(["refilled", "old"], 0)[0])
    assert served.count("old") == 5


def test_broker_refuses_over_capacity_naming_it():
    broker = Broker()
    put(broker, "a", 1, capacity=1)
    with pytest.raises(ChannelFull) as caught:
        put(broker, "a", 2, capacity=1)
    assert str(caught.value) == "channel 'a' holds 1 messages, which is its capacity"
    assert broker.statistics()["full"] == 1


def test_broker_counts_no_expired_message_against_the_capacity_wherever_it_stands():
    broker = Broker()
    put(broker, "a", "long", expiry=60, capacity=2)
    put(broker, "a", "short", expiry=1, capacity=2)
    put(broker, "a", "new", now=2, capacity=2)
    assert [broker.receive(["a"], 2)[1] for _ in range(2)] == ["long", "new"]
    assert broker.expired == 1


def test_broker_sweeps_away_what_nobody_asks_for():
    broker = Broker()
    for number in range(10):
        put(broker, f"dead.{number}", 0, expiry=1)
        broker.group_add(f"dead.{number}", "member", 0.0, group_expiry=1)
        broker.session_save(f"dead.{number}", 0, 0.0, expiry=1)
    put(broker, "alive", 0, now=SWEEP_INTERVAL + 1)
    held = broker.statistics()
    assert held == {"pending": 1, "delayed": 0, "channels": 1, "groups": 0, "sessions": 0, "full": 0, "expired": 10}


def test_broker_group_send_names_the_channels_reached_and_counts_the_full():
    broker = Broker()
    for channel in ("a", "b"):
        broker.group_add("g", channel, 0.0, group_expiry=10)
    put(broker, "a", 0)
    sent = broker.group_send("g", 1, 0.0, expiry=60, capacity_of=lambda channel: 1)
    assert sent == (["b"], 1)
    assert broker.group_send("g", 1, 10.0, expiry=60, capacity_of=lambda channel: 9) == ([], 0)


CHANNELS = st.sampled_from("abc")
SECONDS = st.integers(1, 20)


class BrokerAgainstModel(RuleBasedStateMachine):
    """The model keeps plain lists and filters them by time at every look."""

    def __init__(self):
        super().__init__()
        self.broker = Broker()
        self.now = 0.0
        self.queues = {}
        self.groups = {}
        self.sessions = {}
        self.serial = 0

    def pending(self, channel):
        return [payload for ends, payload in self.queues.get(channel, []) if ends > self.now]

    @rule(seconds=SECONDS)
    def wait(self, seconds):
        self.now += seconds

    @rule(channel=CHANNELS, expiry=SECONDS, capacity=st.integers(1, 3))
    def send(self, channel, expiry, capacity):
        self.serial += 1
        fits = len(self.pending(channel)) < capacity
        try:
            self.broker.send(channel, self.serial, self.now, expiry=expiry, capacity=capacity)
            assert fits
            self.queues.setdefault(channel, []).append((self.now + expiry, self.serial))
        except ChannelFull:
            assert not fits

    @rule(channels=st.lists(CHANNELS, min_size=1, unique=True))
    def receive(self, channels):
        found = self.broker.receive(channels, self.now)
        if found is None:
            assert not any(self.pending(channel) for channel in channels)
        else:
            channel, payload = found
            assert channel in channels
            assert payload == self.pending(channel)[0]
            self.queues[channel] = [item for item in self.queues[channel] if item[1] != payload]

    @rule(group=CHANNELS, channel=CHANNELS, expiry=SECONDS)
    def group_add(self, group, channel, expiry):
        self.broker.group_add(group, channel, self.now, group_expiry=expiry)
        self.groups[group, channel] = self.now + expiry

    @rule(group=CHANNELS, channel=CHANNELS)
    def group_discard(self, group, channel):
        self.broker.group_discard(group, channel)
        self.groups.pop((group, channel), None)

    @rule(group=CHANNELS, expiry=SECONDS, capacity=st.integers(1, 3))
    def group_send(self, group, expiry, capacity):
        self.serial += 1
        members = {name for (its, name), ends in self.groups.items() if its == group and ends > self.now}
        free = {name for name in members if len(self.pending(name)) < capacity}
        reached, full = self.broker.group_send(
            group, self.serial, self.now, expiry=expiry, capacity_of=lambda channel: capacity
        )
        assert set(reached) == free
        assert len(reached) == len(free)
        assert full == len(members - free)
        for name in free:
            self.queues.setdefault(name, []).append((self.now + expiry, self.serial))

    @rule(key=CHANNELS, expiry=SECONDS)
    def session_save(self, key, expiry):
        self.serial += 1
        self.broker.session_save(key, self.serial, self.now, expiry=expiry)
        self.sessions[key] = (self.now + expiry, self.serial)

    @rule(key=CHANNELS, seconds=SECONDS | st.just(0))
    def session_expire(self, key, seconds):
        self.broker.session_expire(key, self.now, seconds=seconds)
        if key in self.sessions and self.sessions[key][0] > self.now:
            self.sessions[key] = (self.now + seconds, self.sessions[key][1])

    @rule()
    def flush(self):
        self.broker.flush()
        self.queues, self.groups, self.sessions = {}, {}, {}

    @precondition(lambda self: self.serial)
    @rule()
    def sweep(self):
        self.broker.sweep(self.now)
        held = self.broker.statistics()
        assert held["pending"] == sum(len(self.pending(channel)) for channel in "abc")
        assert held["channels"] == sum(bool(self.pending(channel)) for channel in "abc")
        assert held["groups"] == len({group for (group, _), ends in self.groups.items() if ends > self.now})

    @invariant()
    def sessions_are_the_same(self):
        for key in "abc":
            ends, value = self.sessions.get(key, (0, None))
            assert self.broker.session_load(key, self.now) == (value if ends > self.now else None)


TestBrokerAgainstModel = BrokerAgainstModel.TestCase
TestBrokerAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_broker_gives_delayed_messages_in_the_order_of_their_times():
    broker = Broker()
    for number, due in enumerate((5.0, 3.0, 3.0, 9.0)):
        broker.keep("channel", b"%d" % number, due)
    assert broker.take_due("taker", 0, 1, 2.0) == (1, [], 1.0)
    assert broker.take_due("taker", 1, 2, 5.0) == (2, [("channel", b"1"), ("channel", b"2"), ("channel", b"0")], 4.0)
    assert broker.take_due("taker", 2, 3, 9.0) == (3, [("channel", b"3")], None)
    broker.keep("channel", b"x", 1.0)
    assert broker.statistics()["delayed"] == 1
    broker.flush()
    assert broker.take_due("taker", 3, 4, 9.0) == (4, [], None)


def test_broker_gives_delayed_messages_again_until_their_taker_has_received_them():
    broker = Broker()
    broker.keep("channel", b"1", 1.0)
    assert broker.take_due("one", 0, 1, 2.0).messages == [("channel", b"1")]
    broker.keep("channel", b"2", 1.0)
    assert broker.take_due("one", 0, 2, 2.0) == (1, [("channel", b"1")], 0.0)
    assert broker.take_due("other", 0, 1, 2.0).messages == [("channel", b"2")]
    assert broker.take_due("one", 1, 3, 2.0) == (3, [], None)
    # A call that a server held up comes after later ones.
    broker.keep("channel", b"3", 1.0)
    assert broker.take_due("one", 0, 2, 2.0).messages == [("channel", b"3")]
    assert broker.take_due("one", 3, 4, 2.0) == (2, [("channel", b"3")], None)
    assert broker.take_due("one", 2, 5, 2.0) == (5, [], None)


def test_broker_forgets_what_an_ended_taker_was_given():
    broker = Broker()
    broker.keep("channel", b"1", 1.0)
    broker.take_due("taker", 0, 1, 2.0)
    broker.sweep(2.0 + GIVEN_SECONDS)
    assert broker.take_due("taker", 0, 2, 2.0 + GIVEN_SECONDS) == (2, [], None)


def test_broker_gives_delayed_messages_some_at_a_time():
    broker = Broker()
    for _ in range(MOST_DUE + 1):
        broker.keep("channel", b"", 1.0)
    due = broker.take_due("taker", 0, 1, 2.0)
    assert (len(due.messages), due.seconds) == (MOST_DUE, 0.0)


def test_broker_gives_large_delayed_messages_one_by_one():
    broker = Broker()
    for size in (MOST_DUE_BYTES + 1, 1, MOST_DUE_BYTES - 1, 1):
        broker.keep("channel", bytes(size), 1.0)
    taken = [broker.take_due("taker", batch, batch + 1, 2.0).messages for batch in range(4)]
    assert [[len(message) for _, message in messages] for messages in taken] == [
        [MOST_DUE_BYTES + 1],
        [1, MOST_DUE_BYTES - 1],
        [1],
        [],
    ]

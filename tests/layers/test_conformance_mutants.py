"""The conformance suite against broken layers: each thing that a layer can get wrong fails the test that is for it."""

import threading
import time

import pytest

from offload.exceptions import ChannelFull
from offload.layers.front import LayerBase
from offload.layers.local.broker import Broker
from offload.layers.local.memberships import Memberships
from offload.layers.local.subscriptions import Subscriptions
from offload.layers.memory import MemoryBackend, MemoryLayer, MemoryServer
from offload.layers.words import names
from offload.layers.words.settings import LayerSettings
from offload.testing.conformance import LayerConformance

MANY = 10**9
PAUSE = 0.002
"""Between looking and acting, for layers whose steps others can come between."""


class Conformance(LayerConformance):
    __test__ = False
    patience, short = 0.5, 0.03

    def __init__(self):
        self.server = MemoryServer()

    def make_layer(self, **settings):
        return MemoryLayer(self.server, **settings)


def head_of(broker, channel):
    queue = broker._queues.get(channel)
    return queue.messages[0][1] if queue else None


def takes_the_newest(patch):
    def receive(self, channels, now):
        for channel in channels:
            queue = self._queues.get(channel)
            if queue and self._drop_expired(channel, queue, now):
                payload = queue.messages.pop()[1]
                if not queue.messages:
                    del self._queues[channel]
                return channel, payload
        return None

    patch.setattr(Broker, "receive", receive)


def serves_one_channel_first(patch):
    receive = Broker.receive
    patch.setattr(
        Broker,
        "receive",
        lambda self, channels, now: next(
            (found for channel in sorted(channels) if (found := receive(self, [channel], now))), None
        ),
    )


def looks_at_five_channels(patch):
    receive = MemoryBackend.take
    patch.setattr(MemoryBackend, "take", lambda self, channels, timeout: receive(self, channels[:5], timeout))


def gives_a_message_to_two(patch):
    receive, seen = Broker.receive, []

    def again(self, channels, now):
        found = receive(self, channels, now)
        if found is not None and not any(found[1] is payload for payload in seen):
            seen.append(found[1])
            self._put(*found, now + 60, now, MANY)
        return found

    patch.setattr(Broker, "receive", again)


def gives_a_message_to_all_who_look_at_once(patch):
    receive = MemoryBackend.take

    def racing(self, channels, timeout):
        with self.broker.exclusive() as (broker, _):
            heads = [(channel, head_of(broker, channel)) for channel in channels]
        for channel, payload in heads:
            if payload is not None:
                time.sleep(PAUSE)
                receive(self, [channel], 0)
                return channel, payload
        return receive(self, channels, timeout)

    patch.setattr(MemoryBackend, "take", racing)


def never_waits(patch):
    receive = LayerBase.receive
    patch.setattr(LayerBase, "receive", lambda self, channels, timeout=None: receive(self, channels, timeout or 0))


def takes_no_limit_for_none_at_all(patch):
    receive = LayerBase.receive
    patch.setattr(
        LayerBase,
        "receive",
        lambda self, channels, timeout=None: receive(self, channels, 0 if timeout is None else timeout),
    )


def always_waits(patch):
    original = MemoryBackend.take
    patch.setattr(MemoryBackend, "take", lambda self, channels, timeout: original(self, channels, timeout or 0.1))


def put(change):
    """A broker whose messages are put otherwise: `change` is given and returns expires, now, capacity."""

    def mutate(patch):
        original = Broker._put
        patch.setattr(
            Broker, "_put", lambda self, channel, payload, *how: original(self, channel, payload, *change(*how))
        )

    return mutate


def counts_expired_messages_as_held(patch):
    original = Broker._put

    def _put(self, channel, payload, expires, now, capacity):
        queue = self._queues.get(channel)
        full = queue is not None and len(queue.messages) >= capacity
        return not full and original(self, channel, payload, expires, now, capacity)

    patch.setattr(Broker, "_put", _put)


def lets_two_senders_exceed_the_capacity(patch):
    def push(self, channel, payload, expiry, capacity):
        with self.broker.exclusive() as (broker, _):
            queue = broker._queues.get(channel)
            is_full = queue is not None and len(queue.messages) >= capacity
        time.sleep(PAUSE)
        self.broker.send(channel, payload, expiry, capacity if is_full else MANY)

    patch.setattr(MemoryBackend, "push", push)


def drops_the_oldest_of_a_full_channel(patch):
    original = Broker.send

    def send(self, channel, *arguments, **more):
        try:
            original(self, channel, *arguments, **more)
        except ChannelFull:
            self._queues[channel].messages.popleft()
            raise

    patch.setattr(Broker, "send", send)


def has_one_capacity(patch):
    patch.setattr(LayerSettings, "capacity_of", lambda self, channel: self.capacity)


def follows_the_last_glob(patch):
    patch.setattr(
        LayerSettings,
        "capacity_of",
        lambda self, channel: [self.capacity, *(number for glob, number in self._globs if glob.match(channel))][-1],
    )


def counts_nothing_expired(patch):
    patch.setattr(Broker, "expired", property(lambda self: 0, lambda self, value: None), raising=False)


def counts(name):
    """A layer that counts nothing of this name."""

    def mutate(patch):
        original = MemoryLayer.statistics
        patch.setattr(MemoryLayer, "statistics", lambda self: {**original(self), name: 0})

    return mutate


def has_no_counter_of_reconnects(patch):
    original = MemoryLayer.statistics
    patch.setattr(
        MemoryLayer,
        "statistics",
        lambda self: {name: value for name, value in original(self).items() if name != "reconnects"},
    )


def keeps_members_for_ever(patch):
    original = Subscriptions.__init__
    patch.setattr(Subscriptions, "__init__", lambda self, expiry, *more: original(self, MANY, *more))


def keeps_queues_as_members_for_ever(patch):
    original = Broker.group_add
    patch.setattr(
        Broker,
        "group_add",
        lambda self, group, channel, now, group_expiry: original(self, group, channel, now, group_expiry=MANY),
    )


def renews_no_member(patch):
    original = Subscriptions.add

    def add(self, group, channel):
        return channel in self._members.get(group, {}) or original(self, group, channel)

    patch.setattr(Subscriptions, "add", add)


def renews_no_queue(patch):
    original = Broker.group_add

    def group_add(self, group, channel, now, group_expiry):
        if channel not in self.group_members(group, now):
            original(self, group, channel, now, group_expiry=group_expiry)

    patch.setattr(Broker, "group_add", group_add)


def sends_twice_through_groups(patch):
    original = Broker.group_send
    patch.setattr(
        Broker,
        "group_send",
        lambda self, *arguments, **more: [original(self, *arguments, **more) for _ in range(2)][1],
    )


def stops_at_a_full_member(patch):
    def group_send(self, group, payload, now, *, expiry, capacity_of):
        reached = []
        for channel in self.group_members(group, now):
            if not self._put(channel, payload, now + expiry, now, capacity_of(channel)):
                return reached, 1
            reached.append(channel)
        return reached, 0

    patch.setattr(Broker, "group_send", group_send)


def keeps_what_came_through_a_group(patch):
    original = Broker.group_send
    patch.setattr(
        Broker,
        "group_send",
        lambda self, *arguments, expiry, capacity_of: original(self, *arguments, expiry=MANY, capacity_of=capacity_of),
    )


def counts_no_full_member(patch):
    original = MemoryBackend.group_send
    patch.setattr(MemoryBackend, "group_send", lambda self, *arguments: original(self, *arguments) * 0)


def discards_no_queue(patch):
    patch.setattr(Broker, "group_discard", lambda self, group, channel: None)


def answers_before_it_adds(patch):
    """Whoever asks for another process's channel is told too early."""
    original = Memberships.add_soon

    def add_soon(self, group, channel, told):
        threading.Timer(0.05, original, (self, group, channel, lambda error: True)).start()
        told(None)

    patch.setattr(Memberships, "add_soon", add_soon)


def discards_late(patch):
    original = Memberships.discard
    patch.setattr(
        Memberships,
        "discard",
        lambda self, *arguments: threading.Timer(0.05, original, (self, *arguments)).start(),
    )


def detaches_nobody_from_groups(patch):
    patch.setattr(Subscriptions, "detach", lambda self, channel: (self._receivers.pop(channel, None), [])[1])


def keeps_members_when_closed(patch):
    patch.setattr(MemoryLayer, "close", lambda self: None)


def ignores_the_prefix(patch):
    original = MemoryServer.broker
    patch.setattr(MemoryServer, "broker", lambda self, prefix: original(self, ""))


def gives_short_names(patch):
    patch.setattr(names, "_SECRET_BYTES", 6)


def is_the_same_process_in_a_fork(patch):
    patch.setattr(LayerBase, "_after_fork", lambda self: None)


def deletes_no_session(patch):
    patch.setattr(Broker, "session_delete", lambda self, key: None)


def keeps_sessions_for_ever(patch):
    original = Broker.session_save
    patch.setattr(
        Broker,
        "session_save",
        lambda self, key, payload, now, expiry: original(self, key, payload, now, expiry=MANY),
    )


def flushes_no_session(patch):
    original = Broker.flush

    def flush(self):
        sessions = dict(self._sessions)
        original(self)
        self._sessions.update(sessions)

    patch.setattr(Broker, "flush", flush)


MUTANTS = [
    (takes_the_newest, "channel_delivers_in_order_from_another_process"),
    (serves_one_channel_first, "receive_is_fair_between_channels"),
    (looks_at_five_channels, "receive_looks_at_every_channel"),
    (gives_a_message_to_two, "message_goes_to_one_listener_only"),
    (gives_a_message_to_all_who_look_at_once, "message_goes_to_one_listener_only"),
    (never_waits, "receive_without_limit_waits_for_a_message"),
    (takes_no_limit_for_none_at_all, "receive_without_limit_waits_for_a_message"),
    (always_waits, "receive_without_patience_does_not_wait"),
    (put(lambda expires, now, capacity: (now + MANY, now, capacity)), "message_expires"),
    (put(lambda expires, now, capacity: (expires, now, capacity + 1)), "full_channel_refuses_at_once"),
    (counts_expired_messages_as_held, "message_expires"),
    (lets_two_senders_exceed_the_capacity, "capacity_holds_whoever_sends_at_once"),
    (drops_the_oldest_of_a_full_channel, "full_channel_refuses_at_once"),
    (has_one_capacity, "capacity_of_single_channels_follows"),
    (follows_the_last_glob, "capacity_of_single_channels_follows"),
    (counts_nothing_expired, "messages_that_expired_are_counted"),
    (counts("expired"), "messages_that_expired_are_counted"),
    (counts("lost"), "messages_that_an_own_channel_had_no_room_for"),
    (has_no_counter_of_reconnects, "statistics_count"),
    (keeps_members_for_ever, "membership_expires"),
    (keeps_queues_as_members_for_ever, "membership_expires"),
    (renews_no_member, "adding_again_renews_a_membership"),
    (renews_no_queue, "adding_again_renews_a_membership"),
    (sends_twice_through_groups, "group_has_named_channels_as_members"),
    (stops_at_a_full_member, "group_send_passes_over_full_channels"),
    (keeps_what_came_through_a_group, "message_through_a_group_expires_in_a_queue"),
    (counts_no_full_member, "group_send_passes_over_full_channels"),
    (discards_no_queue, "group_has_named_channels_as_members"),
    (answers_before_it_adds, "add_is_in_force_on_return"),
    (discards_late, "discard_is_in_force_on_return"),
    (detaches_nobody_from_groups, "detach_leaves_every_group"),
    (keeps_members_when_closed, "closed_layer_can_be_used_again"),
    (ignores_the_prefix, "prefix_keeps_layers_apart"),
    (gives_short_names, "new_names_are_unique_and_long"),
    (is_the_same_process_in_a_fork, "forked_child_is_a_process_of_its_own"),
    (deletes_no_session, "session_is_read_by_any_process"),
    (keeps_sessions_for_ever, "session_expires"),
    (flushes_no_session, "flush_drops_messages_groups_and_sessions"),
]


def run(test):
    (name,) = [name for name in dir(LayerConformance) if name.startswith(f"test_{test}")]
    suite = Conformance()
    suite.setup_method()
    try:
        getattr(suite, name)()
    finally:
        suite.teardown_method()


@pytest.mark.parametrize(("mutate", "test"), MUTANTS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_conformance_suite_fails_a_layer_that(monkeypatch, mutate, test):
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        run(test)

"""The conformance suite against broken layers: each thing that a layer can get wrong fails the test that is for it."""

import threading
import time

import pytest

from offload.exceptions import ChannelFull, LayerUnreachable
from offload.layers.front import LayerBase
from offload.layers.local.broker import Broker
from offload.layers.local.memberships import Memberships
from offload.layers.local.owner import LocalProcess
from offload.layers.local.subscriptions import Subscriptions
from offload.layers.memory import MemoryBackend, MemoryLayer, MemoryServer
from offload.layers.words import names
from offload.layers.words.settings import LayerSettings
from offload.testing.conformance import LayerConformance

MANY = 10**9
PAUSE = 0.002
"""Seconds between looking and acting, for layers whose steps others can come between."""


def let_others_come_between():
    time.sleep(PAUSE)


class Conformance(LayerConformance):
    __test__ = False
    patience, short = 0.5, 0.03

    def __init__(self):
        self.server = MemoryServer()

    def make_layer(self, **settings):
        return MemoryLayer(self.server, **settings)


class FaultyServer(MemoryServer):
    """One that can be away.

    Attributes:
        here: set while it is not away.
        backends: of those who are connected.
    """

    def __init__(self):
        super().__init__()
        self.here = threading.Event()
        self.here.set()
        self.backends = []

    @property
    def away(self):
        return not self.here.is_set()

    def go(self):
        self.here.clear()
        for backend in self.backends:
            backend.lose()

    def come_back(self):
        self.here.set()
        for backend in self.backends:
            backend.restore()


class FaultyBackend(MemoryBackend):
    """It loses its connection when the server goes, and restores its subscriptions when that is back."""

    timeout = 0.2

    def __init__(self, server, owner):
        super().__init__(server, owner, is_private=False)
        self._topics = {}
        server.backends.append(self)

    def __getattribute__(self, name):
        if name in ("check", "push", "publish", "group_send", "set_member", "flush") or (name.startswith("session_")):
            self.look()
        return super().__getattribute__(name)

    def look(self):
        if self._server.away:
            raise LayerUnreachable("layer 'faulty' is away")

    def take(self, channels, timeout):
        ends = time.monotonic() + (MANY if timeout is None else timeout)
        while True:
            self.look()
            found = super().take(channels, 0.01 if timeout else 0)
            if found is not None or time.monotonic() >= ends:
                return found

    def subscribe(self, topic, number):
        self._topics[topic] = number
        if self._server.away:
            self._owner.failed({topic: number}, LayerUnreachable("layer 'faulty' is away"))
        else:
            super().subscribe(topic, number)

    def unsubscribe(self, topic):
        self._topics.pop(topic, None)
        super().unsubscribe(topic)

    def lose(self):
        self._server.leave(self._owner)
        self._owner.lost(self._topics.copy(), "layer 'faulty' lost its server")

    def restore(self):
        for topic in list(self._topics):
            self._server.subscribe(topic, self._owner)
        self._owner.subscribed(self._topics.copy())
        self._owner.reconnected()


class FaultyLayer(MemoryLayer):
    def make_backend(self, owner):
        return FaultyBackend(self._server, owner)


class FaultyConformance(LayerConformance):
    """With a server that can be away: what the mutants of faults are made of, and which itself passes."""

    short, bound = 0.05, 1.0

    def setup_method(self):
        super().setup_method()
        self.server = FaultyServer()

    def make_layer(self, **settings):
        return FaultyLayer(self.server, **settings)

    def stop_server(self):
        self.server.go()

    def start_server(self):
        self.server.come_back()

    freeze_server, thaw_server = stop_server, start_server


class TestFaultyLayer(FaultyConformance):
    pass


class BrokenConformance(FaultyConformance):
    __test__ = False
    patience = 1.0


def never_comes_back(patch):
    patch.setattr(FaultyBackend, "restore", lambda self: self._owner.reconnected())


def comes_back_without_its_inbox(patch):
    original = FaultyBackend.restore

    def restore(self):
        self._topics = {topic: number for topic, number in self._topics.items() if topic.startswith("group:")}
        original(self)

    patch.setattr(FaultyBackend, "restore", restore)


def comes_back_with_its_last_group_only(patch):
    original = FaultyBackend.restore

    def restore(self):
        groups = [topic for topic in self._topics if topic.startswith("group:")]
        for group in groups[:-1]:
            del self._topics[group]
        original(self)

    patch.setattr(FaultyBackend, "restore", restore)


def comes_back_with_what_was_given_up(patch):
    def unsubscribe(self, topic):
        if not self._server.away:
            self._topics.pop(topic, None)
        MemoryBackend.unsubscribe(self, topic)

    def restore(self):
        for topic in list(self._topics):
            self._server.subscribe(topic, self._owner)
        self._owner.subscribed(self._topics.copy())
        self._owner.reconnected()

    patch.setattr(FaultyBackend, "unsubscribe", unsubscribe)
    patch.setattr(FaultyBackend, "restore", restore)
    patch.setattr(Memberships, "discard", lambda self, group, channel: self._topics.release(f"group:{group}"))


def counts_no_return(patch):
    patch.setattr(LocalProcess, "reconnected", lambda self: None)


def waits_for_its_server(patch):
    def look(self):
        if not self._server.here.wait(1.5):
            raise LayerUnreachable("layer 'faulty' is away")

    patch.setattr(FaultyBackend, "look", look)


def says_nothing_when_its_server_is_away(patch):
    patch.setattr(FaultyBackend, "look", lambda self: None)


def raises_something_else(patch):
    def look(self):
        if self._server.away:
            raise ConnectionError("away")

    patch.setattr(FaultyBackend, "look", look)


def keeps_what_failed(patch):
    """A subscription that failed counts as made."""
    patch.setattr(FaultyBackend, "subscribe", lambda self, topic, number: self._owner.subscribed({topic: number}))


def hears_nobody(patch):
    original = MemoryBackend.publish
    patch.setattr(MemoryBackend, "publish", lambda self, *arguments: original(self, *arguments) * 0)


def hears_everybody(patch):
    original = MemoryBackend.publish
    patch.setattr(MemoryBackend, "publish", lambda self, *arguments: original(self, *arguments) or 1)


def head_of(broker, channel):
    queue = broker.queues.get(channel)
    return queue.messages[0][1] if queue else None


def takes_the_newest(patch):
    def receive(self, channels, now):
        for channel in channels:
            queue = self.queues.get(channel)
            if queue and self.drop_expired(channel, queue, now):
                payload = queue.messages.pop()[1]
                if not queue.messages:
                    del self.queues[channel]
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
            self.put(*found, now + 60, now, MANY)
        return found

    patch.setattr(Broker, "receive", again)


def gives_a_message_to_all_who_look_at_once(patch):
    receive = MemoryBackend.take

    def racing(self, channels, timeout):
        with self.broker.exclusive() as (broker, _):
            heads = [(channel, head_of(broker, channel)) for channel in channels]
        for channel, payload in heads:
            if payload is not None:
                let_others_come_between()
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
        original = Broker.put
        patch.setattr(
            Broker, "put", lambda self, channel, payload, *how: original(self, channel, payload, *change(*how))
        )

    return mutate


def counts_expired_messages_as_held(patch):
    original = Broker.put

    def put(self, channel, payload, expires, now, capacity):
        queue = self.queues.get(channel)
        full = queue is not None and len(queue.messages) >= capacity
        return not full and original(self, channel, payload, expires, now, capacity)

    patch.setattr(Broker, "put", put)


def lets_two_senders_exceed_the_capacity(patch):
    def push(self, channel, payload, expiry, capacity):
        with self.broker.exclusive() as (broker, _):
            queue = broker.queues.get(channel)
            is_full = queue is not None and len(queue.messages) >= capacity
        let_others_come_between()
        self.broker.send(channel, payload, expiry, capacity if is_full else MANY)

    patch.setattr(MemoryBackend, "push", push)


def drops_the_oldest_of_a_full_channel(patch):
    original = Broker.send

    def send(self, channel, *arguments, **more):
        try:
            original(self, channel, *arguments, **more)
        except ChannelFull:
            self.queues[channel].messages.popleft()
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
            if not self.put(channel, payload, now + expiry, now, capacity_of(channel)):
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
    patch.setattr(LayerBase, "after_fork", lambda self: None)


def deletes_no_session(patch):
    original = Broker.session_expire

    def expire(self, key, now, seconds):
        if seconds:
            original(self, key, now, seconds=seconds)

    patch.setattr(Broker, "session_expire", expire)


def renews_no_session(patch):
    original = Broker.session_expire

    def expire(self, key, now, seconds):
        if not seconds:
            original(self, key, now, seconds=seconds)

    patch.setattr(Broker, "session_expire", expire)


def makes_the_session_that_it_renews(patch):
    original = Broker.session_expire

    def expire(self, key, now, seconds):
        if seconds:
            other = next(iter(self._sessions.values()))
            self._sessions.setdefault(key, other)
        original(self, key, now, seconds=seconds)

    patch.setattr(Broker, "session_expire", expire)


def renews_what_a_session_was(patch):
    original = MemoryBackend.session_expire

    def expire(self, key, seconds):
        payload = self.session_load(key)
        let_others_come_between()
        original(self, key, seconds)
        if seconds and payload is not None:
            self.session_save(key, payload, seconds)

    patch.setattr(MemoryBackend, "session_expire", expire)


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
    (renews_no_session, "session_is_renewed_as_it_is"),
    (makes_the_session_that_it_renews, "session_is_renewed_as_it_is"),
    (renews_what_a_session_was, "session_is_renewed_beside_a_save"),
    (keeps_sessions_for_ever, "session_expires"),
    (flushes_no_session, "flush_drops_messages_groups_and_sessions"),
]


FAULTY_MUTANTS = [
    (never_comes_back, "stopped_server_is_found_again"),
    (never_comes_back, "frozen_server_loses_no_subscription"),
    (never_comes_back, "memberships_follow"),
    (comes_back_without_its_inbox, "stopped_server_is_found_again"),
    (comes_back_with_its_last_group_only, "stopped_server_is_found_again"),
    (comes_back_with_what_was_given_up, "memberships_follow"),
    (counts_no_return, "stopped_server_is_found_again"),
    (waits_for_its_server, "stopped_server_raises_in_time"),
    (waits_for_its_server, "frozen_server_raises_in_time"),
    (says_nothing_when_its_server_is_away, "stopped_server_raises_in_time"),
    (says_nothing_when_its_server_is_away, "frozen_server_raises_in_time"),
    (says_nothing_when_its_server_is_away, "what_could_not_be_sent_is_counted"),
    (keeps_what_failed, "group_that_nobody_could_add_to"),
    (hears_nobody, "message_for_a_process_that_nobody_hears"),
    (hears_everybody, "message_for_a_process_that_nobody_hears"),
]


def run(test, kind=Conformance):
    (name,) = [name for name in dir(LayerConformance) if name.startswith(f"test_{test}")]
    suite = kind()
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


@pytest.mark.parametrize(("mutate", "test"), FAULTY_MUTANTS)
def test_conformance_suite_fails_a_layer_whose_server_was_away_and_that(monkeypatch, mutate, test):
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        run(test, BrokenConformance)


def test_conformance_suite_fails_a_layer_whose_server_was_away_with_another_error(monkeypatch):
    raises_something_else(monkeypatch)
    with pytest.raises(ConnectionError):
        run("stopped_server_raises_in_time", BrokenConformance)

"""Memberships that one process asks another for: made beside each other, answered together, dropped when it is late."""

import threading
import time

import pytest

from offload.exceptions import LayerUnavailable
from offload.layers.memory import MemoryBackend, MemoryLayer, MemoryServer
from tests.redis_server import until

PATIENCE = 10.0


class FarBackend(MemoryBackend):
    """Its server takes its time for each subscription, and for each publication.

    Attributes:
        delay: seconds.
        published: topics.
    """

    delay = 0.05
    timeout = 2.0

    def __init__(self, server, owner):
        super().__init__(server, owner, is_private=False)
        self.published = []

    def subscribe(self, topic, number):
        if topic.startswith("inbox:"):
            super().subscribe(topic, number)
        else:
            timer = threading.Timer(self.delay, super().subscribe, (topic, number))
            timer.daemon = True
            timer.start()

    def publish(self, topic, payload):
        self.published.append(topic)
        time.sleep(0.02)
        return super().publish(topic, payload)


class FarLayer(MemoryLayer):
    def make_backend(self, owner):
        return FarBackend(self._server, owner)


@pytest.fixture
def pair():
    """Who owns a channel, its name, and who asks for memberships of it."""
    server = MemoryServer()
    owner, asker = FarLayer(server), FarLayer(server)
    channel = owner.new_channel("reply")
    owner.attach(channel, lambda delivery: None)
    asker.new_channel("reply")
    yield owner, channel, asker
    owner.close()
    asker.close()


def test_many_memberships_of_another_process_wait_for_the_server_together(pair):
    owner, channel, asker = pair
    failed = []

    def add(number):
        try:
            asker.group_add(f"room-{number}", channel)
        except LayerUnavailable as error:
            failed.append(str(error))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(100)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    took = time.monotonic() - began
    assert failed == []
    assert all(owner.subscriptions.has_members(f"room-{number}") for number in range(100))
    # One after the other they would take 100 times 70 ms.
    assert took < 5
    assert len(owner.backend.published) < 100, "answers of one moment leave together"


def test_membership_that_nobody_waits_for_any_more_is_taken_back(pair):
    owner, channel, asker = pair
    asker.backend.timeout = owner.backend.timeout = 0.1
    owner.backend.delay = 0.3
    with pytest.raises(
        LayerUnavailable, match=r"did not answer within 0\.1 s; it is unknown whether group 'late' has it"
    ):
        asker.group_add("late", channel)
    assert owner.subscriptions.has_members("late")
    until(lambda: not owner.subscriptions.has_members("late"), "the membership to be taken back")
    # What is asked for later is made.
    owner.backend.delay = 0.0
    asker.backend.timeout = owner.backend.timeout = PATIENCE
    asker.group_add("late", channel)
    assert owner.subscriptions.has_members("late")


def test_discard_follows_an_add_that_is_under_way(pair):
    owner, channel, asker = pair
    owner.backend.delay = 0.3
    adding = threading.Thread(target=asker.group_add, args=("room", channel))
    adding.start()
    until(lambda: owner.subscriptions.has_members("room"), "the add to come")
    asker.group_discard("room", channel)
    adding.join(PATIENCE)
    assert not owner.subscriptions.has_members("room")

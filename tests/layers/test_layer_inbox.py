"""Memberships that one process asks another for: made beside each other, answered together, dropped when it is late."""

import threading

import pytest

from offload.exceptions import LayerUnavailable
from offload.layers.memory import MemoryBackend, MemoryLayer, MemoryServer
from tests.redis_server import until

PATIENCE = 10.0


class FarBackend(MemoryBackend):
    """Its server confirms subscriptions to groups, and takes publications, when it is let.

    Attributes:
        is_near: whether it confirms at once.
        asked: subscriptions to confirm.
        takes: set while it takes publications.
        published: topics.
    """

    timeout = PATIENCE

    def __init__(self, server, owner):
        super().__init__(server, owner, is_private=False)
        self.is_near = False
        self.asked = []
        self.takes = threading.Event()
        self.takes.set()
        self.published = []

    def subscribe(self, topic, number):
        if self.is_near or topic.startswith("inbox:"):
            super().subscribe(topic, number)
        else:
            self.asked.append((topic, number))

    def confirm(self):
        for topic, number in self.asked:
            super().subscribe(topic, number)

    def publish(self, topic, payload):
        self.published.append(topic)
        self.takes.wait(PATIENCE)
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
    for thread in threads:
        thread.start()
    # One after the other, there would be one.
    until(lambda: len(owner.backend.asked) == 100, "all memberships to be asked for")
    owner.backend.takes.clear()
    owner.backend.confirm()
    owner.backend.takes.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert failed == []
    assert all(owner.subscriptions.has_members(f"room-{number}") for number in range(100))
    assert len(owner.backend.published) < 100, "answers of one moment leave together"


def test_membership_that_nobody_waits_for_any_more_is_taken_back(pair):
    owner, channel, asker = pair
    asker.backend.timeout = owner.backend.timeout = 0.1
    with pytest.raises(
        LayerUnavailable, match=r"did not answer within 0\.1 s; it is unknown whether group 'late' has it"
    ):
        asker.group_add("late", channel)
    assert owner.subscriptions.has_members("late")
    owner.backend.confirm()
    until(lambda: not owner.subscriptions.has_members("late"), "the membership to be taken back")
    # What is asked for later is made.
    owner.backend.is_near = True
    asker.backend.timeout = owner.backend.timeout = PATIENCE
    asker.group_add("late", channel)
    assert owner.subscriptions.has_members("late")


def test_discard_follows_an_add_that_is_under_way(pair):
    owner, channel, asker = pair
    adding = threading.Thread(target=asker.group_add, args=("room", channel))
    adding.start()
    until(lambda: owner.subscriptions.has_members("room"), "the add to come")
    asker.group_discard("room", channel)
    owner.backend.confirm()
    adding.join(PATIENCE)
    assert not owner.subscriptions.has_members("room")

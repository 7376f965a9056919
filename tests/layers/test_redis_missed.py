"""Messages to a group that a process misses while its subscriber is away are counted as lost."""

import threading

from offload.exceptions import LayerUnavailable
from tests.layers.redis_receiver import joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import redis_server, running_redis, until  # noqa: F401  # a fixture


class Sender:
    """Sends numbered messages until it is told to stop."""

    def __init__(self, layer):
        self.layer = layer
        self.sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while not self._stop.is_set():
            try:
                self.layer.group_send("news", {"n": self.sent + 1})
                self.sent += 1
            except LayerUnavailable:
                self._stop.wait(0.01)

    def stop(self):
        self._stop.set()
        self._thread.join()


def heard_until_last(receiver, layer):
    """How many came, up to the one that is sent now."""
    layer.group_send("news", {"n": "last"})
    heard = 0
    while receiver.next()["n"] != "last":
        heard += 1
    return heard


def test_what_is_missed_while_the_subscriber_is_cut_off_is_counted_exactly(redis_server, redis_layers):  # noqa: F811
    layer, other = redis_layers(redis_server.url), redis_layers(redis_server.url)
    receiver = joined(layer, "news")
    sender = Sender(other)
    try:
        for cuts in range(1, 6):
            before = sender.sent
            until(lambda: sender.sent > before + 20, "some messages")  # noqa: B023
            assert redis_server.run("CLIENT", "KILL", "TYPE", "pubsub")
            until(lambda: layer.statistics()["reconnects"] == cuts, "the subscriber to be back")  # noqa: B023
    finally:
        sender.stop()
    heard = heard_until_last(receiver, other)
    assert layer.statistics()["lost"] == sender.sent - heard
    assert other.statistics()["lost"] == 0


def test_what_is_missed_when_redis_begins_anew_is_within_the_counters(tmp_path, redis_layers, caplog):  # noqa: F811
    with running_redis(tmp_path) as server:
        layer, other = redis_layers(server.url, timeout=1), redis_layers(server.url, timeout=1)
        receiver = joined(layer, "news")
        sender = Sender(other)
        try:
            until(lambda: sender.sent > 100, "some messages")
            server.kill()
            server.start()
            until(lambda: layer.statistics()["reconnects"] == 1, "the subscriber to be back")
            before = sender.sent
            until(lambda: sender.sent > before + 20, "more messages")
        finally:
            sender.stop()
        heard = heard_until_last(receiver, other)
    # What Redis had taken and not delivered when it was killed is one message of this sender's, at most.
    assert sender.sent - heard <= layer.statistics()["lost"] + other.statistics()["lost"] + 1


def test_what_foreign_programs_publish_is_not_counted_as_missed(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url)
    receiver = joined(layer, "news")
    for number in range(3):
        redis_server.run("PUBLISH", "group:news", f'{{"n": {number}}}')
        assert receiver.next() == {"n": number}
    layer.group_send("news", {"n": 3})
    assert receiver.next() == {"n": 3}
    assert redis_server.run("CLIENT", "KILL", "TYPE", "pubsub")
    until(lambda: layer.statistics()["reconnects"] == 1, "the subscriber to be back")
    assert layer.statistics()["lost"] == 0


def test_what_was_heard_is_not_counted_as_missed_when_its_counter_had_expired(redis_server, redis_layers):  # noqa: F811
    layer = redis_layers(redis_server.url)
    receiver = joined(layer, "news")
    for number in range(5):
        layer.group_send("news", {"n": number})
        if number == 2:
            receiver.until({"n": 2})
            assert redis_server.run("PEXPIRE", "sent:{group:news}", "1") == 1
            until(lambda: not redis_server.run("EXISTS", "sent:{group:news}"), "the counter to expire")
    receiver.until({"n": 4})
    assert redis_server.run("CLIENT", "KILL", "TYPE", "pubsub")
    until(lambda: layer.statistics()["reconnects"] == 1, "the subscriber to be back")
    assert layer.statistics()["lost"] == 0

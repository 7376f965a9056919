"""Messages to a group that a process misses while its subscriber is away are counted as lost."""

import queue
import threading
import time

import hiredis

from offload.exceptions import LayerUnavailable
from offload.layers.link.outage import Outage
from offload.layers.redis.resp import pack
from offload.layers.redis.subscriber import Subscriber
from offload.layers.words.settings import LayerSettings
from tests.layers.redis_receiver import joined, redis_layers  # noqa: F401  # a fixture
from tests.redis_server import redis_server, running_redis, until  # noqa: F401  # a fixture

PATIENCE = 10.0


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


class ScriptedServer:
    """Answers as Redis does, and ends connections before the last answer of a return as often as it is told."""

    layer, shown, timeout, keepalive, seen = "redis", "a server", 10.0, pack("PING"), 0.0

    def __init__(self):
        self.counter = [b"5", b"1000"]
        self.cuts = 0
        self.wires = []
        self.asked = set()

    def wire(self, duty):
        self.wires.append(ScriptedWire(self))
        return self.wires[-1]


class ScriptedWire:
    speaks_resp3 = True

    def __init__(self, server):
        self.server = server
        self.commands = hiredis.Reader()
        self.answers = queue.SimpleQueue()

    def open(self): ...

    def send(self, data):
        self.commands.feed(data)
        while command := self.commands.gets():
            if command[0] == b"PING" and self.server.cuts:
                self.server.cuts -= 1
                self.close()
            self.server.asked.add(command[0])
            now = [str(int(time.time())).encode(), b"0"]
            self.answers.put({b"TIME": now, b"HMGET": self.server.counter}.get(command[0], [b"subscribe", b"x", 1]))

    def replies(self, most):
        answer = self.answers.get(timeout=PATIENCE)
        if answer is None:
            raise Outage("ended", was_open=True)
        return [answer]

    def close(self):
        self.answers.put(None)

    abandon = close


class Heard:
    """What an `Owner` is told."""

    settings = LayerSettings()

    def __init__(self):
        self.subscriptions = 0
        self.missed = []
        self.returns = 0

    def subscribed(self, topics, missed=0):
        self.subscriptions += len(topics)
        if missed:
            self.missed.append(missed)

    def lost(self, topics, reason): ...

    def reconnected(self):
        self.returns += 1


def test_what_is_missed_is_counted_once_though_the_return_is_broken_off():
    server, heard = ScriptedServer(), Heard()
    subscriber = Subscriber(server, heard, lambda: False)
    try:
        subscriber.subscribe("group:news", 1)
        until(lambda: heard.subscriptions == 1 and b"HMGET" in server.asked, "the subscription, with its counter")
        # The server begins anew, and has counted three messages when this process is back.
        server.counter, server.cuts = [b"3", str(int(time.time() + 60) * 1000).encode()], 2
        server.wires[0].close()
        until(lambda: heard.missed, "the return")
        assert (heard.missed, heard.returns) == ([3], 1)
        assert len(server.wires) == 4
    finally:
        subscriber.close()

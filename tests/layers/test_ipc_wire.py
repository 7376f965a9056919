"""Frames, and what the hub does with requests: in bytes and lists, without sockets."""

import pytest

from offload.hub.relay import Exchange, Peer
from offload.layers.ipc import wire
from offload.layers.words.settings import LayerSettings


def test_frames_come_out_whole_however_the_bytes_are_cut():
    frames = [[1, 2, "x" * 300], [3, b"\x00" * 70_000, None], [4, "\ud800"]]
    data = b"".join(wire.pack(*frame) for frame in frames)
    for size in (1, 3, 4, 5, 1000, len(data)):
        reader = wire.FrameReader()
        found = []
        for start in range(0, len(data), size):
            found += reader.feed(data[start : start + size])
        assert found == frames


@pytest.mark.parametrize(
    "data",
    [
        (wire.MAX_FRAME_BYTES + 1).to_bytes(4, "big"),
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x01\x90",
        b"\x00\x00\x00\x01\x05",
        b"\x00\x00\x00\x02\x91\xc0",
        b"\x00\x00\x00\x00",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_bytes_that_are_no_frame_are_refused(data):
    with pytest.raises(wire.BrokenFrame):
        wire.FrameReader().feed(data)


class Client(Peer):
    """A client that keeps what it is sent."""

    def __init__(self, world, process="", **settings):
        super().__init__()
        self.process = process
        self.settings = LayerSettings(**settings)
        self.exchange = world.exchange
        self.exchange.join(self)
        self._got = []

    def write(self, frame):
        self._got += wire.FrameReader().feed(frame)

    push = write

    def does(self, kind, *arguments):
        self.exchange.handle(self, [kind, *arguments])
        return self.got()

    def got(self):
        found, self._got = self._got, []
        return found


class World:
    """An exchange with a clock that is turned by hand, in a hub that waits for absent processes for two seconds."""

    def __init__(self, *absent):
        self.now = 0.0
        self.timers = []
        self.exchange = Exchange(lambda: self.now, self.later, set(absent), 2.0)

    def later(self, seconds, function):
        timer = Timer(self.now + seconds, function)
        self.timers.append(timer)
        return timer

    def turn(self, seconds):
        self.now += seconds
        for timer in [timer for timer in self.timers if timer.due <= self.now]:
            self.timers.remove(timer)
            if timer.function is not None:
                timer.function()


class Timer:
    def __init__(self, due, function):
        self.due = due
        self.function = function

    def cancel(self):
        self.function = None


def answer(number, value=None, status=wire.OK):
    return [wire.ANSWER, number, status, value]


def test_message_goes_to_who_has_waited_longest_once():
    world = World()
    sender, one, two = Client(world), Client(world), Client(world)
    assert one.does(wire.TAKE, 7, ["queue", "other"], None) == []
    assert two.does(wire.TAKE, 8, ["queue"], None) == []
    sender.does(wire.PUSH, 1, "queue", b"first", 60.0, 100)
    assert one.got() == [answer(7, ["queue", b"first"])]
    sender.does(wire.PUSH, 2, "other", b"nobody waits here any more", 60.0, 100)
    sender.does(wire.PUSH, 3, "queue", b"second", 60.0, 100)
    assert two.got() == [answer(8, ["queue", b"second"])]
    assert one.got() == []
    assert one.does(wire.TAKE, 9, ["other"], 0) == [answer(9, ["other", b"nobody waits here any more"])]


def test_waiting_receive_is_answered_at_its_time_and_then_forgotten():
    world = World()
    client = Client(world)
    assert client.does(wire.TAKE, 1, ["queue"], 2.0) == []
    world.turn(1.9)
    assert client.got() == []
    world.turn(0.1)
    assert client.got() == [answer(1)]
    assert client.does(wire.PUSH, 2, "queue", b"x", 60.0, 100) == [answer(2)]
    assert client.does(wire.TAKE, 3, ["queue"], 0) == [answer(3, ["queue", b"x"])]


def test_messages_in_hand_go_back_in_front_in_their_order_when_the_client_dies():
    world = World()
    sender, dying, other = Client(world, capacity=3), Client(world), Client(world)
    for number in range(5):
        if number == 3:
            for request in (1, 2, 3):
                dying.does(wire.TAKE, request, ["queue"], 0)
            dying.does(wire.TAKEN, 0, 1)
        sender.does(wire.PUSH, 1, "queue", b"%d" % number, 60.0, 100)
    world.exchange.leave(dying)
    found = [other.does(wire.TAKE, 9, ["queue"], 0)[0][3] for _ in range(5)]
    assert found == [["queue", b"1"], ["queue", b"2"], ["queue", b"3"], ["queue", b"4"], None]


def test_cancel_returns_a_message_in_hand_to_who_waits():
    world = World()
    client, other = Client(world), Client(world)
    client.does(wire.PUSH, 1, "queue", b"x", 60.0, 100)
    assert client.does(wire.TAKE, 2, ["queue"], 0) == [answer(2, ["queue", b"x"])]
    other.does(wire.TAKE, 5, ["queue"], None)
    client.does(wire.CANCEL, 0, 2)
    client.does(wire.CANCEL, 0, 2)
    assert other.got() == [answer(5, ["queue", b"x"])]


def test_cancel_of_a_waiting_receive_leaves_messages_to_others():
    world = World()
    client = Client(world)
    client.does(wire.TAKE, 1, ["a", "b"], 5.0)
    assert client.does(wire.CANCEL, 0, 1) == []
    assert client.does(wire.PUSH, 2, "a", b"x", 60.0, 100) == [answer(2)]
    world.turn(5)
    assert client.got() == []
    assert client.does(wire.TAKE, 3, ["a"], 0) == [answer(3, ["a", b"x"])]


def test_message_that_expired_in_hand_is_not_put_back():
    world = World()
    client = Client(world)
    client.does(wire.PUSH, 1, "queue", b"x", 10.0, 100)
    client.does(wire.TAKE, 2, ["queue"], 0)
    world.turn(10)
    client.does(wire.CANCEL, 0, 2)
    assert client.does(wire.TAKE, 3, ["queue"], 0) == [answer(3)]
    assert world.exchange.broker.statistics()["expired"] == 1


def test_group_wakes_a_receiver_that_waits_for_a_member_queue():
    world = World()
    client, waiting = Client(world), Client(world)
    client.does(wire.SET_MEMBER, 1, "group", "queue", True)
    waiting.does(wire.TAKE, 2, ["queue"], None)
    assert client.does(wire.GROUP_SEND, 3, "group", b"x") == [answer(3, 0)]
    assert waiting.got() == [answer(2, ["queue", b"x"])]


def test_dead_client_leaves_nothing_behind():
    world = World()
    client, other = Client(world, "token"), Client(world, "other")
    client.does(wire.SUBSCRIBE, 1, ["inbox:token", "group:one", "group:two"], False)
    client.does(wire.TAKE, 3, ["queue"], None)
    world.exchange.leave(client)
    counts = other.does(wire.STATISTICS, 5)[0][3]
    assert (counts["clients"], counts["subscriptions"], counts["inboxes"], counts["waiting"]) == (1, 0, 0, 0)
    other.does(wire.GROUP_SEND, 6, "one", b"x")
    assert other.does(wire.PUBLISH, 6, "inbox:token", b"x") == [answer(6, 0)]
    other.does(wire.PUSH, 7, "queue", b"x", 60.0, 100)
    assert client.got() == []
    assert not world.exchange.is_unused()
    other.does(wire.TAKE, 8, ["queue"], 0)
    world.exchange.leave(other)
    assert not world.exchange.is_unused(), "its message went back"


def test_old_connection_of_a_process_that_came_back_takes_nothing_with_it():
    world = World()
    old, new, sender = Client(world, "token"), Client(world, "token"), Client(world)
    for client in (old, new):
        client.does(wire.SUBSCRIBE, 1, ["inbox:token"], True)
    world.exchange.leave(old)
    assert sender.does(wire.PUBLISH, 2, "inbox:token", b"x") == [answer(2, 1)]
    assert new.got() == [[wire.MESSAGE, "inbox:token", b"x"]]


def test_young_hub_holds_what_is_published_until_those_who_were_there_are_back():
    world = World("one", "two")
    sender, one, two = Client(world), Client(world, "one"), Client(world, "two")
    assert sender.does(wire.GROUP_SEND, 1, "room", b"first") == []
    assert one.does(wire.SUBSCRIBE, 1, ["inbox:one", "group:room"], True) == [answer(1, 0)]
    assert sender.does(wire.GROUP_SEND, 2, "room", b"second") == []
    assert sender.does(wire.PUBLISH, 3, "inbox:two", b"direct") == []
    # Who is here need not wait for the others.
    assert sender.does(wire.PUBLISH, 4, "inbox:one", b"direct") == [answer(4, 1)]
    assert one.got() == [[wire.MESSAGE, "inbox:one", b"direct"]]
    messages = [[wire.MESSAGE, "group:room", b"first"], [wire.MESSAGE, "group:room", b"second"]]
    returned = two.does(wire.SUBSCRIBE, 1, ["inbox:two", "group:room"], True)
    assert returned == [answer(1, 0), *messages, [wire.MESSAGE, "inbox:two", b"direct"]]
    assert one.got() == messages
    assert sender.got() == [answer(1, 0), answer(2, 0), answer(3, 1)]
    assert sender.does(wire.GROUP_SEND, 5, "room", b"third") == [answer(5, 0)]


def test_young_hub_holds_nothing_for_longer_than_the_grace_and_tells_who_comes_late_what_was_missed():
    world = World("late")
    sender, late = Client(world), Client(world, "late")
    assert sender.does(wire.GROUP_SEND, 1, "room", b"x") == []
    assert sender.does(wire.PUBLISH, 2, "inbox:late", b"x") == []
    world.turn(2.0)
    assert sender.got() == [answer(1, 0), answer(2, 0)]
    assert sender.does(wire.GROUP_SEND, 3, "room", b"x") == [answer(3, 0)]
    assert sender.does(wire.GROUP_SEND, 4, "other", b"x") == [answer(4, 0)]
    assert late.does(wire.SUBSCRIBE, 1, ["inbox:late", "group:room", "group:empty"], True) == [answer(1, 3)]


def test_young_hub_holds_no_more_than_its_bound_and_counts_what_goes_over(caplog):
    world = World("late")
    sender, late = Client(world), Client(world, "late")
    payload = bytes(1024 * 1024)
    for number in range(1, 17):
        assert sender.does(wire.GROUP_SEND, number, "room", payload) == []
    # All go, in their order, and so does what follows.
    assert sender.does(wire.GROUP_SEND, 17, "room", payload) == [answer(number, 0) for number in range(1, 18)]
    assert sender.does(wire.GROUP_SEND, 18, "room", payload) == [answer(18, 0)]
    assert caplog.messages == [
        "hub: 17 messages, over 16 MiB, waited for processes that are not back (1); they count what they miss"
    ]
    assert late.does(wire.SUBSCRIBE, 1, ["inbox:late", "group:room"], True) == [answer(1, 18)]


def test_process_that_comes_back_to_the_same_hub_is_told_what_it_missed_and_not_what_it_got():
    world = World()
    sender, old = Client(world), Client(world, "token")
    old.does(wire.SUBSCRIBE, 1, ["group:room"], False)
    for number in range(3):
        sender.does(wire.GROUP_SEND, number, "room", b"x")
    assert len(old.got()) == 3
    world.exchange.leave(old)
    for number in range(2):
        sender.does(wire.GROUP_SEND, number, "room", b"x")
    back = Client(world, "token")
    assert back.does(wire.SUBSCRIBE, 1, ["group:room"], True) == [answer(1, 2)]
    assert back.does(wire.SUBSCRIBE, 2, ["group:other"], False) == [answer(2, 0)]


def test_hub_whose_predecessor_had_nobody_holds_nothing():
    world = World()
    sender = Client(world)
    assert sender.does(wire.GROUP_SEND, 1, "room", b"x") == [answer(1, 0)]
    assert sender.does(wire.PUBLISH, 2, "inbox:gone", b"x") == [answer(2, 0)]


def test_sender_goes_at_the_pace_of_the_process_it_sends_to_for_a_while():
    world = World()
    sender, target = Client(world), Client(world, "token")
    target.does(wire.SUBSCRIBE, 1, ["inbox:token"], False)
    target.congested = True
    assert sender.does(wire.PUBLISH, 1, "inbox:token", b"x") == []
    target.congested = False
    world.exchange.relieve(target)
    assert sender.got() == [answer(1, 1)]
    target.congested = True
    assert sender.does(wire.PUBLISH, 2, "inbox:token", b"x") == []
    world.turn(1.0)
    assert sender.got() == [answer(2, 1)]
    assert sender.does(wire.PUBLISH, 3, "inbox:token", b"x") == []
    world.exchange.leave(target)
    world.turn(1.0)
    assert sender.got() == [answer(3, 1)]
    assert [frame[0] for frame in target.got()] == [wire.MESSAGE] * 3


def test_group_does_not_go_at_the_pace_of_its_slowest_process():
    world = World()
    sender, target = Client(world), Client(world, "token")
    target.does(wire.SUBSCRIBE, 1, ["group:group"], False)
    target.congested = True
    assert sender.does(wire.GROUP_SEND, 1, "group", b"x") == [answer(1, 0)]

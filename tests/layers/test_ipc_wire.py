"""Frames, and what the hub does with requests: in bytes and lists, without sockets."""

import pytest

from offload.hub.relay import MOST_LEFT, MOST_LEFT_FOR, Exchange, Peer
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
    """An exchange with a clock that is turned by hand."""

    def __init__(self, grace=0.0):
        self.now = 0.0
        self.timers = []
        self.exchange = Exchange(lambda: self.now, self.later, grace)

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
    assert one.does(wire.RECEIVE, 7, ["queue", "other"], None) == []
    assert two.does(wire.RECEIVE, 8, ["queue"], None) == []
    sender.does(wire.SEND, 1, "queue", b"first")
    assert one.got() == [answer(7, ["queue", b"first"])]
    sender.does(wire.SEND, 2, "other", b"nobody waits here any more")
    sender.does(wire.SEND, 3, "queue", b"second")
    assert two.got() == [answer(8, ["queue", b"second"])]
    assert one.got() == []
    assert one.does(wire.RECEIVE, 9, ["other"], 0) == [answer(9, ["other", b"nobody waits here any more"])]


def test_waiting_receive_is_answered_at_its_time_and_then_forgotten():
    world = World()
    client = Client(world)
    assert client.does(wire.RECEIVE, 1, ["queue"], 2.0) == []
    world.turn(1.9)
    assert client.got() == []
    world.turn(0.1)
    assert client.got() == [answer(1)]
    assert client.does(wire.SEND, 2, "queue", b"x") == [answer(2)]
    assert client.does(wire.RECEIVE, 3, ["queue"], 0) == [answer(3, ["queue", b"x"])]


def test_messages_in_hand_go_back_in_front_in_their_order_when_the_client_dies():
    world = World()
    sender, dying, other = Client(world, capacity=3), Client(world), Client(world)
    for number in range(5):
        if number == 3:
            for request in (1, 2, 3):
                dying.does(wire.RECEIVE, request, ["queue"], 0)
            dying.does(wire.TAKEN, 0, 1)
        sender.does(wire.SEND, 1, "queue", b"%d" % number)
    world.exchange.leave(dying)
    found = [other.does(wire.RECEIVE, 9, ["queue"], 0)[0][3] for _ in range(5)]
    assert found == [["queue", b"1"], ["queue", b"2"], ["queue", b"3"], ["queue", b"4"], None]


def test_cancel_returns_a_message_in_hand_to_who_waits():
    world = World()
    client, other = Client(world), Client(world)
    client.does(wire.SEND, 1, "queue", b"x")
    assert client.does(wire.RECEIVE, 2, ["queue"], 0) == [answer(2, ["queue", b"x"])]
    other.does(wire.RECEIVE, 5, ["queue"], None)
    client.does(wire.CANCEL, 0, 2)
    client.does(wire.CANCEL, 0, 2)
    assert other.got() == [answer(5, ["queue", b"x"])]


def test_cancel_of_a_waiting_receive_leaves_messages_to_others():
    world = World()
    client = Client(world)
    client.does(wire.RECEIVE, 1, ["a", "b"], 5.0)
    assert client.does(wire.CANCEL, 0, 1) == []
    assert client.does(wire.SEND, 2, "a", b"x") == [answer(2)]
    world.turn(5)
    assert client.got() == []
    assert client.does(wire.RECEIVE, 3, ["a"], 0) == [answer(3, ["a", b"x"])]


def test_message_that_expired_in_hand_is_not_put_back():
    world = World()
    client = Client(world, expiry=10.0)
    client.does(wire.SEND, 1, "queue", b"x")
    client.does(wire.RECEIVE, 2, ["queue"], 0)
    world.turn(10)
    client.does(wire.CANCEL, 0, 2)
    assert client.does(wire.RECEIVE, 3, ["queue"], 0) == [answer(3)]
    assert world.exchange.broker.statistics()["expired"] == 1


def test_group_wakes_a_receiver_that_waits_for_a_member_queue():
    world = World()
    client, waiting = Client(world), Client(world)
    client.does(wire.ADD_QUEUE, 1, "group", "queue")
    waiting.does(wire.RECEIVE, 2, ["queue"], None)
    assert client.does(wire.GROUP_SEND, 3, "group", b"x") == [answer(3, 0)]
    assert waiting.got() == [answer(2, ["queue", b"x"])]


def test_dead_client_leaves_nothing_behind():
    world = World()
    client, other = Client(world, "token"), Client(world, "other")
    client.does(wire.OPEN_INBOX, 1)
    client.does(wire.SUBSCRIBE, 2, ["one", "two"])
    client.does(wire.RECEIVE, 3, ["queue"], None)
    assert other.does(wire.CALL_PROCESS, 4, "token", True, "one", "channel") == []
    assert client.got()[-1][0] == wire.CALL
    world.exchange.leave(client)
    assert other.got() == [answer(4)], "who waited for the dead client goes on"
    counts = other.does(wire.STATISTICS, 5)[0][3]
    assert (counts["clients"], counts["subscriptions"], counts["inboxes"], counts["waiting"]) == (1, 0, 0, 0)
    other.does(wire.GROUP_SEND, 6, "one", b"x")
    other.does(wire.SEND, 7, "queue", b"x")
    assert client.got() == []
    assert not world.exchange.is_unused()
    other.does(wire.RECEIVE, 8, ["queue"], 0)
    world.exchange.leave(other)
    assert not world.exchange.is_unused(), "its message went back"


def test_old_connection_of_a_process_that_came_back_takes_nothing_with_it():
    world = World()
    old, new, sender = Client(world, "token"), Client(world, "token"), Client(world)
    old.does(wire.OPEN_INBOX, 1)
    new.does(wire.OPEN_INBOX, 1)
    new.got()
    world.exchange.leave(old)
    sender.does(wire.SEND_TO_PROCESS, 2, "token", "channel", b"x")
    assert new.got() == [[wire.MESSAGE, "channel", b"x"]]


def test_call_is_answered_with_the_error_of_the_process_called():
    world = World()
    client, other = Client(world, "token"), Client(world, "other")
    client.does(wire.OPEN_INBOX, 1)
    other.does(wire.CALL_PROCESS, 4, "token", False, "one", "channel")
    number = client.got()[-1][1]
    client.does(wire.CALLED, 0, number, "no hub")
    assert other.got() == [answer(4, "no hub", wire.ERROR)]


def test_young_hub_holds_what_is_for_a_process_that_is_not_back_yet():
    world = World(grace=1.0)
    sender, returning = Client(world), Client(world, "token")
    assert sender.does(wire.SEND_TO_PROCESS, 1, "token", "channel", b"x") == []
    assert sender.does(wire.CALL_PROCESS, 2, "token", True, "group", "channel") == []
    assert sender.does(wire.SEND_TO_PROCESS, 3, "gone", "channel", b"x") == []
    world.turn(0.5)
    returned = returning.does(wire.OPEN_INBOX, 1)
    assert [frame[0] for frame in returned] == [wire.ANSWER, wire.MESSAGE, wire.CALL]
    assert sender.got() == [answer(1)]
    world.turn(0.5)
    assert sender.got() == [answer(3)]
    assert sender.does(wire.SEND_TO_PROCESS, 4, "gone", "channel", b"x") == [answer(4)]


def test_calls_for_a_process_that_does_not_come_back_in_time_are_left_for_it():
    world = World()
    sender, late = Client(world), Client(world, "token")
    assert sender.does(wire.CALL_PROCESS, 1, "token", True, "group", "channel") == [answer(1)]
    assert sender.does(wire.CALL_PROCESS, 2, "token", False, "group", "channel") == [answer(2)]
    assert sender.does(wire.CALL_PROCESS, 3, "gone", False, "group", "channel") == [answer(3)]
    answered, *calls = late.does(wire.OPEN_INBOX, 1)
    assert answered == answer(1)
    assert [(kind, *rest) for kind, _, *rest in calls] == [
        (wire.CALL, True, "group", "channel"),
        (wire.CALL, False, "group", "channel"),
    ]
    # Whoever asked has been answered.
    late.does(wire.CALLED, 0, calls[0][1], None)
    assert sender.got() == []
    world.exchange.leave(late)
    assert late.does(wire.OPEN_INBOX, 2) == [answer(2)]


def test_calls_are_left_for_a_bounded_number_of_processes():
    world = World()
    sender = Client(world)
    for number in range(MOST_LEFT_FOR + 1):
        sender.does(wire.CALL_PROCESS, number, f"token-{number}", True, "group", "channel")
    for number in range(MOST_LEFT + 1):
        sender.does(wire.CALL_PROCESS, number, "token-1", False, f"group-{number}", "channel")
    assert Client(world, "token-0").does(wire.OPEN_INBOX, 1) == [answer(1)]
    _, *calls = Client(world, "token-1").does(wire.OPEN_INBOX, 1)
    assert [call[3] for call in calls] == [f"group-{number}" for number in range(1, MOST_LEFT + 1)]


def test_sender_goes_at_the_pace_of_the_process_it_sends_to_for_a_while():
    world = World()
    sender, target = Client(world), Client(world, "token")
    target.does(wire.OPEN_INBOX, 1)
    target.congested = True
    assert sender.does(wire.SEND_TO_PROCESS, 1, "token", "channel", b"x") == []
    target.congested = False
    world.exchange.relieve(target)
    assert sender.got() == [answer(1)]
    target.congested = True
    assert sender.does(wire.SEND_TO_PROCESS, 2, "token", "channel", b"x") == []
    world.turn(1.0)
    assert sender.got() == [answer(2)]
    assert sender.does(wire.SEND_TO_PROCESS, 3, "token", "channel", b"x") == []
    world.exchange.leave(target)
    world.turn(1.0)
    assert sender.got() == [answer(3)]
    assert [frame[0] for frame in target.got()] == [wire.MESSAGE] * 3


def test_group_does_not_go_at_the_pace_of_its_slowest_process():
    world = World()
    sender, target = Client(world), Client(world, "token")
    target.does(wire.SUBSCRIBE, 1, ["group"])
    target.congested = True
    assert sender.does(wire.GROUP_SEND, 1, "group", b"x") == [answer(1, 0)]

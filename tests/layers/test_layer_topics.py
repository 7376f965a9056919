"""Topics that a process is subscribed to, kept in step with what it wants."""

import threading

import pytest

from offload.exceptions import LayerUnavailable, OffloadError
from offload.layers.local.topics import SubscribedTopics

PATIENCE = 5.0


class Server:
    """Notes what it is asked, and answers when it is told to; at once unless it `hangs`."""

    def __init__(self):
        self.timeout = PATIENCE
        self.calls = []
        self.wanted = {"g"}
        self.hangs = False
        self.numbers = {}
        self.topics = SubscribedTopics(self, self.wanted.__contains__, "test")

    def subscribe(self, topic, number):
        self.calls.append(f"+{topic}")
        self.numbers[topic] = number
        if not self.hangs:
            self.answer(topic)

    def unsubscribe(self, topic):
        self.calls.append(f"-{topic}")

    def answer(self, topic="g", number=None):
        self.topics.subscribed({topic: self.numbers[topic] if number is None else number})

    def lose(self, topic="g"):
        self.topics.lost({topic: self.numbers[topic]}, "the server went")

    def wants(self, topic="g"):
        """Someone who needs it; what it was told, as soon as it was."""
        told = []
        self.topics.want(topic, told.append)
        return told


@pytest.fixture
def server():
    return Server()


def ensuring(server, topic="g"):
    outcome = []

    def call():
        try:
            outcome.append(server.topics.ensure(topic))
        except OffloadError as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    return thread, outcome


def test_topic_is_subscribed_to_once_and_again_after_it_was_released(server):
    server.topics.ensure("g")
    server.topics.ensure("g")
    assert server.topics.is_in_force("g")
    server.topics.release("g")
    assert server.calls == ["+g"]
    server.wanted.clear()
    server.topics.release("g")
    server.topics.release("g")
    assert not server.topics.is_in_force("g")
    server.wanted.add("g")
    server.topics.ensure("g")
    assert server.calls == ["+g", "-g", "+g"]


def test_all_who_need_a_topic_wait_for_one_subscription(server):
    server.hangs = True
    told = [server.wants() for _ in range(3)]
    thread, outcome = ensuring(server)
    assert told == [[], [], []]
    assert not server.topics.is_in_force("g")
    server.answer()
    thread.join(PATIENCE)
    assert told == [[None], [None], [None]]
    assert outcome == [None]
    assert server.calls == ["+g"]


def test_topic_that_was_released_while_it_was_subscribed_to_is_left_when_it_is_in_force(server):
    server.hangs = True
    told = server.wants()
    server.wanted.clear()
    server.topics.release("g")
    assert server.calls == ["+g"]
    server.answer()
    assert told == [None]
    assert server.calls == ["+g", "-g"]
    assert not server.topics.is_in_force("g")


def test_answer_to_an_earlier_subscription_says_nothing_of_a_later_one(server):
    server.topics.ensure("g")
    earlier = server.numbers["g"]
    server.wanted.clear()
    server.topics.release("g")
    server.wanted.add("g")
    server.hangs = True
    told = server.wants()
    server.answer(number=earlier)
    server.topics.lost({"g": earlier}, "the server went")
    server.topics.failed({"g": earlier}, LayerUnavailable("down"))
    assert told == []
    server.answer()
    assert told == [None]


def test_failure_reaches_all_who_wait_and_is_forgotten(server):
    server.hangs = True
    first, second = server.wants(), server.wants()
    error = LayerUnavailable("down")
    server.topics.failed(server.numbers, error)
    assert first == second == [error]
    server.hangs = False
    server.topics.ensure("g")
    assert server.calls == ["+g", "-g", "+g"]


def test_topic_that_is_lost_is_waited_for_until_it_is_back(server):
    server.topics.ensure("g")
    server.lose()
    told = server.wants()
    assert server.topics.arrives("g")
    assert not server.topics.is_in_force("g")
    server.topics.failed(server.numbers, LayerUnavailable("the server goes on trying"))
    assert told == []
    server.answer()
    assert told == [None]
    assert server.calls == ["+g"]


def test_topic_that_is_lost_is_waited_for_no_longer_than_the_timeout(server):
    server.topics.ensure("g")
    server.lose()
    server.timeout = 0.01
    for _ in range(2):
        with pytest.raises(LayerUnavailable, match=r"^the server went; the subscription was not back within 0\.01 s$"):
            server.topics.ensure("g")
    server.wanted.clear()
    server.topics.release("g")
    server.wanted.add("g")
    server.topics.ensure("g")
    assert server.calls == ["+g", "-g", "+g"]


def test_subscription_that_nobody_answers_is_given_up_and_asked_for_anew(server):
    server.hangs = True
    server.timeout = 0.01
    other = server.wants()
    with pytest.raises(LayerUnavailable) as raised:
        server.topics.ensure("g")
    assert str(raised.value) == "layer 'test' got no answer within 0.01 s; the subscription was given up"
    assert [str(error) for error in other] == [str(raised.value)]
    server.hangs = False
    server.topics.ensure("g")
    assert server.calls == ["+g", "-g", "+g"]


def test_topic_that_is_refused_is_given_up_also_when_it_was_in_force(server):
    server.topics.ensure("g")
    server.lose()
    told = server.wants()
    refusal = LayerUnavailable("not allowed")
    server.topics.failed(server.numbers, refusal, for_good=True)
    assert told == [refusal]
    assert not server.topics.arrives("g")


def test_nobody_waits_after_the_end(server):
    server.topics.ensure("g")
    server.lose()
    told = server.wants()
    closed = LayerUnavailable("closed")
    server.topics.close(closed)
    assert told == [closed]
    assert server.wants() == [closed]


def test_subscription_that_was_interrupted_is_given_up(server):
    def interrupt(topic, number):
        raise KeyboardInterrupt

    answer, server.subscribe = server.subscribe, interrupt
    with pytest.raises(KeyboardInterrupt):
        server.topics.ensure("g")
    assert server.calls == ["-g"]
    server.subscribe = answer
    server.topics.ensure("g")
    assert server.topics.is_in_force("g")

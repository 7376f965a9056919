"""What links are made of: futures that callers wait for, and threads that are started when there is work."""

import queue
import subprocess
import sys
import threading

import pytest

from offload.layers.link.future import Future
from offload.layers.link.link import Link, Note, User
from offload.layers.link.outage import Outage
from offload.layers.link.thread import Duty
from tests.redis_server import until

PATIENCE = 10.0


def test_future_has_its_reply_and_its_error():
    future = Future()
    threading.Timer(0.01, future.resolve, ("reply",)).start()
    assert future.result() == "reply"
    future = Future()
    future.fail(KeyError("why"))
    with pytest.raises(KeyError, match="why"):
        future.result()


def test_reply_that_nobody_waits_for_is_given_away_once():
    given = []
    before, after, late, never = (Future(given.append) for _ in range(4))
    before.leave()
    before.resolve("before")
    after.resolve("after")
    after.leave()
    with pytest.raises(TimeoutError):
        late.result(0)
    late.fail(KeyError())
    late.resolve("late")
    never.fail(KeyError())
    never.lose()
    for future in (before, after, late, never):
        future.leave()
        future.lose()
    assert given == ["before", "after", "late", None]


def test_reply_that_was_had_is_not_given_away():
    given = []
    future = Future(given.append)
    future.resolve(1)
    assert future.result() == 1
    assert given == []


def test_duty_is_done_by_one_thread_as_long_as_there_is_work():
    work, done, threads = [], [], set()

    def run():
        while not duty.may_end(lambda: bool(work)):
            threads.add(threading.current_thread().name)
            done.append(work.pop())

    duty = Duty(run, "offload-test")
    for number in range(100):
        work.append(number)
        duty.ensure()
        if number % 10 == 0:
            until(lambda: not work, "the work to be done")
    until(lambda: sorted(done) == list(range(100)), "all of it")
    assert threads == {"offload-test"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_duty_is_taken_up_anew_after_its_thread_failed():
    failures = iter([SystemExit])
    done = threading.Event()

    def run():
        for failure in failures:
            raise failure
        done.set()

    duty = Duty(run, "offload-test")
    duty.ensure()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "offload-test"], "the thread's end")
    duty.ensure()
    assert done.wait(10)


@pytest.mark.parametrize(
    ("patch", "expected"), [("", "False"), ("from gevent import monkey; monkey.patch_all()", "True")]
)
def test_greenlets_are_found_by_asking_gevent(patch, expected):
    program = f"""
{patch}
import unittest.mock
from offload.layers.link.thread import threads_are_greenlets
with unittest.mock.patch("time.sleep"):
    print(threads_are_greenlets())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, expected, "")


class _Server:
    """Whose first connection is lost with the first words on it."""

    layer, shown, timeout, keepalive, seen = "test", "a test", 10.0, b"keepalive", 0.0

    def __init__(self):
        self.wires = []
        self.opening = lambda: None

    def wire(self, duty):
        self.wires.append(_Wire(self, is_broken=not self.wires))
        return self.wires[-1]


class _Wire:
    def __init__(self, server, is_broken):
        self.server = server
        self.is_broken = is_broken
        self.sent = b""
        self.has_all = threading.Event()
        self.closed = threading.Event()

    def open(self):
        self.server.opening()

    def send(self, data):
        if self.is_broken:
            raise Outage("broken", was_open=True)
        self.sent += data
        if len(self.sent) >= 3:
            self.has_all.set()

    def replies(self, most):
        self.closed.wait(PATIENCE)
        raise Outage("closed", was_open=True)

    def close(self):
        self.closed.set()

    abandon = close


class _User(User):
    def opened(self, wire):
        return [Note(b"0")]

    def came(self, replies, connection): ...


def test_what_was_not_sent_keeps_its_place_when_a_connection_is_lost_at_once():
    server = _Server()
    link = Link(server, "test", _User())
    first, second = (Note(text, optional=False) for text in (b"1", b"2"))

    def submit_second():
        server.opening = lambda: None
        link.submit(second)

    server.opening = submit_second
    link.submit(first)
    until(lambda: len(server.wires) == 2, "another connection")
    assert server.wires[1].has_all.wait(PATIENCE)
    link.close()
    assert server.wires[1].sent == b"012"


def test_link_that_is_closed_while_a_connection_opens_ends_its_callers_by_that():
    server = _Server()
    link = Link(server, "test", _User())

    def close():
        link.close()
        raise AttributeError("of a library whose connection was taken away meanwhile")

    class Call(Note):
        def abort(self, outage, *, sent):
            failed.put(str(outage))

    failed = queue.SimpleQueue()
    server.opening = close
    link.submit(Call(b"1", optional=False))
    assert failed.get(timeout=PATIENCE) == "layer 'test' was closed meanwhile"

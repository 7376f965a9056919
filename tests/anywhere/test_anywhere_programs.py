"""Programs that only send: plain threads, forked children, asyncio, gevent. None of them leaks, or waits for ever."""

from __future__ import annotations

import pytest

from tests.anywhere.places import GROUP, Place, run_program

SENDS = 10_000
CHILDREN, AT_A_TIME = 100, 4


def numbers(messages: list[dict[str, int]]) -> list[int]:
    return sorted(message["number"] for message in messages)


SCRIPT = """
configure(url)
Group("news").send({"number": 0})
assert "gevent" not in sys.modules
tell()
"""


def test_a_script_needs_an_address_and_nothing_else(meeting: Place) -> None:
    with meeting.listener() as listener:
        told = run_program(SCRIPT, meeting.url)
        assert numbers(listener.wait_for(1)) == [0]
    assert told["connects"] == 1


TO_ONE = """
configure(url)
Channel(sys.argv[1]).send({"text": "7"})
Channel(sys.argv[1] + "gone").send({"text": "8"})
Channel("websocket.send.nobody!nobody").send({"text": "9"})
tell()
"""


def test_a_script_reaches_one_reply_channel_and_nobody_else(meeting: Place) -> None:
    with meeting.listener() as other, meeting.listener() as listener:
        run_program(TO_ONE, meeting.url, listener.channel)
        assert listener.wait_for(1) == [{"text": "7"}]
        with meeting.layer() as layer:
            layer.group_send(GROUP, {"text": "10"})
        assert listener.wait_for(2) == [{"text": "7"}, {"text": "10"}]
        assert other.wait_for(1) == [{"text": "10"}]


THREADS = """
import threading

configure(url)
group = Group("news")
group.send({"number": 0})
before = open_now()

def send(number):
    Group("news").send({"number": number})

for first in range(1, 10_000, 50):
    threads = [threading.Thread(target=send, args=(number,)) for number in range(first, min(first + 50, 10_000))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
tell(before=before)
"""


FORKS = """
import threading, traceback

children, at_a_time, each = (int(argument) for argument in sys.argv[1:4])
configure(url)
Group("news").send({"number": 0})
before = open_now()

def child(first):
    status = 1
    try:
        connects.clear()
        for number in range(first, first + each):
            Group("news").send({"number": number})
        status = 0 if len(connects) == 1 else 3
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)

alive = set()

def reap():
    pid, status = os.wait()
    assert status == 0, f"child {pid} ended with {status}"
    alive.remove(pid)

first = 1
for _ in range(children):
    if len(alive) == at_a_time:
        reap()
    pid = os.fork()
    if not pid:
        child(first)
    alive.add(pid)
    # The parent's own connection is not the children's to use.
    Group("news").send({"number": first + each})
    first += each + 1
while alive:
    reap()
tell(before=before, sent=first)
"""


def test_ten_thousand_sends_from_forked_children_take_one_connection_each(meeting: Place) -> None:
    each = SENDS // CHILDREN - 1
    with meeting.listener() as listener, meeting.peak() as most:
        before = most[0]
        # A fork of a process with threads is warned about by Python 3.12; the ipc layer has one.
        text = "import warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n" + FORKS
        told = run_program(text, meeting.url, str(CHILDREN), str(AT_A_TIME), str(each))
        assert numbers(listener.wait_for(told["sent"])) == list(range(told["sent"]))
        assert told["sent"] >= SENDS
    assert told["connects"] == 1
    assert {key: told[key] for key in told["before"]} == told["before"]
    # A child that has ended may be counted until its end is read.
    assert most[0] <= before + 2 + 2 * AT_A_TIME


BUSY_FORKS = """
import threading, traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)

configure(url)
Group("chatter").send({"number": -1})
stop = threading.Event()
sent = [0] * 4

def chatter(place):
    while not stop.is_set():
        Group("chatter").send({"number": sent[place]})
        sent[place] += 1

threads = [threading.Thread(target=chatter, args=(place,)) for place in range(4)]
for thread in threads:
    thread.start()
for number in range(100):
    pid = os.fork()
    if not pid:
        status = 1
        try:
            Group("news").send({"number": number})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
tell(sent=sum(sent))
"""


def test_children_forked_while_threads_send_are_not_held_up(meeting: Place) -> None:
    with meeting.listener() as listener, meeting.listener("chatter") as chatter:
        told = run_program(BUSY_FORKS, meeting.url)
        assert numbers(listener.wait_for(100)) == list(range(100))
        # Not one of the parent's was lost, or said twice, by a child that has its connection, too.
        chatter.wait_for(told["sent"] + 1)
    assert told["connects"] == 1


FORK_WHILE_BUILDING = """
import threading, traceback, warnings
from offload.layers.addresses.urls import layer_from_url
warnings.simplefilter("ignore", DeprecationWarning)

begun, go_on = threading.Event(), threading.Event()
parent = os.getpid()

def build():
    if os.getpid() == parent:
        begun.set()
        go_on.wait()
    return layer_from_url(url)

configure(build)
thread = threading.Thread(target=Group("news").send, args=({"number": 0},))
thread.start()
begun.wait()
pid = os.fork()
if not pid:
    status = 1
    try:
        Group("news").send({"number": 1})
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
assert os.waitpid(pid, 0)[1] == 0
go_on.set()
thread.join()
tell()
"""


def test_a_child_forked_while_a_thread_makes_the_layer_makes_its_own(meeting: Place) -> None:
    with meeting.listener() as listener:
        told = run_program(FORK_WHILE_BUILDING, meeting.url)
        assert numbers(listener.wait_for(2)) == [0, 1]
    assert told["connects"] == 1


ASYNCIO = """
import asyncio

configure(url)

async def send(number):
    await asyncio.to_thread(Group("news").send, {"number": number})

async def main(first, end):
    await asyncio.gather(*(send(number) for number in range(first, end)))

asyncio.run(main(0, 100), debug=False)
before = open_now()
# Every run has its own loop, and threads of its own.
for first in range(100, 10_000, 900):
    asyncio.run(main(first, min(first + 900, 10_000)), debug=False)
tell(before=before)
"""


@pytest.mark.parametrize("program", [THREADS, ASYNCIO], ids=["short-lived threads", "asyncio"])
def test_ten_thousand_sends_share_one_connection(meeting: Place, program: str) -> None:
    with meeting.listener() as listener, meeting.peak() as most:
        before = most[0]
        told = run_program(program, meeting.url)
        assert numbers(listener.wait_for(SENDS)) == list(range(SENDS))
    assert told["connects"] == 1
    assert {key: told[key] for key in told["before"]} == told["before"]
    # One of the program's, and the listener's second, which may have come since.
    assert most[0] <= before + 2


ASYNCIO_DIRECT = """
import asyncio

configure(url)

async def send(number):
    Group("news").send({"number": number})  # waits a moment, and the loop with it

async def main():
    for number in range(200):
        await asyncio.create_task(send(number))

asyncio.run(main(), debug=False)
asyncio.run(main(), debug=False)
tell()
"""


def test_a_coroutine_may_send_without_a_thread(meeting: Place) -> None:
    with meeting.listener() as listener:
        told = run_program(ASYNCIO_DIRECT, meeting.url)
        listener.wait_for(400)
    assert told["connects"] == 1


GEVENT = """
from gevent import monkey
monkey.patch_all()
import gevent, gevent.pool

configure(url)
Group("news").send({"number": 0})
before = open_now()
pool = gevent.pool.Pool(200)
for number in range(1, 10_000):
    pool.spawn(Group("news").send, {"number": number})
pool.join(raise_error=True)
tell(before=before)
"""


def test_ten_thousand_greenlets_share_one_connection(meeting: Place) -> None:
    with meeting.listener() as listener, meeting.peak() as most:
        before = most[0]
        told = run_program(GEVENT, meeting.url, strict=False)
        assert numbers(listener.wait_for(SENDS)) == list(range(SENDS))
    # One of the program's, and the listener's second, which may have come since.
    assert most[0] <= before + 2
    assert {key: told[key] for key in told["before"]} == told["before"]


POOLS = """
import concurrent.futures, multiprocessing

configure(url)
sys.path.insert(0, sys.argv[1])
import job

Group("news").send({"number": 0})
numbers = iter(range(1, 10_000))
for method in ("fork", "spawn", "forkserver"):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        list(pool.map(job.send, [(url, next(numbers)) for _ in range(50)]))
tell()
"""
JOB = """
import offload

def send(task):
    url, number = task
    if not offload.consumers.configuration.is_configured():
        offload.configure(url)
    offload.Group("news").send({"number": number})
"""


def test_process_pools_of_every_start_method_send(meeting: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("job")
    (directory / "job.py").write_text(JOB)
    with meeting.listener() as listener:
        before = meeting.connections()
        told = run_program(POOLS, meeting.url, str(directory), strict=False)
        assert numbers(listener.wait_for(151)) == list(range(151))
        assert told["connects"] == 1
    assert meeting.connections() <= before


AGAIN = """
configure(url)
Group("news").send({"number": 0})
before = open_now()
for number in range(1, 300):
    configure(url)
    Group("news").send({"number": number})
# The last connection but one ends beside this thread.
deadline = time.monotonic() + 10
while open_now() != before and time.monotonic() < deadline:
    threading.Event().wait(0.01)
tell(before=before)
"""


def test_configuring_again_gives_the_earlier_connection_back(meeting: Place) -> None:
    with meeting.listener() as listener, meeting.peak() as most:
        before = most[0]
        told = run_program(AGAIN, meeting.url)
        assert numbers(listener.wait_for(300)) == list(range(300))
    assert {key: told[key] for key in told["before"]} == told["before"]
    assert most[0] <= before + 5


DROPPED = """
import gc
from offload.layers.addresses.urls import layer_from_url

layer = layer_from_url(url)
layer.send("news.queue", {"number": 0})
layer.close()
before = open_now()
for number in range(100):
    layer = layer_from_url(url)
    layer.group_send("news", {"number": number})
    if number % 2:
        layer.close()
    del layer
    gc.collect()
tell(before=before)
"""


def test_a_layer_that_is_closed_or_dropped_leaves_nothing_open(meeting: Place) -> None:
    with meeting.listener() as listener:
        told = run_program("import warnings\nwarnings.simplefilter('ignore', ResourceWarning)\n" + DROPPED, meeting.url)
        listener.wait_for(100)
    assert told["descriptors"] <= told["before"]["descriptors"]
    assert told["threads"] <= told["before"]["threads"] + 1


SERVICE = """
import time
from offload.consumers.configuration import layer_for

configure(url)
layer = layer_for()
mine = layer.new_channel("script")
Group("service").add(mine)
Group("service").send({"number": 1})
assert layer.receive([mine], timeout=20) == (mine, {"number": 1})
began = time.monotonic()
tell()
"""


def test_a_program_that_listens_ends_when_it_is_done(meeting: Place) -> None:
    run_program(SERVICE, meeting.url)
    with meeting.layer() as layer:
        layer.group_send("service", {"number": 2})

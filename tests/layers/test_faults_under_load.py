"""Servers that die under load, by real signals, and what their clients see of it: all that is lost is counted.

The chat goes on by itself. ``OFFLOAD_TEST_FULL=1`` freezes Redis for ten seconds with the layer's own time limit of
five; otherwise it is three seconds with a limit of one. ``pytest -rP`` shows the figures.
"""

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from offload.layers.ipc import IPCLayer
from tests.layers.talkers import APP, Crowd, Talker
from tests.redis_server import RedisCluster, SentinelSet, running_redis, stand_still, until
from tests.serving import DEADLINE, ROOT, serving

logger = logging.getLogger("offload.layer.tests")

FULL = os.environ.get("OFFLOAD_TEST_FULL") == "1"
FROZEN, TIMEOUT = (10.0, 5.0) if FULL else (3.0, 1.0)
RETURN = 2.0
"""Seconds within which delivery must go on by itself."""


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO, "offload.layer.tests")


@contextlib.contextmanager
def chat(directory, url):
    """Two server processes with a crowd."""
    (directory / "talk.py").write_text(APP)
    with (
        serving("talk", "--layer", url, workers=2, cwd=directory, env={"PYTHONPATH": str(ROOT)}) as server,
        Crowd(server) as crowd,
    ):
        crowd.wait_until_all_hear_all(time.monotonic())
        yield server, crowd


def weather(server, crowd, stalls, fault, returned, *, bound=3 * TIMEOUT, told=True):
    """Have a fault, and see that everybody lives through it.

    Args:
        stalls: of the machine, which are added to the limits.
        fault: makes it.
        returned: waits until what failed is back.
        bound: seconds that a send may take at most.
        told: whether some sends must have raised.
    """
    start = time.monotonic()
    fault()
    returned()
    before = stalls.seconds
    back = time.monotonic()
    resumed = crowd.wait_until_all_hear_all(back)
    # Some time of calm, in which nothing may be lost any more.
    calm = time.monotonic()
    crowd.wait_until(
        lambda: all(sum(began > calm for began in list(talker.said.values())) > 20 for talker in crowd.talkers),
        "the talk to go on",
    )
    crowd.finish()
    pids = set(server.pids)
    bound += stalls.seconds
    figures = f"{figures_of(crowd, start, back, resumed)}, machine stood still for {stalls.seconds:.2f} s"
    assert resumed - back < RETURN + stalls.seconds - before, figures
    assert [talker.closed for talker in crowd.talkers] == [None] * len(crowd.talkers), "sockets stay open"
    assert len(pids) == 2, "no process dies"
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not told or any(talker.failed for talker in crowd.talkers), "senders are told"
    assert max(talker.longest for talker in crowd.talkers) < bound, figures
    assert not [word for talker in crowd.talkers for word in talker.twice], "nothing comes twice"
    # What was lost lies in the time of the fault, none before it and none after the talk went on.
    missed = crowd.missed()
    wrong = {word: began - resumed for word, began in missed.items() if not start - bound < began <= resumed}
    assert not wrong, f"{figures}; lost outside the fault: {wrong}\n{server.log}"
    # What raised was counted, by the process that raised it; what was missed is within what all of them count.
    counted = 0
    for talkers in crowd.by_process().values():
        raised = sum(len(talker.failed) for talker in talkers)
        lost = max(talker.counts["lost"] for talker in talkers)
        assert lost >= raised, figures
        counted += lost
    assert len(missed) <= counted, figures
    assert "Traceback" not in server.log
    logger.info("%s", figures)


def figures_of(crowd, start, back, resumed):
    said = sum(len(talker.said) for talker in crowd.talkers)
    failed = sum(len(talker.failed) for talker in crowd.talkers)
    longest = max(talker.longest for talker in crowd.talkers)
    return (
        f"{len(crowd.talkers)} talkers, {said} said, {failed} raised, {len(crowd.missed())} missed by somebody,"
        f" longest send {longest:.2f} s, away for {back - start:.2f} s, all heard all {resumed - back:.2f} s later"
    )


def resilient(url):
    """With the time limit of these tests."""
    return f"{url}{'&' if '?' in url else '?'}timeout={TIMEOUT:g}"


# Redis


@pytest.mark.chaos("R4: sockets outlive Redis, delivery resumes by itself, losses are counted")
def test_redis_is_killed_and_restarted(tmp_path, stalls):
    with running_redis(tmp_path / "redis") as redis, chat(tmp_path, resilient(redis.url)) as (server, crowd):

        def start_again():
            crowd.wait_until(lambda: all(talker.failed for talker in crowd.talkers), "everybody to be told")
            redis.start()

        weather(server, crowd, stalls, redis.kill, start_again)
        assert re.search(r"messages for \d+ subscriptions are missed until it is back", server.log)
        assert len(re.findall(r"is back at \S+ after [\d.]+ s, with 2 subscriptions", server.log)) == 2


@pytest.mark.chaos("R4: sockets outlive Redis, delivery resumes by itself, losses are counted")
def test_redis_is_frozen(tmp_path, stalls):
    with running_redis(tmp_path / "redis") as redis, chat(tmp_path, resilient(redis.url)) as (server, crowd):

        def stay_away():
            threading.Event().wait(FROZEN)
            redis.thaw()

        weather(server, crowd, stalls, redis.freeze, stay_away)
        assert f"got no answer from {redis.url} within {TIMEOUT:g} s" in server.log


@pytest.mark.chaos("R4: sockets outlive Redis, delivery resumes by itself, losses are counted")
def test_sentinel_names_another_master(tmp_path, stalls):
    home = tmp_path / "redis"
    home.mkdir()
    redis = SentinelSet(home)
    try:
        with chat(tmp_path, resilient(redis.url)) as (server, crowd):
            first, second = redis.servers
            weather(
                server,
                crowd,
                stalls,
                first.kill,
                lambda: until(second.is_master, "another master", 60),
            )
    finally:
        redis.kill()


@pytest.mark.chaos("R4: sockets outlive Redis, delivery resumes by itself, losses are counted")
def test_cluster_loses_the_node_of_the_group(tmp_path, stalls):
    home = tmp_path / "redis"
    home.mkdir()
    redis = RedisCluster(home, replicas=1)
    try:
        with chat(tmp_path, resilient(redis.url)) as (server, crowd):
            owner = redis.owner("group:room")
            weather(
                server,
                crowd,
                stalls,
                owner.kill,
                lambda: until(lambda: redis.owner("group:room") is not owner, "another master", 60),
            )
    finally:
        redis.kill()


# The hub


def hub_of(server):
    """The process of a server's hub, and its socket."""
    supervisor = server.process.pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    (hub,) = {int(pid) for pid in children} - set(server.pids)
    (path,) = Path(server.environ["OFFLOAD_RUNTIME_DIR"]).glob("*.sock")
    return hub, path


def listens(path):
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.mark.chaos("R5: sockets outlive the hub, delivery resumes by itself, losses are counted")
def test_hub_is_killed(tmp_path, stalls):
    with chat(tmp_path, resilient("ipc:")) as (server, crowd):
        hub, path = hub_of(server)
        weather(
            server,
            crowd,
            stalls,
            lambda: os.kill(hub, signal.SIGKILL),
            lambda: until(lambda: listens(path), "another hub"),
            told=False,  # those who said nothing at that moment wait for the next hub
        )
        # Nothing that the group got is lost: the next hub waits until both processes are back.
        assert crowd.missed() == {}
        assert re.search(rf"the hub process {hub} was killed by SIGKILL; starting another", server.log)
        assert len(re.findall(r"has its hub at \S+ again; groups restored: 1", server.log)) == 2


@pytest.mark.chaos("R5: sockets outlive the hub, delivery resumes by itself, losses are counted")
def test_hub_is_killed_and_stays_away_for_a_while(tmp_path, stalls):
    with chat(tmp_path, resilient("ipc:")) as (server, crowd):
        hub, path = hub_of(server)

        def kill():
            stand_still(server.process.pid)  # so that nobody starts another
            os.kill(hub, signal.SIGKILL)

        def start_another():
            crowd.wait_until(lambda: all(talker.failed for talker in crowd.talkers), "everybody to be told")
            server.signal(signal.SIGCONT)
            until(lambda: listens(path), "another hub")

        weather(server, crowd, stalls, kill, start_another)


# A server process


@pytest.mark.parametrize("kind", ["redis", "ipc"])
@pytest.mark.chaos("R3: a killed process is replaced, others' connections are untouched")
def test_server_process_is_killed(tmp_path, stalls, kind):
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(running_redis(tmp_path / "redis")) if kind == "redis" else None
        url = "ipc:" if redis is None else redis.url
        server, crowd = stack.enter_context(chat(tmp_path, url))
        victim, survivor = server.pids
        gone, others = (crowd.by_process()[pid] for pid in (victim, survivor))
        start = time.monotonic()
        importing = stack.enter_context(begin_import(start))
        os.kill(victim, signal.SIGKILL)
        server.wait_for(r"server process \d+ is ready", times=3)
        replaced = time.monotonic() - start
        stalled = stalls.seconds
        imported = float(importing.communicate(timeout=DEADLINE)[0])
        crowd.wait_until(lambda: all(talker.closed is not None for talker in gone), "the dead process's sockets to end")
        # Its members are in no group any more: the process that lives is the only one that is subscribed.
        if redis is not None:
            assert redis.run("PUBSUB", "NUMSUB", "group:room") == [b"group:room", 1]
            assert redis.run("PUBSUB", "NUMSUB", *(f"inbox:{_process(talker)}" for talker in gone[:1]))[1] == 0
        else:
            with contextlib.closing(IPCLayer(str(hub_of(server)[1]))) as layer:
                counts = layer.hub_statistics()
            assert counts["subscriptions"] == 1, counts
        # Who sends to one of them harms nobody.
        told = subprocess.run(
            [sys.executable, "-m", "offload", "send", "--layer", url, gone[0].channel, '{"text": "nobody is there"}'],
            cwd=tmp_path,
            env=server.environ,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert (told.returncode, told.stderr) == (0, "")
        # New clients get the room, on the new process too, and the others have noticed nothing.
        crowd.talkers += [Talker(server, "late-1"), Talker(server, "late-2")]
        crowd.wait_until_all_hear_all(time.monotonic())
        crowd.finish()
        assert all(talker.closed is None and not talker.failed and not talker.twice for talker in others)
        crowd.talkers = others
        assert crowd.missed() == {}, "nothing is lost between those who live"
        assert "Traceback" not in server.log
        # Beside its imports it is noticed, starts, finds its layer and says that it is ready.
        assert replaced < max(1.0, 3 * imported) + stalled, server.log
        logger.info("replaced after %.2f s, machine stood still for %.2f s", replaced, stalled)


def _process(talker):
    return talker.channel.partition("!")[0].rpartition(".")[2]


def begin_import(start):
    """A process that pays beside the new one what any pays for its imports, and prints how many seconds it took; under
    a second on a machine that has time."""
    program = (
        "import sys, time, offload.server.process, offload.layers.redis\n"
        "print(time.monotonic() - float(sys.argv[1]))"
    )  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", program, str(start)], cwd=ROOT, stdout=subprocess.PIPE, text=True)

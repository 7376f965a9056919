"""What applications register by `atexit`: telemetry, metrics and queues that are sent out at the end of a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.server.children import wait_gone
from tests.serving import DEADLINE, ROOT, Server, serving

APP = """
import atexit, os, sys, threading

def say(text):
    print(text, file=sys.stderr, flush=True)

def flush():
    # By a thread of its own that it waits for, as exporters do.
    sender = threading.Thread(target=say, args=[f"flushed by {os.getpid()}"])
    sender.start()
    sender.join()

def fail():
    raise ValueError("nothing to flush")

atexit.register(flush)
atexit.register(fail)

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []

def task(message): ...

from offload import route
channel_routing = [route("task", task)]
"""
HANGING_APP = (
    APP
    + """
atexit.register(lambda: open("never").close())
"""
)
PARENT = """
import atexit, os, sys
atexit.register(lambda: print(f"the parent's, in {os.getpid()}", file=sys.stderr, flush=True))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    os.mkfifo(tmp_path / "never")
    return tmp_path


def running(project: Path, *arguments: str) -> AbstractContextManager[Server]:
    return serving(*arguments, cwd=project, env={"PYTHONPATH": f"{project}:{ROOT}"})


def test_handlers_of_a_server_process_run_at_a_reload_and_at_a_stop(project: Path) -> None:
    with running(project, "shop", "--layer", "memory://") as server:
        (first,) = server.pids
        server.signal(signal.SIGHUP)
        server.wait_for(f"flushed by {first}")
        server.wait_for(f"server process {first} was replaced and ended with status 0")
        second = server.pids[1]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert re.findall(r"flushed by (\d+)", server.log) == [str(first), str(second)]
        assert len(re.findall(r"\[ERROR\] Exception ignored in atexit callback.*: ValueError", server.log)) == 2
        assert server.log.count('    raise ValueError("nothing to flush")\n') == 2


def test_handlers_of_a_worker_run_and_the_hub_has_none(project: Path) -> None:
    # What the supervisor itself has registered is run once, by itself.
    (project / "sitecustomize.py").write_text(PARENT)
    with running(project, "worker", "shop") as worker:
        (pid,) = worker.pids
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert re.findall(r"flushed by (\d+)", worker.log) == [str(pid)]
        assert re.findall(r"the parent's, in (\d+)", worker.log) == [str(worker.process.pid)]


def test_handlers_run_also_where_the_start_fails(project: Path) -> None:
    (project / "shop.py").write_text(APP + "\nraise ImportError('no shop today')\n")
    result = start_in_vain(project)
    assert "offload: error: importing 'shop' failed: ImportError: no shop today\n" in result.stderr
    assert "flushed by" in result.stderr


def test_a_handler_that_hangs_holds_up_the_news_of_a_failed_start_no_longer_than_the_kill_timeout(
    project: Path,
) -> None:
    (project / "shop.py").write_text(HANGING_APP + "\nraise ImportError('no shop today')\n")
    result = start_in_vain(project, "--kill-timeout", "2")
    assert "still runs 2 s past its time (--kill-timeout); it is killed" in result.stderr
    assert "offload: error: importing 'shop' failed: ImportError: no shop today\n" in result.stderr


def start_in_vain(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "offload", "shop", "--layer", "memory://", "-b", "127.0.0.1:0", *arguments],
        cwd=project, env={**os.environ, "PYTHONPATH": f"{project}:{ROOT}"}, capture_output=True, text=True,
        timeout=DEADLINE,
    )  # fmt: skip
    assert result.returncode == 3
    return result


@pytest.mark.parametrize("command", [[], ["worker"]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_handler_that_hangs_is_killed_with_its_process(project: Path, command: list[str], number: int) -> None:
    (project / "shop.py").write_text(HANGING_APP)
    with running(project, *command, "shop", "--graceful-timeout", "0", "--kill-timeout", "2") as server:
        (pid,) = server.pids
        began = time.monotonic()
        server.signal(number)
        server.wait_for(rf"{pid} still runs 2 s past its time \(--kill-timeout\); it is killed")
        wait_gone(pid)
        assert 2 <= time.monotonic() - began < DEADLINE
        if number == signal.SIGTERM:
            assert server.wait() == 0


def test_an_orphan_whose_handler_hangs_ends_by_itself(project: Path) -> None:
    (project / "shop.py").write_text(HANGING_APP)
    arguments = ("--layer", "memory://", "--graceful-timeout", "0", "--kill-timeout", "2")
    with running(project, "shop", *arguments) as server:
        (pid,) = server.pids
        server.signal(signal.SIGKILL)
        wait_gone(pid)
        server.wait()
        # It says where it was.
        assert re.search(r'Timeout \(0:00:07\)!\n(.*\n)+  File ".*/shop.py", line \d+ in <lambda>', server.log)

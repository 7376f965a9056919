"""Processes that give way to others: after their time, at a reload, and when a replacement is slow or dies."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path

import pytest

from tests.server.children import HANGING_IMPORT, start, wait_gone
from tests.serving import DEADLINE, Server

APP = """
import os

kept = []

def application(environ, start_response):
    if environ["PATH_INFO"] == "/large":
        kept.append(b"x" * 100_000_000)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


def get(server: Server, path: str = "/") -> int:
    with urllib.request.urlopen(server.url(path), timeout=DEADLINE) as answer:
        return int(answer.read())


def test_max_requests_replaces_a_process_and_answers_every_request(project: Path) -> None:
    server = start(project, "--max-requests", "20", "--max-requests-jitter", "5")
    try:
        (old,) = server.pids
        served = [get(server) for _ in range(20)]
        while server.pids == [old]:
            served.append(get(server))
        pattern = (
            rf"server process {old} gives way to another: it has served (\d+) requests and messages \(--max-requests"
        )
        assert int(server.wait_for(pattern)[1]) >= 20
        server.wait_for(f"server process {old} was replaced and ended with status 0")
        assert get(server) != old
        assert set(served) <= set(server.pids)
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--max-lifetime", "0.5"), r"it has run for \d s \(--max-lifetime\)"),
        (("--max-rss", "120000000"), r"it holds \d+ bytes of memory \(--max-rss\)"),
    ],
)
def test_a_process_past_its_lifetime_or_memory_is_replaced(project: Path, arguments: tuple[str, str], why: str) -> None:
    server = start(project, *arguments)
    try:
        old = get(server, "/large")
        server.wait_for(f"server process {old} gives way to another: {why}")
        server.wait_for(f"server process {old} was replaced and ended with status 0")
        get(server)
    finally:
        assert server.stop() == 0


def test_a_replacement_that_fails_leaves_the_old_process_serving_and_is_tried_again(project: Path) -> None:
    server = start(project, "--max-requests", "1")
    try:
        (project / "shop.py").write_text("raise RuntimeError('no')")
        old = get(server)
        server.wait_for(r"not replaced, the old server processes go on: \d+ importing 'shop' failed: RuntimeError: no")
        assert get(server) == old
        (project / "shop.py").write_text(APP)
        server.wait_for(f"server process {old} gives way to another: trying again")
        server.wait_for(f"server process {old} was replaced and ended with status 0")
    finally:
        assert server.stop() == 0


@pytest.mark.chaos("R2: a reload of broken code leaves the old processes serving")
@pytest.mark.parametrize("arguments", [(), ("--preload",)], ids=" ".join)
def test_a_reload_whose_import_hangs_is_given_up_after_the_boot_timeout(
    project: Path, arguments: tuple[str, ...]
) -> None:
    os.mkfifo(project / "importing")
    # Longer than offload itself takes to be imported on a busy machine.
    server = start(project, "--boot-timeout", "6", *arguments)
    try:
        (old,) = server.pids
        (project / "shop.py").write_text(HANGING_IMPORT)
        server.signal(signal.SIGHUP)
        stuck = int((project / "importing").read_text())
        server.wait_for(
            rf"not reloaded, the old server processes go on: {stuck} was not ready after 6 s \(--boot-timeout\); "
            "it is killed"
        )
        wait_gone(stuck)
        assert get(server) == old
    finally:
        assert server.stop() == 0


WAITING = """
import os

with open("importing", "w") as fifo:
    fifo.write(f"{os.getpid()}\\n")
os.read(os.open("go", os.O_RDONLY), 1)
"""


def test_a_reload_replaces_as_many_processes_at_a_time_as_it_may(project: Path) -> None:
    for name in ("importing", "go"):
        os.mkfifo(project / name)
    importing, go = (os.open(project / name, os.O_RDWR) for name in ("importing", "go"))
    server = start(project, "--reload-parallel", "2", workers=3)
    try:
        old = server.pids
        (project / "shop.py").write_text(WAITING + APP)
        server.signal(signal.SIGHUP)
        told = b""
        while told.count(b"\n") < 2:
            told += os.read(importing, 100)
        # Both are on their way, and a third one is not.
        assert len(server.pids) == 3
        os.write(go, b"xxx")
        for pid in old:
            server.wait_for(f"server process {pid} was replaced and ended with status 0")
    finally:
        assert server.stop() == 0
        os.close(importing)
        os.close(go)


def test_a_spare_takes_a_dead_processes_place_at_once_and_another_stands_by(project: Path) -> None:
    (project / "shop.py").write_text(f"{APP}\nprint(os.getpid(), file=open('imports', 'a'))\n")
    server = start(project, "--spare", "1")
    try:
        (old,) = server.pids
        spare = int(server.wait_for(r"spare server process (\d+) is ready")[1])
        os.kill(old, signal.SIGKILL)
        server.wait_for(f"server process {spare} was a spare, and takes the place")
        server.wait_for(f"] server process {spare} is ready")
        assert get(server) == spare
        second = int(server.wait_for(r"spare server process (\d+) is ready", times=2)[1])
        # A spare has the code of its start, so a reload takes another.
        server.signal(signal.SIGHUP)
        server.wait_for(f"server process {spare} was replaced and ended with status 0")
        wait_gone(second)
        third = int(server.wait_for(r"spare server process (\d+) is ready", times=3)[1])
        # One that dies is replaced, too.
        os.kill(third, signal.SIGKILL)
        server.wait_for(rf"spare server process {third} was killed by SIGKILL")
        server.wait_for(r"spare server process (\d+) is ready", times=4)
        assert get(server) not in (old, spare, second, third)
        assert len(set((project / "imports").read_text().split())) == 6
    finally:
        assert server.stop() == 0, server.log
